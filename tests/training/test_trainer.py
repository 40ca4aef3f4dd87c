"""One training step: parts and precisions, gradients that are not finite, loss scaling, CUDA graphs emulated on a CPU, memory."""

import sys
import types

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ddgan_fast.checkpoint.folder import read_tensors
from ddgan_fast.config import override, preset
from ddgan_fast.diffusion import Schedule
from ddgan_fast.errors import InputError, MissingError
from ddgan_fast.models import build_discriminator, build_generator
from ddgan_fast.models.discriminator import minibatch_stddev
from ddgan_fast.training import adam
from ddgan_fast.training.graphs import WARM_UP, Eager, Graphs
from ddgan_fast.training.losses import d_loss, g_loss
from ddgan_fast.training.probe import activation_bytes
from ddgan_fast.training.state import TrainState
from ddgan_fast.training.trainer import D_HALF, Trainer, draw, runner_for, step_words

NOISE = torch.Generator().manual_seed(0)
IMAGES = [torch.rand(8, 1, 8, 8, generator=NOISE) * 2 - 1 for _ in range(20)]


def config(**changes):
    return override(preset("tiny"), changes)


def trained(settings, steps, runner=None, dtype=None):
    """The Trainer after so many steps."""
    state = TrainState(settings)
    if dtype:
        for network in (state.generator, state.discriminator, state.ema.module):
            network.to(dtype)
    trainer = Trainer(state, 10, runner)
    for images in IMAGES[:steps]:
        trainer.step(images)
    return trainer


def weights(state):
    return [p.detach().clone() for network in (state.generator, state.discriminator, state.ema.module) for p in network.parameters()]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(weights(a), weights(b), strict=True))


def test_words_depend_on_seed_step_and_position_alone():
    whole = step_words(3, 70, torch.arange(8), 4)
    assert torch.equal(step_words(3, 70, torch.arange(4, 8), 4), whole[:, 4:])
    assert (
        len({*whole[0].tolist(), *step_words(3, 71, torch.arange(8), 4)[0].tolist(), *step_words(4, 70, torch.arange(8), 4)[0].tolist()})
        == 24
    )
    many = step_words(0, 0, torch.arange(40_000), 4)
    assert many[0].min() >= 0 and torch.equal(many[1:].unique(), torch.arange(4))
    for row in many[1:]:
        assert (row.bincount() / 40_000 - 0.25).abs().max() < 0.01


def test_real_and_fake_in_one_batch_are_the_same_function():
    """The groups of minibatch stddev stay within real and fake: values and gradients of the two separate passes, in float64."""
    settings = config()
    generator, discriminator = (build(settings.model).double() for build in (build_generator, build_discriminator))
    for p in discriminator.parameters():
        p.data += 0.1 * torch.randn_like(p)
    x = torch.randn(16, 5, 4, 4, dtype=torch.float64)
    apart = torch.cat([minibatch_stddev(part) for part in x.chunk(2)])
    assert torch.equal(minibatch_stddev(x, parts=2), apart) and not torch.equal(minibatch_stddev(x), apart)

    schedule, (seeds, t, _) = Schedule.of(settings.diffusion), step_words(0, 0, torch.arange(8), 4)
    arguments = generator, discriminator, schedule, IMAGES[0].double(), draw(settings.model, D_HALF, seeds, t)
    together = d_loss(*arguments)
    separate = d_loss(*arguments, r1_gamma=1e-30)  # with R1 they are two passes
    for a, b in zip(together[1:3], separate[1:3], strict=True):
        assert torch.allclose(a, b, rtol=1e-12)
    of = list(discriminator.parameters())
    one, two = (torch.autograd.grad(loss.real + loss.fake, of) for loss in (together, separate))
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in zip(one, two, strict=True))


def test_noise_of_a_generator_that_is_not_trained_here_has_no_graph():
    settings = config()
    generator, discriminator = build_generator(settings.model), build_discriminator(settings.model)
    seeds, t, _ = step_words(0, 0, torch.arange(8), 4)
    d_loss(generator, discriminator, Schedule(4), IMAGES[0], draw(settings.model, D_HALF, seeds, t), 0.1).total.backward()
    assert all(p.grad is None for p in generator.parameters()) and all(p.grad is not None for p in discriminator.parameters())


