"""Both discriminators against the reference implementation: logits, losses, gradients, R1 and its second-order gradients."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from ddgan_fast.checkpoint import load_reference_discriminator
from ddgan_fast.checkpoint.reference import discriminator_keys
from ddgan_fast.config import PRESETS, Model
from ddgan_fast.errors import CheckpointError, InputError
from ddgan_fast.models import Discriminator

KEYS = Path(__file__).parents[1] / "golden" / "keys"
FILES = ["C_disc_small", "C_disc_small_b8", "D_disc_large_64", "D_disc_large_128"]
RUNS = [(name, torch.contiguous_format) for name in FILES]
RUNS += [(name, torch.channels_last) for name in ("C_disc_small_b8", "D_disc_large_64")]
dtypes = pytest.mark.parametrize("dtype, limit, grad_limit", [(torch.float32, 2e-5, 1e-4), (torch.float64, 1e-6, 1e-6)], ids=["f32", "f64"])


class Replay:
    """The discriminator of a file on its inputs."""

    def __init__(self, g, dtype, layout):
        self.g, self.out = g, g.group("out/")
        network = load_reference_discriminator(g.group("w/"), g.config, g.meta["discriminator"])
        self.network = network.to(dtype=dtype, memory_format=layout)
        self.x = g["in/x"].to(dtype).to(memory_format=layout).requires_grad_()
        self.logits = self.network(self.x, g["in/t"], g["in/x_tp1"].to(dtype).to(memory_format=layout))
        self.parameters = {theirs: network.get_parameter(ours) for ours, theirs in discriminator_keys(network).items()}

    def check(self, assert_near, kind, scalar, limit):
        """Gradients of `scalar` with respect to the image and the stored parameters."""
        wanted = self.g.group(f"out/{kind}/")
        leaves = {"x": self.x} | {key: self.parameters[key] for key in wanted}
        got = dict(zip(leaves, torch.autograd.grad(scalar, leaves.values(), allow_unused=True), strict=True))
        if f"{kind}_x" in self.out:
            assert_near(got["x"], self.out[f"{kind}_x"], limit)
        siblings = max(want.abs().max().item() for want in wanted.values())
        for key, want in wanted.items():
            scale = siblings if f"{kind}/{key}" in self.g.meta["zero_or_negligible"] else None
            assert_near(torch.zeros_like(want) if got[key] is None else got[key], want, limit, scale)


@dtypes
@pytest.mark.parametrize("name, layout", RUNS, ids=str)
def test_logits_losses_and_their_gradients(golden, assert_near, name, dtype, limit, grad_limit, layout):
    run = Replay(golden(name), dtype, layout)
    assert run.logits.dtype == dtype
    assert_near(run.logits, run.out["logits"], limit)
    real = F.softplus(-run.logits).mean()
    assert_near(real, run.out["loss_real"], limit)
    assert_near(F.softplus(run.logits).mean(), run.out["loss_fake"], limit)
    run.check(assert_near, "loss_real_grad", real, grad_limit)


@dtypes
@pytest.mark.parametrize("name, layout", RUNS, ids=str)
def test_r1_and_its_second_order_gradients(golden, assert_near, name, dtype, limit, grad_limit, layout):
    run = Replay(golden(name), dtype, layout)
    (gradient,) = torch.autograd.grad(run.logits.sum(), run.x, create_graph=True)
    assert_near(gradient, run.out["grad_x"], grad_limit)
    square = gradient.square().sum(dim=(1, 2, 3)).mean()
    assert_near(square, run.out["r1_mean_sq_norm"], grad_limit)
    penalty = run.g.config["r1_gamma"] / 2 * square
    assert_near(penalty, run.out["r1_penalty"], grad_limit)
    run.check(assert_near, "r1_grad", penalty, grad_limit)


@pytest.mark.parametrize(
    "name, size, count", [("cifar10", "small", 12_741_633), ("lsun", "large", 27_737_217), ("celeba_256", "large", 27_737_217)]
)
def test_keys_of_the_published_networks_load_strictly(name, size, count):
    published = json.loads((KEYS / f"{name}_D.json").read_text())
    state = {f"module.{key}": torch.full(shape, 0.5) for key, shape in published["keys"].items()}
    discriminator = load_reference_discriminator(state, published["config"], size)
    assert all((p == 0.5).all() for p in discriminator.parameters())
    assert sum(p.numel() for p in discriminator.parameters()) == published["n_params"] == count
    state.pop("module.end_linear.bias")
    with pytest.raises(CheckpointError, match=r"end_linear\.bias: missing"):
        load_reference_discriminator(state, published["config"], size)


@pytest.mark.parametrize("preset, count", [("cifar10", 12_741_633), ("celebahq256", 27_737_217)])
def test_parameter_counts(preset, count):
    with torch.device("meta"):
        discriminator = Discriminator(PRESETS[preset].model)
    assert sum(p.numel() for p in discriminator.parameters()) == count


@pytest.mark.parametrize("size, resolution", [("small", 8), ("small", 13), ("large", 65)])
def test_smallest_images_and_batches(size, resolution):
    torch.manual_seed(0)
    discriminator = Discriminator(Model(resolution=resolution, channel_mult=(1,), discriminator=size, discriminator_channels=2, time_dim=8))
    x, t = torch.randn(8, 3, resolution, resolution), torch.arange(8) % 4
    for batch in (1, 2, 3, 4, 8):
        assert discriminator(x[:batch], t[:batch], x[:batch].flip(0)).shape == (batch,)
    for batch in (5, 6, 7):
        with pytest.raises(InputError, match=f"a batch of {batch}"):
            discriminator(x[:batch], t[:batch], x[:batch])


def test_initialisation_is_the_released_one():
    torch.manual_seed(0)
    for size, scale in (("small", 1e-10), ("large", 1.0)):
        discriminator = Discriminator(Model(resolution=64, discriminator=size))
        spread = {name: p.detach().abs().max().item() for name, p in discriminator.named_parameters()}
        near = pytest.approx
        assert spread["conv_in.weight"] == near((3 / 128) ** 0.5, rel=2e-2)
        assert spread["blocks.1.conv0.weight"] == near((3 / (9 * discriminator.blocks[1].conv0.out_channels)) ** 0.5, rel=1e-2)
        assert spread["blocks.1.conv1.weight"] == near((3e-10 / (9 * discriminator.blocks[1].conv1.out_channels)) ** 0.5, rel=1e-2)
        assert spread["conv_out.weight"] == near((3 * scale / (9 * 512)) ** 0.5, rel=1e-2)
        assert spread["head.weight"] == near(3**0.5, rel=2e-2)
        assert spread["time.0.weight"] == near((3 / 256) ** 0.5, rel=1e-2)
        assert not any(value for name, value in spread.items() if name.endswith("bias"))
        assert not [name for name in spread if name.endswith("skip.bias")]
