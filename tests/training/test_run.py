"""A training run: what it writes, exact resume, refusals, signals, and what a broken checkpoint does."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from ddgan_fast.checkpoint.folder import newest_checkpoint, read_tensors
from ddgan_fast.checkpoint.model import load_model
from ddgan_fast.config import override, preset
from ddgan_fast.data import open_loader
from ddgan_fast.errors import CheckpointError, DataError, InputError, NonFiniteError, ResourceError
from ddgan_fast.training import loop, records
from ddgan_fast.training.run import locked, open_run
from ddgan_fast.training.state import TrainState
from ddgan_fast.training.trainer import Trainer

FILES = ["generator", "ema", "discriminator", "optim_g", "optim_d"]


@pytest.fixture
def config():
    return preset("tiny")


def run(config, out, resume=False):
    state = open_run(out, config, {}, resume=resume)
    loop.train(state, open_loader(config, "cpu"), out)
    return state


@pytest.mark.parametrize("change", [{}, {"dropout": 0.2, "flip": True}, {"latent": False}], ids=["plain", "dropout and flip", "no latent"])
def test_resume_is_bit_exact(tmp_path, config, same_checkpoint, change):
    config = override(config, change)
    run(config, tmp_path / "whole")
    half = tmp_path / "half"
    state = open_run(half, config, {})
    loader = open_loader(config, "cpu")
    stopped = loop.Run(state, loader, half)
    with stopped:
        for _ in range(4):
            stopped.step()
    resumed = open_run(half, config, {}, resume=True)
    assert resumed.step == 4
    assert torch.equal(next(open_loader(config, "cpu").batches(4)), next(stopped.batches))
    loop.train(resumed, open_loader(config, "cpu"), half)
    same_checkpoint(tmp_path / "whole/checkpoints/checkpoint-00000008", half / "checkpoints/checkpoint-00000008")
    steps = [json.loads(line)["step"] for line in (half / "metrics.jsonl").read_text().splitlines()]
    assert steps == [2, 4, 6, 8]


def test_a_run_writes_what_it_promises(tmp_path, config):
    run(override(config, {"keep": 1}), tmp_path / "run")
    out = tmp_path / "run"
    assert sorted(p.name for p in out.iterdir()) == ["checkpoints", "config.yaml", "env.json", "metrics.jsonl", "samples"]
    assert [p.name for p in (out / "checkpoints").iterdir()] == ["checkpoint-00000008"]
    assert sorted(p.name for p in (out / "samples").iterdir()) == ["step-00000004.png", "step-00000008.png"]
    line = json.loads((out / "metrics.jsonl").read_text().splitlines()[0])
    assert line["images_seen"] == 16 and len(line["d_loss_t"]) == 4 and line["r1"] is not None
    assert {"d_loss", "g_loss", "lr_g", "lr_d", "images_per_s"} <= line.keys()
    generator, loaded = load_model(out)
    assert loaded.model == config.model
    ema = read_tensors(out / "checkpoints/checkpoint-00000008/ema.safetensors")
    assert all(torch.equal(value, ema[name]) for name, value in generator.state_dict().items())


def test_metrics_agree_with_their_parts(tmp_path, config):
    """d_loss is the mean of d_loss_t weighted by how often each t was drawn."""
    state = TrainState(override(config, {"steps": 1}))
    trainer = Trainer(state, 10)
    trainer.step(torch.zeros(8, 1, 8, 8))
    trainer.step(torch.zeros(8, 1, 8, 8))
    means = trainer.metrics()
    assert means["d_loss"] == pytest.approx(means["d_loss_t"][0], rel=1e-6)


def test_learning_rate_reaches_the_floor_in_the_last_epoch(config):
    trainer = Trainer(TrainState(override(config, {"iterations": 7, "lr_g": 1e-3, "lr_min": 1e-5})), steps_per_epoch=2)
    rates = []
    for step in range(7):
        trainer.state.step = step
        rates.append(trainer.rates()[0])
    assert rates[0] == rates[1] == 1e-3
    assert rates[2] == rates[3] > rates[4] == rates[5] > rates[6]
    assert rates[6] == pytest.approx(1e-5)


def test_a_new_run_needs_an_empty_folder_and_a_resumed_one_its_settings(tmp_path, config):
    with pytest.raises(InputError, match="no run to resume"):
        open_run(tmp_path / "none", config, {}, resume=True)
    run(config, tmp_path / "run")
    with pytest.raises(InputError, match="--resume"):
        open_run(tmp_path / "run", config, {})
    with pytest.raises(InputError, match="batch_size: 8 -> 4"):
        open_run(tmp_path / "run", override(config, {"batch_size": 4}), {}, resume=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="a file"), locked(tmp_path / "file"):
        pass
    longer = run(override(config, {"iterations": 10}), tmp_path / "run", resume=True)
    assert longer.step == 10


def test_optimisers_resume_in_the_layout_of_the_parameters(tmp_path, config):
    """On a GPU parameters are channels_last, and fused Adam pairs elements by their place in memory."""
    images = torch.zeros(8, 1, 8, 8)

    def channels_last(state):
        for network in (state.generator, state.discriminator, state.ema.module):
            network.to(memory_format=torch.channels_last)
        return state

    state = channels_last(TrainState(config))
    Trainer(state, 10).step(images)
    loaded = TrainState.load(state.save(tmp_path))
    fresh = channels_last(TrainState(config))
    for name in ("generator", "discriminator"):
        getattr(fresh, name).load_state_dict(getattr(loaded, name).state_dict())
    fresh.ema.module.load_state_dict(loaded.ema.module.state_dict())
    for optimiser in ("optim_g", "optim_d"):
        tensors = read_tensors(tmp_path / f"checkpoint-00000001/{optimiser}.safetensors")
        getattr(fresh, optimiser).load(tensors, optimiser)
    fresh.step = 1
    for each in (state, fresh):
        Trainer(each, 10).step(images)
    for left, right in ((state.generator, fresh.generator), (state.discriminator, fresh.discriminator)):
        assert all(torch.equal(a, b) for a, b in zip(left.parameters(), right.parameters(), strict=True))


def test_an_optimiser_state_that_is_incomplete_is_refused(config):
    state = TrainState(config)
    Trainer(state, 10).step(torch.zeros(8, 1, 8, 8))
    tensors = state.optim_g.state()
    for change in (lambda t: t.pop("conv_in.weight/exp_avg"), lambda t: t.update({"new/step": torch.zeros(())})):
        changed = dict(tensors)
        change(changed)
        with pytest.raises(CheckpointError, match="optim_g"):
            state.optim_g.load(changed, "optim_g")


def test_training_and_preview_mix_no_devices(config):
    """The meta device stands in for a GPU: tensors of two devices in one operation raise."""
    state = TrainState(config, "meta")
    for flat in (state.optim_g, state.optim_d):
        flat.optimiser.step = lambda: None  # meta has no fused Adam
    trainer = Trainer(state, 10)
    trainer.step(torch.zeros(8, 1, 8, 8, device="meta"))
    assert trainer.preview().device.type == "meta"


def test_a_second_process_on_one_run_is_refused(tmp_path):
    with locked(tmp_path / "run"), pytest.raises(InputError, match=f"pid {os.getpid()} on host"), locked(tmp_path / "run"):
        pass
    assert not (tmp_path / "run").exists()  # nothing was written


def full(*_, **__):
    raise OSError(28, "No space left on device")


def test_pictures_and_metrics_that_cannot_be_written_do_not_stop_training(tmp_path, config, monkeypatch, caplog):
    monkeypatch.setattr(loop, "write_png", full)
    monkeypatch.setattr(records.Records, "_write", full)
    assert run(config, tmp_path / "run").step == 8
    assert caplog.text.count("samples cannot be written") == caplog.text.count("metrics.jsonl cannot be written") == 1
    assert newest_checkpoint(tmp_path / "run/checkpoints").name == "checkpoint-00000008"


def test_a_closed_progress_bar_does_not_stop_training(tmp_path, config, monkeypatch):
    def closed(*_, **__):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(loop.tqdm, "update", closed)
    assert run(config, tmp_path / "run").step == 8


def damage(path, how):
    data = bytearray(path.read_bytes())
    if how == "flip":
        data[len(data) // 2] ^= 1
    path.write_bytes(data if how == "flip" else data[: len(data) // 2])


@pytest.mark.parametrize("how", ["flip", "cut"])
@pytest.mark.parametrize("file", [*[f"{name}.safetensors" for name in FILES], "state.json", "manifest.json"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path, config, caplog, file, how):
    run(config, tmp_path)
    newest = tmp_path / "checkpoints/checkpoint-00000008"
    damage(newest / file, how)
    with pytest.raises(CheckpointError, match=file):
        TrainState.load(newest)
    assert open_run(tmp_path, config, {}, resume=True).step == 4
    assert file in caplog.text
    damage(tmp_path / "checkpoints/checkpoint-00000004" / file, how)
    with pytest.raises(CheckpointError, match="none of the 2 checkpoints is intact"):
        newest_checkpoint(tmp_path / "checkpoints")


def test_unfinished_saves_are_swept(tmp_path, config, caplog):
    run(config, tmp_path)
    (tmp_path / "checkpoints/.tmp-checkpoint-00000012-1").mkdir()
    (tmp_path / ".tmp-1-config.yaml").write_text("half")
    open_run(tmp_path, config, {}, resume=True)
    assert "1 unfinished save removed" in caplog.text
    assert not list(tmp_path.rglob(".tmp-*"))


def test_a_failed_save_leaves_nothing_behind(tmp_path, config, monkeypatch):
    state = TrainState(config)

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ResourceError, match="No space left"):
        state.save(tmp_path / "checkpoints")
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_nan_is_never_saved(tmp_path, config):
    state = TrainState(config)
    state.generator.conv_in.weight.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match="conv_in.weight"):
        state.save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_bad_image_in_the_middle_saves_first(tmp_path, config):
    class Broken:
        steps_per_epoch = 10

        def batches(self, start):
            yield from [torch.zeros(8, 1, 8, 8)] * 3
            raise DataError("bad.png: cut off")

    state = open_run(tmp_path, config, {})
    with pytest.raises(DataError, match="bad.png"):
        loop.train(state, Broken(), tmp_path)
    assert newest_checkpoint(tmp_path / "checkpoints").name == "checkpoint-00000003"


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_save_and_stop(tmp_path, number, code):
    command = [
        sys.executable,
        "-m",
        "ddgan_fast.cli",
        "train",
        "--preset",
        "tiny",
        "--iterations",
        "100000",
        "--out",
        str(tmp_path / "run"),
    ]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    metrics = Path(tmp_path / "run/metrics.jsonl")
    deadline = time.time() + 120
    while not (metrics.exists() and metrics.read_text()) and time.time() < deadline:
        time.sleep(0.2)
    child.send_signal(number)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == code, errors
    assert "--resume" in errors and "Traceback" not in errors
    step = newest_checkpoint(tmp_path / "run/checkpoints").name
    assert f"step {int(step.split('-')[1])}" in errors


def test_the_lock_ends_with_its_process_and_not_with_its_workers(tmp_path):
    read, write = os.pipe()
    killed = os.fork()
    if not killed:
        with locked(tmp_path / "run"):
            if not (worker := os.fork()):
                time.sleep(30)
                os._exit(0)
            os.write(write, b"%d" % worker)
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(killed, 0)
    worker = int(os.read(read, 20))
    try:
        assert (tmp_path / "run/.lock").exists()
        with locked(tmp_path / "run"):
            pass
    finally:
        os.kill(worker, signal.SIGKILL)