@pytest.mark.parametrize("precision, limit", [("bf16", 2e-2), ("fp16", 5e-3)])
def test_half_precision_has_the_gradients_of_float32(precision, limit):
    """The first step's, R1 among them, in Euclidean norms: limits are a few roundings of 2^-9 and 2^-12."""
    found = {}
    for name in ("fp32", precision):
        torch.manual_seed(0)
        state = TrainState(config(precision=name, r1_gamma=1.0))
        for p in (*state.generator.parameters(), *state.discriminator.parameters()):
            p.data += 0.05 * torch.randn_like(p)
        state.optim_d.scale.clamp_(max=2.0**10), state.optim_g.scale.clamp_(max=2.0**10)
        trainer = Trainer(state, 10)
        state.optim_g.step = state.optim_d.step = lambda number: None
        trainer.step(IMAGES[0])
        found[name] = [flat.gradients / flat.scale for flat in (state.optim_d, state.optim_g)]
    for got, want in zip(found[precision], found["fp32"], strict=True):
        assert 0 < (got - want).norm() / want.norm() < limit


def test_a_batch_must_be_shareable():
    with pytest.raises(InputError, match="multiple of its 3 parts"):
        Trainer(TrainState(config(accumulate=3)), 10)
    with pytest.raises(InputError, match="6 a part"):
        Trainer(TrainState(config(batch_size=12, accumulate=2)), 10)
    with pytest.raises(MissingError, match="CUDA"):
        runner_for(config(engine="graph"), torch.device("cpu"))
    gpu = torch.device("cuda")
    assert type(runner_for(config(), torch.device("cpu"))) is Eager and type(runner_for(config(), gpu)) is Graphs
    for change in ({"optimizer": "apex"}, {"dropout": 0.1, "checkpoint_activations": True}):
        assert type(runner_for(config(**change), gpu)) is Eager
        with pytest.raises(MissingError, match="engine 'graph'"):
            runner_for(config(engine="graph", **change), gpu)


@pytest.mark.parametrize("network", ["generator", "discriminator"])
def test_a_gradient_that_is_not_finite_changes_nothing(network):
    trainer = trained(config(), 2)
    state, before = trainer.state, weights(trainer.state)
    flat = {"generator": state.optim_g, "discriminator": state.optim_d}[network]
    moments = {name: value.clone() for name, value in flat.state().items()}
    backward = flat.backward

    def poisoned(loss, tail):
        backward(loss, tail)
        flat.gradients[5] = float("nan")

    trainer.metrics()
    flat.backward = poisoned
    trainer.step(IMAGES[2])
    flat.backward = backward
    count = {"generator": 1, "discriminator": 0}[network]
    kept = list((state.generator, state.discriminator)[1 - count].parameters())
    start = 0 if network == "generator" else len(list(state.generator.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(before[start : start + len(kept)], kept, strict=True))
    assert all(torch.equal(value, moments[name]) for name, value in flat.state().items())
    found = trainer.metrics()
    assert (found["skipped"], found["bad_step"]) == (1, 2)
    trainer.step(IMAGES[3])
    assert trainer.metrics()["skipped"] == 0 and not same(state, trained(config(), 2).state)


def test_the_loss_scale_halves_after_an_overflow_and_doubles_after_a_while(monkeypatch):
    monkeypatch.setattr(adam, "GROWS_AFTER", 3)
    trainer = trained(config(precision="fp16"), 0)
    flat = trainer.state.optim_g
    flat.scale.fill_(2.0**10)
    scales = []
    for i, images in enumerate(IMAGES[:8]):
        if i in (1, 2):
            flat.scale.fill_({1: 2.0**30, 2: 2.0**10}[i])  # float16 does not hold the first
        trainer.step(images)
        scales.append(flat.scale.log2().item())
    assert scales == [10, 29, 10, 10, 11, 11, 11, 12]
    assert trainer.metrics()["skipped"] > 0 and all(p.isfinite().all() for p in trainer.state.generator.parameters())


class Tape(TorchDispatchMode):
    """What a CUDA graph does, on a CPU: records operations on memory, and runs them again on the same memory."""

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        assert function is not torch.ops.aten._local_scalar_dense.default, "a graph cannot read a number"
        self.operations.append((function, args, kwargs or {}, out))
        return out

    def replay(self):
        with torch.no_grad():
            for function, args, kwargs, out in self.operations:
                again = function(*args, **kwargs)
                pairs = zip(*(torch.utils._pytree.tree_leaves(tree) for tree in (out, again)), strict=True)
                for old, new in pairs:
                    if torch.is_tensor(old) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)


class TapedGraphs(Graphs):
    """Graphs whose recordings are tapes."""

    step = Eager.step

    def capture(self, part):
        before = [value.clone() for value in self.kept()]
        with Tape() as tape:
            part()
        for value, old in zip(self.kept(), before, strict=True):
            value.copy_(old)  # recording computes nothing on a GPU
        return tape.replay


