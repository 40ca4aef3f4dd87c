"""Training on two gloo ranks: equal to one rank in two parts, exact resume, an orderly stop, and a rank that dies or hangs."""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from ddgan_fast.checkpoint.folder import newest_checkpoint
from ddgan_fast.errors import InputError
from ddgan_fast.training.run import continued

SCRIPT = Path(__file__).parent / "two_ranks.py"
_spec = importlib.util.spec_from_file_location("two_ranks", SCRIPT)
two_ranks = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(two_ranks)


def start_ranks(*words):
    """Two processes of `python *words`, as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen([sys.executable, *map(str, words)], env=common | {"RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]


def torchrun(*words, **options):
    """`ddgan *words` on two ranks."""
    command = [sys.executable, "-m", "torch.distributed.run", *["--standalone"] * options.get("standalone", True), "--nproc-per-node", "2"]
    command += options.get("extra", ())
    command += ["-m", "ddgan_fast.cli", *map(str, words)]
    return subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True)


def test_two_ranks_equal_one_in_two_parts(tmp_path):
    """Float64, 5 steps, R1 in three of them: weights to 1e-6 (they are bitwise equal here: a sum of two has one order)."""
    ranks = start_ranks(SCRIPT, "equal", tmp_path)
    for process in ranks:
        assert process.wait(120) == 0, process.stderr.read()
    first, second = (torch.load(tmp_path / f"weights-{rank}.pt") for rank in range(2))
    assert torch.equal(first, second)
    state, trainer = two_ranks.train(two_ranks.settings(accumulate=2))
    alone = two_ranks.weights(state)
    assert (first - alone).abs().max() <= 1e-6 * alone.abs().max()
    unlike = two_ranks.weights(two_ranks.train(two_ranks.settings())[0])  # minibatch stddev over one part of 16
    assert (unlike - alone).abs().max() > 1e-6 * alone.abs().max()

    found = [json.loads((tmp_path / f"found-{rank}.json").read_text()) for rank in range(2)]
    assert found[0] == found[1]
    here = trainer.metrics()
    for name, value in found[0]["metrics"].items():
        assert value == (None if value is None else pytest.approx(here[name], rel=1e-9)), name
    counts = [sum(p.numel() for p in network.parameters()) for network in (state.discriminator, state.generator)]
    assert found[0]["sent"] == 5 * [counts[0] + 3 + 2 * 4, counts[1] + 2]  # one sum a network and step: gradients and a few numbers


def test_bytes_between_ranks_of_the_cifar10_networks():
    """One float32 gradient of each network a step, as the test above counts them."""
    from ddgan_fast.config import preset
    from ddgan_fast.models import build_discriminator, build_generator

    model = preset("cifar10").model
    with torch.device("meta"):
        count = sum(p.numel() for build in (build_generator, build_discriminator) for p in build(model).parameters())
    assert 4 * (count + 3 + 2 * 4 + 2) <= 250e6


@pytest.mark.parametrize("case", ["dies", "breaks", "hangs"])
def test_the_others_end_with_the_number_of_a_lost_rank(tmp_path, case):
    ranks = start_ranks(SCRIPT, case, tmp_path)
    begin = time.monotonic()
    errors = ranks[0].communicate(timeout=60)[1]
    assert ranks[0].returncode == 1 and "rank 1 of 2 died or hangs" in errors and "--resume" in errors, errors
    assert time.monotonic() - begin < 50
    if case != "breaks":
        ranks[1].kill()
    errors = ranks[1].communicate(timeout=60)[1]
    assert ("RuntimeError: inconsistent tensor size" in errors) == (case == "breaks") and "died" not in errors


def test_two_ranks_resume_exactly_and_one_may_not(tmp_path, same_checkpoint):
    words = "train", "--preset", "tiny", "--out"
    assert torchrun(*words, tmp_path / "whole").wait(120) == 0
    assert torchrun(*words, tmp_path / "half", "--iterations", 4, "--no-lr-decay").wait(120) == 0
    config = two_ranks.override(two_ranks.preset("tiny"), {"lr_decay": False})
    with pytest.raises(InputError, match="ranks: 2 -> 1.*--allow-inexact"):
        continued(tmp_path / "half", config)
    assert continued(tmp_path / "half", config, allow_inexact=True).step == 4
    # tiny has one epoch, in which the rate does not change
    assert torchrun("train", "--out", tmp_path / "half", "--resume", "--iterations", 8).wait(120) == 0
    same_checkpoint(*(newest_checkpoint(tmp_path / name / "checkpoints") for name in ("whole", "half")))
    assert len((tmp_path / "half/metrics.jsonl").read_text().splitlines()) == 4


def wait_for_checkpoint(out, process):
    deadline = time.monotonic() + 90
    while not list((out / "checkpoints").glob("checkpoint-*")):
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()[1]
        time.sleep(0.05)


def kill_worker(agent):
    """SIGKILL to the last rank that a torchrun has started."""
    children = Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()
    workers = [pid for pid in children if b"ddgan_fast.cli" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(int(workers[-1]), signal.SIGKILL)


LONG = "train", "--preset", "tiny", "--iterations", "60", "--checkpoint-every", "10", "--sample-every", "1000", "--out"


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_killed_rank_is_started_again_and_the_run_goes_on(tmp_path, ranks):
    """torchrun --max-restarts: the same command, which then resumes by itself."""
    out = tmp_path / "run"
    run = torchrun(*LONG, out, extra=("--max-restarts", "1", "--nproc-per-node", str(ranks)))
    wait_for_checkpoint(out, run)
    kill_worker(run)
    errors = run.communicate(timeout=120)[1]
    assert run.returncode == 0, errors
    assert "resumed from checkpoint-" in errors
    assert newest_checkpoint(out / "checkpoints").name == "checkpoint-00000060"


@pytest.mark.slow
def test_two_nodes_start_again_together(tmp_path):
    """The node that lost a rank counts a restart, the other does not."""
    out = tmp_path / "run"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = f"127.0.0.1:{free.getsockname()[1]}"
    extra = ["--nnodes", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", meeting, "--max-restarts", "1", "--nproc-per-node", "1"]
    nodes = [torchrun(*LONG, out, extra=extra, standalone=False) for _ in range(2)]
    wait_for_checkpoint(out, nodes[0])
    kill_worker(nodes[1])
    texts = [node.communicate(timeout=200)[1] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], texts
    assert newest_checkpoint(out / "checkpoints").name == "checkpoint-00000060"


@pytest.mark.slow
def test_a_restart_goes_on_with_its_own_run_alone(tmp_path):
    """Neither with one that lay there before, nor with nothing."""
    assert torchrun("train", "--preset", "tiny", "--iterations", 2, "--out", tmp_path / "old").wait(120) == 0
    run = torchrun("train", "--preset", "tiny", "--iterations", 4, "--out", tmp_path / "old", extra=("--max-restarts", "1"))
    errors = run.communicate(timeout=120)[1]
    assert run.returncode == 1 and errors.count("is not empty") == 2, errors
    assert newest_checkpoint(tmp_path / "old/checkpoints").name == "checkpoint-00000002"


def test_a_signal_to_one_rank_ends_all_at_one_step(tmp_path):
    out = tmp_path / "run"
    ranks = start_ranks("-m", "ddgan_fast.cli", "train", "--preset", "tiny", "--iterations", 100_000, "--log-every", 1, "--out", out)
    deadline = time.monotonic() + 60
    while not (out / "metrics.jsonl").exists() or not (out / "metrics.jsonl").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    ranks[1].send_signal(signal.SIGTERM)
    texts = [process.communicate(timeout=20)[1] for process in ranks]
    assert [process.returncode for process in ranks] == [143, 143], texts
    step = int(newest_checkpoint(out / "checkpoints").name.split("-")[1])
    assert all(f"at step {step}; saved" in text for text in texts)
