"""The generator against the reference implementation: values, gradients, keys, parameter counts."""

import json
from itertools import product
from pathlib import Path

import pytest
import torch

from ddgan_fast.checkpoint import load_reference_generator
from ddgan_fast.checkpoint.reference import from_options, generator_keys, to_ours
from ddgan_fast.config import PRESETS, Model
from ddgan_fast.errors import InputError
from ddgan_fast.models import Generator
from ddgan_fast.ops import backend

GOLDEN = Path(__file__).parents[1] / "golden"
FILES = ["A_gen_cifar_like", "A2_gen_wide_groupcap", "B_gen_celebahq_like", "B2_gen_celebahq_256", "V_gen_attn_two_levels",
         "V_gen_no_attn_level", "V_gen_no_tanh", "V_gen_not_centered", "V_gen_one_level", "V_gen_three_blocks", "V_gen_tiny_last_norm"]  # fmt: skip

LAYOUTS = [torch.contiguous_format, torch.channels_last]
LIMITS = {torch.float32: (2e-5, 1e-4), torch.float64: (1e-6, 1e-6)}  # of values and of gradients
RUNS = [("reference", *run) for run in product(FILES, LIMITS, LAYOUTS)]
RUNS += [("triton", "V_gen_tiny_last_norm", torch.float32, LAYOUTS[1])]  # a training iteration and a sampling run have the other layout


@pytest.mark.parametrize("backend_name, name, dtype, layout", RUNS, ids=str)
def test_matches_reference(golden, assert_near, backend_name, name, dtype, layout):
    with backend.force(backend_name):
        replay(golden(name), assert_near, dtype, layout)


def replay(g, assert_near, dtype, layout):
    """Output and gradients of the stored generator."""
    value_limit, grad_limit = LIMITS[dtype]
    generator = load_reference_generator(g.group("w/"), g.config).to(dtype=dtype, memory_format=layout)
    x = g["in/x"].to(dtype).to(memory_format=layout).requires_grad_()
    z = g["in/z"].to(dtype).requires_grad_()
    before = []
    generator.conv_out.register_forward_hook(lambda module, inputs, output: before.append(output))
    y = generator(x, g["in/t"], z)
    assert_near(y, g["out/y"], value_limit)
    if "out/pre_tanh" in g:
        assert_near(before[0], g["out/pre_tanh"], value_limit)
    if "in/grad_out" not in g:
        return
    y.backward(g["in/grad_out"].to(dtype))
    assert_near(x.grad, g["out/grad_x"], grad_limit)
    assert_near(z.grad, g["out/grad_z"], grad_limit)
    ours = {theirs: name for name, theirs in generator_keys(generator).items()}
    wanted = g.group("out/grad/")
    siblings = max(want.abs().max().item() for want in wanted.values())
    for key, want in wanted.items():
        got = to_ours(key, generator.get_parameter(ours[key]).grad)
        assert_near(got, want, grad_limit, siblings if f"grad/{key}" in g.meta["zero_or_negligible"] else None)


@pytest.mark.parametrize("name", ["cifar10", "celeba_256", "lsun"])
def test_keys_of_the_published_networks_load_strictly(name):
    published = json.loads((GOLDEN / f"keys/{name}_G.json").read_text())
    state = {f"module.{key}": torch.full(shape, 0.5) for key, shape in published["keys"].items()}
    generator = load_reference_generator(state, published["config"])
    assert all((p == 0.5).all() for p in generator.parameters())
    assert sum(p.numel() for p in generator.parameters()) == published["n_params"]


@pytest.mark.parametrize(
    "preset, count",
    [("cifar10", 48_432_515), ("celebahq256", 39_726_979), ("cifar10-paper", 56_927_363), ("lsun-church256-paper", 142_309_123)],
)
def test_parameter_counts(preset, count):
    with torch.device("meta"):
        generator = Generator(PRESETS[preset].model)
    assert sum(p.numel() for p in generator.parameters()) == count


@pytest.mark.parametrize(
    "option, value",
    [
        ("resblock_type", "ddpm"), ("resblock_type", "biggan_oneadagn"), ("embedding_type", "fourier"), ("progressive_input", "none"),
        ("progressive_input", "input_skip"), ("progressive", "output_skip"), ("skip_rescale", False), ("fir", False), ("conditional", False),
        ("use_geometric", True), ("fir_kernel", [1, 2, 1]), ("new_option", 1),
    ],
)  # fmt: skip
def test_unsupported_options_are_refused_by_name(option, value):
    with pytest.raises(InputError, match=option):
        from_options({"ch_mult": [1, 2], option: value})


def test_missing_options_take_the_released_defaults():
    model, diffusion = from_options({"ch_mult": [1, 2, 2, 2], "lr_g": 1.0})
    assert model == Model(mapping_layers=3)
    assert diffusion.steps == 4
    with pytest.raises(InputError, match="ch_mult"):
        from_options({})


def test_without_latent_it_has_plain_norms_and_ignores_z():
    config = Model(resolution=8, channels=8, channel_mult=(1, 2), blocks=1, attention=(), latent=False)
    generator = Generator(config)
    assert not [name for name, _ in generator.named_parameters() if "style" in name or "mapping" in name]
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([0, 3])
    generator.conv_out.weight.data.normal_()
    assert torch.equal(generator(x, t), generator(x, t, torch.randn(2, 100)))
    assert not torch.equal(generator(x, t), generator(x, t + 1))


def test_initialisation_is_the_released_one():
    torch.manual_seed(0)
    generator = Generator(PRESETS["cifar10"].model)
    spread = {name: p.detach().abs().max().item() for name, p in generator.named_parameters()}
    near = pytest.approx
    assert spread["conv_in.weight"] == near((3 / ((3 + 128) * 9 / 2)) ** 0.5, rel=1e-2)
    assert spread["down.0.stages.0.block.conv0.weight"] == near((3 / (128 * 9)) ** 0.5, rel=1e-2)
    assert spread["down.0.stages.0.block.conv1.weight"] == near((3e-10 / (128 * 9)) ** 0.5, rel=1e-2)
    assert spread["middle.0.attention.key.weight"] == near((0.3 / 256) ** 0.5, rel=1e-2)
    assert spread["mapping.1.weight"] == near((3 / 256) ** 0.5, rel=1e-2)
    assert spread["down.0.stages.0.block.norm0.style.weight"] == near((3 / 256) ** 0.5, rel=1e-2)
    assert spread["time.0.weight"] == near((3 / ((128 + 512) / 2)) ** 0.5, rel=1e-2)
    style = generator.down[0].stages[0].block.norm0.style.bias
    assert torch.equal(style, torch.cat((torch.ones(128), torch.zeros(128))))


def test_channels_that_groups_do_not_divide_are_refused():
    with pytest.raises(InputError, match="over 132 channels"):
        Generator(Model(channels=132, resolution=32))
