"""The trainer against a plain loop written from the released code's behaviour, and the benchmark of both."""

import csv
import importlib
from pathlib import Path

import pytest
import torch

from ddgan_fast.bench import randomise
from ddgan_fast.config import override, preset
from ddgan_fast.training.state import TrainState
from ddgan_fast.training.trainer import Trainer

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
LOSSES = "d_loss", "r1", "g_loss"
STEPS = 30
# of the mean loss, over the range that the loss goes through: bfloat16 rounds each activation by up to 2^-9, which a random walk through
# the layers of both networks makes about 1e-2 of a logit; float32 rounds by 2^-24, which is 3e-5 less
LIMITS = {"fp32": 1e-5, "bf16": 5e-2}


@pytest.fixture
def benchmark(monkeypatch):
    """Imports a module of benchmarks/, which is not installed, by its name."""
    monkeypatch.syspath_prepend(str(ROOT))
    return lambda name: importlib.import_module(f"benchmarks.{name}")


def fresh(dtype=torch.float64, **changes):
    """A state of full weights; several learning rates and an average that moves within 20 steps, an R1 that counts."""
    config = override(preset("tiny"), {"iterations": 40, "ema_decay": 0.9, "r1_gamma": 1e4} | changes)
    state = TrainState(config)
    for network in (state.generator, state.discriminator):
        randomise(network)
    for network in (state.generator, state.discriminator, state.ema.module):
        network.to(dtype)
    return state


def batches(steps, like):
    noise = torch.Generator().manual_seed(0)
    return [(torch.rand(8, 1, 8, 8, generator=noise) * 2 - 1).to(next(like.parameters()).dtype) for _ in range(steps)]


def weights(owner):
    """Of generator, discriminator and average, each in one tensor."""
    networks = owner.generator, owner.discriminator, owner.ema.module
    return [torch.cat([p.detach().flatten() for p in network.parameters()]) for network in networks]


def apart(got, want):
    """Largest difference of weights over the largest weight, for each network."""
    return [((a - b).abs().max() / b.abs().max()).item() for a, b in zip(got, want, strict=True)]


def trained(state, steps):
    """{loss: its values} of a Trainer over so many steps."""
    trainer, found = Trainer(state, 10), []
    for images in batches(steps, state.generator):
        trainer.step(images)
        found.append(trainer.metrics())
    return {name: [row[name] for row in found] for name in LOSSES}


def looped(plain, steps, snapshots=()):
    """({loss: its values} of a PlainTrainer over so many steps, {step: weights behind it})."""
    found, kept = {name: [] for name in LOSSES}, {}
    for images in batches(steps, plain.generator):
        plain.step(images)
        for name, values in found.items():
            value = getattr(plain, name)
            values.append(None if value is None else value.item())
        if plain.count in snapshots:
            kept[plain.count] = weights(plain)
    return found, kept


