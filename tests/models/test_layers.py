"""The parts of the networks, one by one, against the reference implementation."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from ddgan_fast.checkpoint.reference import _ATTENTION, _DISCRIMINATOR_BLOCK, _RES_BLOCK, to_ours
from ddgan_fast.config import Model
from ddgan_fast.errors import InputError
from ddgan_fast.models import Discriminator
from ddgan_fast.models.discriminator import Block, minibatch_stddev
from ddgan_fast.models.layers import AdaGN, Attention, Features, PlainGN, PyramidDown, ResBlock, groups_of, mapping_network, sinusoid

LAYOUTS = [torch.contiguous_format, torch.channels_last]
layouts = pytest.mark.parametrize("layout", LAYOUTS, ids=str)
dtypes = pytest.mark.parametrize("dtype, limit", [(torch.float32, 1e-5), (torch.float64, 1e-6)], ids=["f32", "f64"])


@layouts
@dtypes
@pytest.mark.parametrize("case", ["n1", "n2", "n3", "n4", "n4_tiny", "n8", "n8_tiny", "n12", "n16"])
def test_minibatch_stddev(golden, assert_near, case, dtype, limit, layout):
    g = golden("J_small_parts")
    x = g[f"in/stddev/{case}/x"].to(dtype).to(memory_format=layout).requires_grad_()
    y = minibatch_stddev(x)
    y.backward(g[f"in/stddev/{case}/grad_out"].to(dtype))
    want = g[f"out/stddev/{case}/y"]
    assert_near(y, want, limit)
    assert_near(y[:, -1], want[:, -1], limit)
    assert_near(x.grad, g[f"out/stddev/{case}/grad_x"], limit)


def test_batches_that_do_not_split_into_groups_of_4_are_refused(golden):
    refused = golden("J_small_parts").config["stddev"]["batches_rejected"]
    assert sorted(map(int, refused)) == [5, 6, 7, 9, 10, 11]
    for batch in map(int, refused):
        with pytest.raises(InputError, match=f"a batch of {batch};"):
            minibatch_stddev(torch.zeros(batch, 8, 4, 4))


@dtypes
@pytest.mark.parametrize("dim", [4, 7, 8, 16, 128, 256])
def test_time_embedding(golden, assert_near, dim, dtype, limit):
    g = golden("J_small_parts")
    got = sinusoid(g["in/temb/t"], dim, dtype)
    assert got.dtype == dtype
    assert_near(got, g[f"out/temb/dim{dim}"], limit)


@dtypes
@pytest.mark.parametrize("dim", [16, 24])
def test_time_path_of_the_discriminator(golden, assert_near, dim, dtype, limit):
    g = golden("J_small_parts")
    discriminator = Discriminator(Model(resolution=8, image_channels=1, discriminator_channels=4, time_dim=dim)).to(dtype)
    weights = g.group(f"w/disc_temb/dim{dim}/main.")
    discriminator.time.load_state_dict({f"{int(key[0]) // 2}{key[1:]}": value for key, value in weights.items()})
    seen = {"embed": [], "embed_act": []}
    discriminator.time[1].register_forward_hook(lambda module, inputs, output: seen["embed"].append(output))
    discriminator.blocks[0].register_forward_pre_hook(lambda module, inputs: seen["embed_act"].append(inputs[1]))
    for t in g["in/temb/t"].split(4):  # 7 steps: too many for one batch
        image = torch.zeros(len(t), 1, 8, 8, dtype=dtype)
        discriminator(image, t, image)
    for name, got in seen.items():
        assert_near(torch.cat(got), g[f"out/disc_temb/dim{dim}/{name}"], limit)


@dtypes
@pytest.mark.parametrize("case", ["nz6_zemb16_mlp3", "nz100_zemb12_mlp4"])
def test_mapping_network(golden, assert_near, case, dtype, limit):
    """Row by row, because the tiny last z has gradients of another size."""
    g = golden("J_small_parts")
    config, out = g.config[f"mapping/{case}"], g.group(f"out/mapping/{case}/")
    mapping = mapping_network(config["nz"], config["z_emb_dim"], config["n_mlp"])
    mapping.load_state_dict(g.group(f"w/mapping/{case}/z_transform."))
    mapping.to(dtype)
    z = g[f"in/mapping/{case}/z"].to(dtype).requires_grad_()
    y = mapping(z)
    y.backward(g[f"in/mapping/{case}/grad_out"].to(dtype))
    for name, got in (("pixelnorm", mapping[0](z)), ("y", y), ("grad_z", z.grad)):
        for row, want in zip(got, out[name], strict=True):
            assert_near(row, want, limit)


def res_block(config):
    fir = "up" if config.get("up") else "down" if config.get("down") else None
    norm = partial(AdaGN, embedding_dim=config["zemb_dim"])
    return ResBlock(config["in_ch"], config.get("out_ch", config["in_ch"]), config["temb_dim"], norm, fir=fir)


def disc_block(config):
    return Block(config["in_channel"], config["out_channel"], config["t_emb_dim"], config.get("downsample", False))


def pyramid_alone(layer, x):
    """What the layer joins to nothing."""
    nothing = x.new_zeros(len(x), layer.conv.out_channels, x.shape[2] // 2, x.shape[3] // 2)
    return 2**0.5 * layer(x, Features(nothing)).x


RES_BLOCKS = ["same", "same_tiny", "widen", "narrow", "down", "up", "up_widen"]
BLOCKS = {  # case: (how to build it, names in the reference, how to call it)
    **{f"biggan_fir_{case}": (res_block, _RES_BLOCK, lambda m, x, temb, zemb: m(Features(x), F.silu(temb), zemb).x) for case in RES_BLOCKS},
    **{case: (lambda config: Attention(config["channels"]), _ATTENTION, lambda m, x: m(Features(x)).x) for case in ("attn", "attn_tiny")},
    **{case: (disc_block, _DISCRIMINATOR_BLOCK, lambda m, x, t_emb: m(x, t_emb)) for case in ("disc_block", "disc_block_down")},
    "downsample_fir_conv": (lambda c: PyramidDown(c["in_ch"], c["out_ch"]), {"conv": "Conv2d_0"}, pyramid_alone),
}


def reference_keys(block, table):
    """{our parameter name: reference key} of one block."""
    keys = {}
    for name, _ in block.named_parameters():
        layer, _, rest = name.partition(".")
        theirs = f"{table[layer]}.{rest}"
        keys[name] = theirs.replace(".weight", ".W").replace(".bias", ".b") if theirs.startswith("NIN") else theirs
    return keys


@layouts
@pytest.mark.parametrize("dtype, limit, grad_limit", [(torch.float32, 1e-5, 1e-4), (torch.float64, 1e-6, 1e-6)], ids=["f32", "f64"])
@pytest.mark.parametrize("case", BLOCKS)
def test_block(golden, assert_near, case, dtype, limit, grad_limit, layout):
    g, (build, table, call) = golden("K_blocks"), BLOCKS[case]
    weights, config = g.group(f"w/{case}/"), g.config[case]
    block = build(config)
    keys = reference_keys(block, table)
    assert sorted(keys.values()) == sorted(weights)
    block.load_state_dict({name: to_ours(key, weights[key]) for name, key in keys.items()})
    block.to(dtype=dtype, memory_format=layout)
    inputs = {name: g[f"in/{case}/{name}"].to(dtype) for name in config["argument_order"]}
    inputs["x"] = inputs["x"].to(memory_format=layout)
    y = call(block, *(value.requires_grad_() for value in inputs.values()))
    assert y.is_contiguous(memory_format=layout)
    y.backward(g[f"in/{case}/grad_out"].to(dtype).to(memory_format=layout))
    assert_near(y, g[f"out/{case}/y"], limit)
    for name, leaf in inputs.items():
        assert_near(leaf.grad, g[f"out/{case}/grad_{name}"], grad_limit)
    wanted = g.group(f"out/{case}/grad/")
    siblings = max((want.abs().max().item() for want in wanted.values()), default=None)
    parameters = {key: block.get_parameter(name) for name, key in keys.items()}
    for key, want in wanted.items():
        scale = siblings if f"{case}/grad/{key}" in g.meta["zero_or_negligible"] else None
        assert_near(to_ours(key, parameters[key].grad), want, grad_limit, scale)


def test_every_supported_block_is_replayed(golden):
    unsupported = ("nofir", "norescale", "oneadagn", "ddpm", "combine")
    assert {case for case in golden("K_blocks").config if not any(word in case for word in unsupported)} == set(BLOCKS)


@pytest.mark.parametrize("channels, groups", [(4, 1), (12, 3), (128, 32), (160, 32), (512, 32)])
def test_groups_of_a_norm(channels, groups):
    assert groups_of(channels) == groups
    assert PlainGN(channels).groups == groups


@pytest.mark.parametrize("channels", [2, 18, 132])
def test_channels_without_groups_are_refused(channels):
    with pytest.raises(InputError, match=f"over {channels} channels"):
        groups_of(channels)
