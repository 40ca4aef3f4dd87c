"""Whole training iterations against the reference implementation: losses, gradients, weights, moving average, learning rates."""

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ddgan_fast.checkpoint import load_reference_discriminator, load_reference_generator
from ddgan_fast.checkpoint.reference import discriminator_keys, generator_keys, to_ours
from ddgan_fast.diffusion import Schedule
from ddgan_fast.ops import backend
from ddgan_fast.training.losses import Draws, d_loss, g_loss
from ddgan_fast.training.trainer import learning_rate

LR_MIN = 1e-5
# dtype: of values, of gradients, and of weights in learning rates (after the first step, the last, where the first gradient is tiny)
LIMITS = {
    torch.float32: (2e-5, 1e-4, (0.002, 0.01, 0.02)),
    torch.float64: (1e-6, 1e-6, (1e-4, 1e-4, 1e-4)),
}
ROUNDING = 6e-8  # of the stored float32 weights


class Replay:
    """The networks, optimisers and average of a file, and its iterations one by one."""

    def __init__(self, g, dtype):
        self.g, self.config, self.dtype = g, g.config, dtype
        self.schedule = Schedule(g.config["num_timesteps"])
        self.networks = {
            "G": load_reference_generator(g.group("w/G/"), g.config).to(dtype),
            "D": load_reference_discriminator(g.group("w/D/"), g.config).to(dtype),
        }
        keys = {"G": generator_keys(self.networks["G"]), "D": discriminator_keys(self.networks["D"])}
        self.names = {which: {theirs: ours for ours, theirs in pairs.items()} for which, pairs in keys.items()}
        betas = g.config["beta1"], g.config["beta2"]
        self.optimisers = {which: torch.optim.Adam(self.networks[which].parameters(), self.lr(which, 0), betas) for which in "GD"}
        self.ema = AveragedModel(self.networks["G"], multi_avg_fn=get_ema_multi_avg_fn(g.config["ema_decay"]))
        self.iterations = g.meta["epochs"] * g.meta["iterations_per_epoch"]

    def lr(self, which, epoch):
        return learning_rate(self.config[f"lr_{which.lower()}"], LR_MIN, epoch, self.config["num_epoch"] + 1)

    def images(self, i):
        return self.g[f"in/it{i}/real"].to(self.dtype)

    def draws(self, i, half):
        names = ("t", "noise_tp1", "noise_t", "z", "noise_post")
        tensors = (self.g[f"in/it{i}/{half}_{name}"] for name in names)
        return Draws(*(tensor if tensor.dtype == torch.int64 else tensor.to(self.dtype) for tensor in tensors))

    def gamma(self, i):
        return self.config["r1_gamma"] if i % (self.config["lazy_reg"] or 1) == 0 else 0.0

    def tensors(self, which, network, of):
        """{reference key: of(parameter) in the reference's layout}"""
        return {key: to_ours(key, of(network.get_parameter(name))).clone() for key, name in self.names[which].items()}

    def step(self, i):
        """Iteration i. Returns (d, g, what the G half handed from network to network, gradients of both)."""
        args = (*self.networks.values(), self.schedule, self.images(i))
        for which, optimiser in self.optimisers.items():
            optimiser.param_groups[0]["lr"] = self.lr(which, i // self.g.meta["iterations_per_epoch"])
        self.networks["D"].requires_grad_(True)
        d = d_loss(*args, self.draws(i, "D"), self.gamma(i))
        self._update("D", d.total)

        self.networks["D"].requires_grad_(False)
        seen = []

        def watch(module, inputs, output):
            seen.append((inputs, output))

        hooks = [network.register_forward_hook(watch) for network in self.networks.values()]
        g = g_loss(*args, self.draws(i, "G"))
        for hook in hooks:
            hook.remove()
        self._update("G", g.total)
        self.ema.update_parameters(self.networks["G"])
        grads = {which: self.tensors(which, self.networks[which], lambda p: p.grad) for which in "GD"}
        (g_inputs, x0), (d_inputs, _) = seen
        return d, g, {"G_x_tp1": g_inputs[0], "G_x_0_predict": x0, "G_x_pos_sample": d_inputs[0]}, grads

    def _update(self, which, loss):
        self.optimisers[which].zero_grad()
        loss.backward()
        self.optimisers[which].step()


def check_weights(wanted, got, first_grads, lr, limit, tiny_limit):
    """Differences in learning rates, but for the key bias of attention, whose true gradient is 0."""
    compared = [key for key in wanted if not key.endswith("NIN_1.b")]
    assert compared
    for key in compared:
        want = wanted[key].double()
        apart = ((got[key] - want).abs() - ROUNDING * want.abs()) / lr
        allowed = torch.where(first_grads[key].abs() > 1e-6, limit, tiny_limit)
        assert (apart <= allowed).all(), f"{key}: {apart.max():.1e} lr"


TRAINING_RUNS = [("reference", name, dtype) for name in ("G_train_1iter", "G_train_4iter") for dtype in LIMITS]
OTHER_BACKENDS = [
    ("cpp", "G_train_1iter", torch.float32),
    ("cpp", "G_train_4iter", torch.float32),
    pytest.param("triton", "G_train_1iter", torch.float32, marks=[pytest.mark.slow, pytest.mark.timeout(1200)]),
]


@pytest.mark.parametrize("backend_name, name, dtype", [*TRAINING_RUNS, *OTHER_BACKENDS], ids=str)
def test_iterations(golden, assert_near, backend_name, name, dtype):
    with backend.force(backend_name):
        replay_iterations(Replay(golden(name), dtype), assert_near, dtype)


def replay_iterations(run, assert_near, dtype):
    """All stored losses, gradients, images, weights and averages."""
    value_limit, grad_limit, (first_limit, last_limit, tiny_limit) = LIMITS[dtype]
    g, first_grads = run.g, None
    for i in range(run.iterations):
        d, gen, images, grads = run.step(i)
        first_grads = first_grads or grads
        got = {"errD_real": d.real, "errD_fake": d.fake, "errD": d.real + d.fake, "D_real": d.real_logits}
        got |= {"errG": gen.total, "G_logits": gen.logits} | (images if i == 0 else {})
        assert (d.r1 is not None) == (f"out/it{i}/grad_penalty" in g) == (i in g.meta["r1_applied_at"])
        got |= {} if d.r1 is None else {"grad_penalty": d.r1}
        for key, value in got.items():
            assert_near(value, g[f"out/it{i}/{key}"], value_limit)
        assert_near(d.total, got["errD"] + (d.r1 or 0), 1e-6)
        if i == 0:
            for which in "GD":
                wanted = g.group(f"out/it0/{which}_grad/")
                siblings = max(want.abs().max().item() for want in wanted.values())
                for key, want in wanted.items():
                    scale = siblings if f"it0/{which}_grad/{key}" in g.meta["zero_or_negligible"] else None
                    assert_near(grads[which][key], want, grad_limit, scale)
        if i in (0, run.iterations - 1):
            limits = last_limit if i else first_limit, tiny_limit
            for which in "GD":
                after = run.tensors(which, run.networks[which], torch.Tensor.detach)
                check_weights(g.group(f"out/it{i}/{which}_after/"), after, first_grads[which], run.lr(which, 0), *limits)
    ema = run.tensors("G", run.ema.module, torch.Tensor.detach)
    check_weights(g.group(f"out/it{i}/G_ema/"), ema, first_grads["G"], run.lr("G", 0), *limits)


@pytest.mark.parametrize("name", ["G_train_1iter", "G_train_4iter"])
def test_learning_rate_after_each_epoch(golden, name):
    g = golden(name)
    rows = g["lr_after_epochs_f64"].tolist()
    for epoch, row in enumerate(rows):
        got = [learning_rate(g.config[key], LR_MIN, epoch, g.config["num_epoch"] + 1) for key in ("lr_g", "lr_d")]
        assert got == pytest.approx(row, rel=1e-12)
    assert len(rows) == g.meta["epochs"] + 1


@pytest.mark.parametrize("name", ["cifar10", "celeba_256"])
def test_learning_rates_of_the_published_commands(golden, name):
    g = golden("G_lr_curves")
    config, rows = g.config[name], g[f"out/{name}/lr_during_epoch"].tolist()
    epochs = config["num_epoch"] + 1
    assert len(rows) == epochs
    assert rows[-1] == pytest.approx([LR_MIN, LR_MIN], rel=1e-12)
    for epoch, row in enumerate(rows):
        assert [learning_rate(config[key], LR_MIN, epoch, epochs) for key in ("lr_g", "lr_d")] == pytest.approx(row, rel=1e-12)


def test_a_run_of_one_epoch_keeps_its_learning_rate():
    assert learning_rate(1e-4, 1e-5, 0, 1) == 1e-4


def test_d_loss_leaves_no_gradient_in_the_generator(golden):
    run = Replay(golden("G_train_4iter"), torch.float32)
    for gamma in (0.0, 20.0):
        d_loss(*run.networks.values(), run.schedule, run.images(0), run.draws(0, "D"), gamma).total.backward()
    assert all(p.grad is None for p in run.networks["G"].parameters())
    assert all(p.grad is not None for p in run.networks["D"].parameters())


def test_r1_is_left_out_without_gamma(golden):
    run = Replay(golden("G_train_4iter"), torch.float32)
    without, penalised = (d_loss(*run.networks.values(), run.schedule, run.images(0), run.draws(0, "D"), gamma) for gamma in (0.0, 20.0))
    assert without.r1 is None
    assert torch.equal(without.total, without.real + without.fake)
    assert penalised.r1 > 0
    assert torch.equal(penalised.total, penalised.real + penalised.fake + penalised.r1)
    assert torch.equal(without.real, penalised.real)
    assert torch.equal(without.fake, penalised.fake)
    assert not without.real_logits.requires_grad
    assert not without.fake_logits.requires_grad


def test_the_losses_leave_their_inputs_alone(golden):
    run = Replay(golden("G_train_4iter"), torch.float32)
    images, draws = run.images(0), run.draws(0, "D")
    before = [tensor.clone() for tensor in (images, *draws[:5])]
    d_loss(*run.networks.values(), run.schedule, images, draws, 20.0).total.backward()
    g_loss(*run.networks.values(), run.schedule, images, draws).total.backward()
    assert all(torch.equal(a, b) and not b.requires_grad for a, b in zip(before, (images, *draws[:5]), strict=True))