@pytest.mark.parametrize("change", [{}, {"accumulate": 2}, {"precision": "fp16"}, {"r1_every": 1}, {"latent": False}], ids=str)
def test_what_graphs_replay_is_what_runs_without(change):
    """Nothing that changes from step to step - rate, noise, t, images, R1, the average - may be fixed in a recording."""
    settings = config(**({"r1_every": 3, "iterations": 40, "ema_decay": 0.9} | change))
    runner = TapedGraphs("cpu")
    state = TrainState(settings)

    @torch.no_grad()
    def kept():
        flats = state.optim_g, state.optim_d
        moments = [value for flat in flats for entries in flat.optimiser.state.values() for value in entries.values()]
        own = [value for flat in flats for value in (flat.buffer, flat.totals, flat.scale, flat.finite_steps, flat.bad_step)]
        return (
            [p.data for network in (state.generator, state.discriminator, state.ema.module) for p in network.parameters()] + moments + own
        )

    runner.kept = kept
    trainer = Trainer(state, 2, runner)
    seen = [images * (float("nan") if i == 10 else 1) for i, images in enumerate(IMAGES[:14])]  # a step that is to be left out
    for images in seen:
        trainer.step(images)
    parts = {"D update", "G", "G update", ("D", 0.02), ("D", 0.0)} - ({("D", 0.0)} if change == {"r1_every": 1} else set())
    assert runner.graphs.keys() == parts and WARM_UP == 2
    plain = TrainState(settings)
    reference = Trainer(plain, 2)
    for images in seen:
        reference.step(images)
    found = trainer.metrics()
    assert same(state, plain) and all(p.isfinite().all() for p in weights(state))
    assert found == reference.metrics() and found["skipped"] >= 2 and found["bad_step"] in (0, 10)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_checkpointed_activations_change_no_gradient(dropout):
    plain, checkpointed = (trained(config(dropout=dropout, checkpoint_activations=on), 3) for on in (False, True))
    assert same(plain.state, checkpointed.state)


def test_kept_bytes_are_counted_without_computing():
    """On the meta device: R1's and the fake's graphs are among them, checkpoints of activations save most of the generator's."""
    found = {}
    for name, change in {"plain": {}, "checkpointed": {"checkpoint_activations": True}, "half": {"precision": "bf16"}}.items():
        settings = override(preset("cifar10"), change)
        with torch.device("meta"):
            networks = build_generator(settings.model), build_discriminator(settings.model)
        found[name] = activation_bytes(settings, networks, 4)
    assert found["plain"] > 4 * 30e6 and found["checkpointed"] < 0.6 * found["plain"] and found["half"] * 2 == found["plain"]


class FusedAdam(torch.optim.Optimizer):
    """Stands in for apex's: one step count for all parameters, and no word about gradients that are not finite."""

    def __init__(self, params, lr, betas, adam_w_mode):
        assert not adam_w_mode
        super().__init__(params, {"lr": lr, "betas": betas})

    @torch.no_grad()
    def step(self):
        group = self.param_groups[0]
        group["step"] = group.get("step", 0) + 1
        for p in group["params"]:
            moments = self.state[p] or self.state[p].update(exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p)) or self.state[p]
            one, two = (1 - beta ** group["step"] for beta in group["betas"])
            moments["exp_avg"].lerp_(p.grad, 1 - group["betas"][0])
            moments["exp_avg_sq"].lerp_(p.grad.square(), 1 - group["betas"][1])
            p -= group["lr"] * (moments["exp_avg"] / one) / ((moments["exp_avg_sq"] / two).sqrt() + 1e-8)


def test_apex_is_taken_where_it_is_asked_for(monkeypatch, tmp_path):
    with pytest.raises(MissingError, match="apex"):
        TrainState(config(optimizer="apex"))
    monkeypatch.setitem(sys.modules, "apex", types.ModuleType("apex"))
    monkeypatch.setitem(sys.modules, "apex.optimizers", types.SimpleNamespace(FusedAdam=FusedAdam))
    trainer = trained(config(optimizer="apex"), 1)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(weights(trainer.state), weights(trained(config(), 1).state), strict=True))
    before = weights(trainer.state)
    trainer.state.optim_g.backward = lambda loss, tail: trainer.state.optim_g.gradients.fill_(float("inf"))
    trainer.step(IMAGES[1])
    count = len(list(trainer.state.generator.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(before[:count], weights(trainer.state)[:count], strict=True))
    path = trainer.state.save(tmp_path)
    assert read_tensors(path / "optim_g.safetensors")["conv_in.weight/step"] == 1
    assert TrainState.load(path).optim_g.optimiser.param_groups[0]["step"] == 1


def test_gloss_has_no_gradient_to_a_frozen_discriminator():
    settings = config()
    generator, discriminator = build_generator(settings.model), build_discriminator(settings.model).requires_grad_(False)
    seeds, _, t = step_words(0, 0, torch.arange(8), 4)
    g_loss(generator, discriminator, Schedule(4), IMAGES[0], draw(settings.model, D_HALF, seeds, t)).total.backward()
    assert all(p.grad is None for p in discriminator.parameters())