@pytest.fixture(scope="module")
def truth():
    """What `looped` gives for the plain loop in float64."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT))
        plain_trainer = importlib.import_module("benchmarks.plain_trainer")
    return looped(plain_trainer.PlainTrainer(fresh(), 10), STEPS, (2, 20))


def test_the_trainer_does_what_the_plain_loop_does(truth):
    """20 steps in float64, R1 in the first and the 16th, two learning rates: weights, averages and losses."""
    state, (want, kept) = fresh(), truth
    got = trained(state, 20)
    assert max(apart(weights(state), kept[20])) < 1e-6
    for name in LOSSES:
        assert [value is None for value in got[name]] == [value is None for value in want[name][:20]]
        for a, b in zip(got[name], want[name], strict=False):
            assert a is None or abs(a - b) < 1e-6 * abs(b)
    assert [step for step, value in enumerate(want["r1"]) if value is not None] == [0, 15]


def test_the_gradient_of_r1_is_seen_in_the_weights(benchmark, truth):
    """Without it the agreement above would say nothing of it."""
    _, kept = looped(benchmark("plain_trainer").PlainTrainer(fresh(r1_gamma=0.0), 10), 2, (2,))
    assert apart(kept[2], truth[1][2])[1] > 1e-5


@pytest.mark.parametrize("change", ["freeze_g", "one_batch", "kernels", "fused"])
def test_what_a_user_can_change_about_the_loop_changes_no_result(benchmark, truth, change):
    plain_trainer = benchmark("plain_trainer")
    found, kept = looped(plain_trainer.PlainTrainer(fresh(), 10, plain_trainer.Loop(**{change: True})), 2, (2,))
    assert found["g_loss"] == pytest.approx(truth[0]["g_loss"][:2], rel=1e-9) and max(apart(kept[2], truth[1][2])) < 1e-6


@pytest.mark.parametrize("precision", LIMITS)
def test_mean_losses_in_a_smaller_precision_are_those_of_float64(truth, precision):
    got = trained(fresh(torch.float32, precision=precision), STEPS)
    for name in ("d_loss", "g_loss"):
        want = truth[0][name]
        assert abs(sum(got[name]) - sum(want)) / STEPS < LIMITS[precision] * (max(want) - min(want))


def test_a_loop_draws_its_own_noise_too(benchmark):
    torch.manual_seed(0)
    losses, _ = looped(benchmark("plain_trainer").PlainTrainer(fresh(torch.float32), 10, named=False), 2)
    assert all(0 < value < 10 for value in losses["d_loss"] + losses["g_loss"])


def test_the_benchmark_writes_a_row_for_each_loop_whose_first_step_is_right(benchmark, monkeypatch, tmp_path, capsys):
    train, loops, write_rows = benchmark("train"), benchmark("train_loops"), benchmark("harness").write_rows

    class Wrong(loops.Plain):
        def losses(self):
            return [1.01 * value for value in super().losses()]

    right = loops.techniques(gpu=False)
    wrong = ("wrong", "fp32", lambda config, device: Wrong(config, device, loops.Loop()))
    monkeypatch.setattr(train, "techniques", lambda *_: [*right, wrong])
    monkeypatch.setitem(train.LOADER_STEPS, "cpu", 3)
    write_rows("train", CPU, train.waterfall_rows(CPU, [("tiny", 4)], 1, 60), tmp_path)
    assert "no row for wrong" in capsys.readouterr().out
    write_rows("train_loader", CPU, train.loader_rows(CPU, [("tiny", 4)], 1, 60), tmp_path)
    rows, loaded = (list(csv.DictReader((tmp_path / f"{name}.csv").open(encoding="utf-8"))) for name in ("train", "train_loader"))
    assert [row["technique"] for row in rows] == [name for name, *_ in right]
    assert rows[0]["times_plain"] == "1.0" and all(float(row["error"]) < 1e-4 for row in rows)
    assert all(float(row[name]) > 0 for row in rows for name in ("ms", "ms_d", "ms_d_r1", "ms_g", "images_per_s", "memory_mb"))
    assert float(loaded[0]["images_per_s"]) > 0 and 0 <= float(loaded[0]["data_wait_percent"]) < 100


def test_what_autograd_keeps_is_counted_until_it_is_freed(benchmark):
    x = torch.zeros(1000, requires_grad=True)
    kept = benchmark("train_loops").Kept([x])
    with kept.count():
        first = (x * 2).square().sum()  # keeps x * 2, and x is among the others
        assert (kept.now, kept.most) == (4000, 4000)
        first.backward()
        assert kept.now == 0
        del first
        (x * 2).square().sum().backward()
    assert (kept.now, kept.most) == (0, 4000)


def test_times_are_weighted_with_how_often_r1_comes(benchmark):
    turns = [[(10.0, 5.0), (12.0, 7.0), (40.0, 6.0)]]
    found = benchmark("train").summary(turns, every=10)
    assert found == {"ms": 19.9, "ms_p20": 19.9, "ms_p80": 19.9, "ms_d": 11.0, "ms_d_r1": 40.0, "ms_g": 6.0}
