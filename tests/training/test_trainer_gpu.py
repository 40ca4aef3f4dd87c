"""Training on a GPU: graphs against the same operations one by one, no waiting for the device, every precision, and a run of it."""

import pytest
import torch

from ddgan_fast.config import override, preset
from ddgan_fast.data import open_loader
from ddgan_fast.training.loop import train
from ddgan_fast.training.run import open_run
from ddgan_fast.training.state import TrainState
from ddgan_fast.training.trainer import Trainer

pytestmark = pytest.mark.gpu


def trained(steps=12, bad=None, **changes):
    config = override(preset("tiny"), {"r1_every": 3, "iterations": 40} | changes)
    generator = torch.Generator("cuda").manual_seed(0)
    state = TrainState(config, "cuda")
    trainer = Trainer(state, 2)
    for i in range(steps):
        images = torch.rand(8, 1, 8, 8, device="cuda", generator=generator) * 2 - 1
        trainer.step(images * float("nan") if i == bad else images)
    return trainer


def weights(trainer):
    networks = trainer.state.generator, trainer.state.discriminator, trainer.state.ema.module
    return torch.cat([p.detach().flatten() for network in networks for p in network.parameters()])


@pytest.mark.parametrize("change", [{}, {"accumulate": 2}, {"dropout": 0.1}, {"checkpoint_activations": True}], ids=str)
def test_graphs_replay_what_runs_without(change):
    eager, graph = (trained(engine=engine, **change) for engine in ("eager", "graph"))
    assert len(graph.runner.graphs) == 5  # two D passes, one G pass, two updates
    assert (weights(eager) - weights(graph)).abs().max() < 1e-4  # a dozen steps at a rate of 1e-4; cuDNN may choose other algorithms
    a, b = eager.metrics(), graph.metrics()
    assert a["skipped"] == b["skipped"] == 0 and b["d_loss"] == pytest.approx(a["d_loss"], abs=1e-3)


@pytest.mark.parametrize("precision", ["tf32", "bf16", "fp16"])
def test_every_precision_trains_under_graphs_as_without(precision):
    """fp16 finds its scale in the first steps."""
    eager, graph = (trained(24, engine=engine, precision=precision) for engine in ("eager", "graph"))
    a, b = eager.metrics(), graph.metrics()
    assert a["skipped"] == b["skipped"] <= (6 if precision == "fp16" else 0)
    start = TrainState(graph.state.config, "cuda")
    moved = [(new - old).abs().max() for new, old in zip(graph.state.generator.parameters(), start.generator.parameters(), strict=True)]
    assert max(moved) > 1e-3 and (weights(eager) - weights(graph)).abs().max() < 1e-3  # 24 steps at a rate of 1e-4


def test_a_nan_is_left_out_under_graphs_too():
    eager, graph = (trained(bad=10, engine=engine) for engine in ("eager", "graph"))
    assert weights(graph).isfinite().all() and (weights(eager) - weights(graph)).abs().max() < 1e-4
    found = graph.metrics()
    assert (found["skipped"], found["bad_step"]) == (2, 10)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_does_not_wait_for_the_device(accumulate):
    trainer = trained(accumulate=accumulate)
    images = torch.zeros(8, 1, 8, 8, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(4):  # one of them with R1
            trainer.step(images)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_run_on_a_gpu_resumes(tmp_path):
    config = preset("tiny")
    for iterations, resume in ((4, False), (8, True)):
        settings = override(config, {"iterations": iterations, "lr_decay": False})
        state = open_run(tmp_path, settings, {}, "cuda", resume)
        train(state, open_loader(settings, "cuda"), tmp_path)
    whole = open_run(tmp_path / "whole", override(config, {"lr_decay": False}), {}, "cuda")
    train(whole, open_loader(config, "cuda"), tmp_path / "whole")
    pairs = zip(whole.generator.parameters(), state.generator.parameters(), strict=True)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in pairs)
