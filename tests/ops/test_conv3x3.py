"""The 3x3 convolution against the sum in float64, and the words of what it refuses."""

import itertools
import re

import pytest
import torch
import torch.nn.functional as F

from ddgan_fast.errors import InputError, MissingError
from ddgan_fast.ops import backend, conv3x3, winograd_weight
from ddgan_fast.ops.conv3x3 import BACKENDS

LIMIT = 3e-6  # of |got - want| / |want|; measured: up to 1.0e-6 for 128 channels, 1.9e-6 for 512
SHAPES = [(2, 20, 24, 5, 7), (3, 8, 16, 1, 1), (1, 3, 5, 8, 8), (2, 16, 3, 33, 32), (1, 128, 40, 9, 3), (2, 1, 1, 4, 6)]
OPTIONS = [*itertools.product([False, True], [False, True], [1.0, 0.5**0.5])]
each_backend = pytest.mark.parametrize("name", BACKENDS)


def make_inputs(batch=2, inputs=20, outputs=24, height=5, width=7):
    """x, weight, bias and join; all but the weight with a mean that is not 0."""
    torch.manual_seed(0)
    x, join = (torch.randn(batch, n, height, width).add(0.3).to(memory_format=torch.channels_last) for n in (inputs, outputs))
    return x, torch.randn(outputs, inputs, 3, 3) / (9 * inputs) ** 0.5, torch.randn(outputs).add(0.3), join


def formula(x, weight, bias=None, join=None, scale=1.0):
    x, weight, bias, join = (None if tensor is None else tensor.double() for tensor in (x, weight, bias, join))
    total = F.conv2d(x, weight, bias, padding=1)
    return (total if join is None else total + join) * scale


def relative(got, want):
    return ((got.double() - want).norm() / want.norm()).item()


@pytest.mark.parametrize("with_bias, with_join, scale", OPTIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@each_backend
def test_matches_float64_formula(name, shape, with_bias, with_join, scale):
    x, weight, bias, join = make_inputs(*shape)
    options = {"bias": bias if with_bias else None, "join": join if with_join else None, "scale": scale}
    with backend.force(name):
        got = conv3x3(x, weight, winograd_weight(weight), **options)
    assert relative(got, formula(x, weight, **options)) <= LIMIT
    if name == "cpu":
        assert got.stride() == torch.empty_like(join, memory_format=torch.channels_last).stride()
    assert got.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.cpp
@pytest.mark.parametrize("shape", [(1, 512, 64, 16, 16), (2, 64, 64, 37, 41)], ids=str)
def test_wide_and_large(shape):
    """Many panels, and more tiles than a block has."""
    x, weight, bias, join = make_inputs(*shape)
    got = conv3x3(x, weight, winograd_weight(weight), bias, join, 0.5)
    assert relative(got, formula(x, weight, bias, join, 0.5)) <= LIMIT


@pytest.mark.cpp
@pytest.mark.parametrize("height, width", [(1, 1), (4, 4), (5, 6), (9, 13)])
def test_every_pixel_of_every_tile(height, width):
    """One input pixel after the other is 1, and the weight is found around it; a lost edge or a wrong tile would show."""
    weight = torch.arange(1.0, 10.0).view(1, 1, 3, 3)
    x = torch.eye(height * width).view(-1, 1, height, width).to(memory_format=torch.channels_last)
    with backend.force("cpu"):
        got = conv3x3(x, weight, winograd_weight(weight))
    torch.testing.assert_close(got, F.conv2d(x, weight, padding=1), rtol=0, atol=2e-5)


@pytest.mark.cpp
@pytest.mark.parametrize("shape", [(4, 128, 48, 8, 8), (4, 20, 24, 5, 7), (4, 40, 24, 33, 32), (4, 64, 40, 1, 1)], ids=str)
def test_bits_do_not_depend_on_batch_or_threads(shape):
    x, weight, bias, join = make_inputs(*shape)
    transformed = winograd_weight(weight)

    def call(x, join):
        return conv3x3(x, weight, transformed, bias, join, 0.7)

    with backend.force("cpu"):
        whole = call(x, join)
        for order in ([2], [3, 2, 1, 0], [1, 1, 2]):
            assert torch.equal(call(*(tensor[order].contiguous(memory_format=torch.channels_last) for tensor in (x, join))), whole[order])
        threads = torch.get_num_threads()
        try:
            for other in (1, 2, 5):
                torch.set_num_threads(other)
                assert torch.equal(call(x, join), whole)
        finally:
            torch.set_num_threads(threads)


@pytest.mark.cpp
def test_values_that_are_not_finite_stay_in_their_image():
    x, weight, _, _ = make_inputs()
    x[1, 3, 2, 2] = float("inf")
    with backend.force("cpu"):
        got = conv3x3(x, weight, winograd_weight(weight))
    assert torch.isfinite(got[0]).all() and not torch.isfinite(got[1]).all()


@each_backend
def test_gradients_are_those_of_torch(name):
    """Where one is wanted the extension refuses, and without force plain torch runs."""
    x, weight, bias, join = (tensor.requires_grad_() for tensor in make_inputs(inputs=64, outputs=64, height=8, width=8))
    arguments = x, weight, winograd_weight(weight), bias, join, 0.5
    if name == "cpu":
        with backend.force(name), pytest.raises(MissingError, match="it has no gradient, and one is wanted"):
            conv3x3(*arguments)
        with backend.force(name), torch.no_grad():
            conv3x3(*arguments)
    wanted = x, weight, bias, join
    got = torch.autograd.grad(conv3x3(*arguments).square().sum(), wanted)
    want = torch.autograd.grad(formula(x, weight, bias, join, 0.5).square().sum(), wanted)
    for one, other in zip(got, want, strict=True):
        assert relative(one, other.double()) <= LIMIT


@pytest.mark.cpp
def test_registration():
    x, weight, bias, join = make_inputs()
    transformed, none = winograd_weight(weight), torch.empty(0)
    for added in ((bias, join), (none, join), (none, none)):
        torch.library.opcheck(torch.ops.ddgan_cpp.conv3x3.default, (x, transformed, *added, 0.5, 24))


@each_backend
def test_compiles_into_one_graph(name):
    x, weight, bias, join = make_inputs()
    arguments = x, weight, winograd_weight(weight), bias, join, 0.5
    with backend.force(name):
        compiled = torch.compile(conv3x3, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(*arguments), conv3x3(*arguments))


def test_the_weight_at_its_points():
    """Panels of 16 outputs, the last filled up with 0; at the point 0 the first coefficient, at infinity the last."""
    weight = make_inputs()[1]
    got = winograd_weight(weight.requires_grad_())
    assert got.shape == (2, 36, 20, 16) and got.dtype == torch.float32 and got.is_contiguous() and not got.requires_grad
    assert torch.equal(got[0, 35], weight[:16, :, 2, 2].T) and not got[1, :, :, 8:].any()
    torch.testing.assert_close(got[1, 0, :, :8], weight[16:, :, 0, 0].T / (0.625 * 1.5) ** 4)


@pytest.mark.cpp
@pytest.mark.parametrize(
    "shape, change, reason",
    [
        ((2, 16, 64, 8, 8), {}, "16 channels at 8x8, where a direct sum is as fast; it serves 32 at 16 pixels"),
        ((2, 64, 64, 2, 4), {}, "64 channels at 2x4, where a direct sum is as fast"),
        ((2, 64, 64, 8, 8), {"transformed": None}, "no transformed weight was given"),
        ((2, 64, 64, 8, 8), {"x": torch.zeros(2, 64, 8, 8)}, "it serves channels_last"),
        ((2, 64, 64, 8, 8), {"x": torch.zeros(2, 64, 8, 8), "join": None}, r"strides \(4096, 64, 8, 1\); it serves channels_last"),
        ((2, 64, 64, 8, 8), {"join": torch.zeros(2, 64, 8, 8)}, "it serves channels_last"),
        ((2, 1, 64, 8, 8), {"join": torch.zeros(2, 64, 8, 8)}, r"strides \(4096, 64, 8, 1\); it serves channels_last"),
    ],
)
def test_what_the_extension_leaves_to_the_reference(shape, change, reason):
    x, weight, bias, join = make_inputs(*shape)
    arguments = {"x": x, "weight": weight, "transformed": winograd_weight(weight), "bias": bias, "join": join} | change
    refuses, _ = BACKENDS["cpu"]
    assert re.search(reason, refuses(*arguments.values()))
    assert relative(conv3x3(**arguments), formula(**{name: arguments[name] for name in ("x", "weight", "bias", "join")})) <= LIMIT


@pytest.mark.cpp
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_other_dtypes_are_left_to_the_reference(dtype):
    x, weight, bias, join = (tensor.to(dtype) for tensor in make_inputs(inputs=64, outputs=64))
    arguments = x, weight, winograd_weight(weight), bias.float(), join, 0.5
    assert relative(conv3x3(*arguments), formula(x, weight, bias, join, 0.5)) <= (LIMIT if dtype == torch.float64 else 1e-2)
    with backend.force("cpu"), pytest.raises(MissingError, match=f"{dtype}"):
        conv3x3(*arguments)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"x": torch.zeros(20, 5, 7)}, r"x has shape \[20, 5, 7\]; it must be \[B, C, H, W\]"),
        ({"x": torch.zeros(0, 20, 5, 7)}, r"x has shape \[0, 20, 5, 7\]; no size may be 0"),
        ({"x": torch.zeros(2, 21, 5, 7)}, r"weight has shape \[24, 20, 3, 3\]; it must be \[24, 21, 3, 3\]"),
        ({"weight": torch.zeros(24, 20, 1, 1)}, r"weight has shape \[24, 20, 1, 1\]; it must be \[24, 20, 3, 3\]"),
        ({"weight": torch.zeros(())}, r"weight has shape \[\]"),
        ({"weight": torch.zeros(24, 20, 3, 3).double()}, "weight has dtype torch.float64; it must be torch.float32"),
        ({"transformed": torch.zeros(36, 20, 24)}, r"transformed has shape \[36, 20, 24\]; it must be \[2, 36, 20, 16\]"),
        ({"bias": torch.zeros(20)}, r"bias has shape \[20\]; it must be \[24\]"),
        ({"join": torch.zeros(2, 20, 5, 7)}, r"join has shape \[2, 20, 5, 7\]; it must be \[2, 24, 5, 7\]"),
    ],
)
def test_arguments_that_do_not_fit_are_named(change, message):
    x, weight, bias, join = make_inputs()
    arguments = {"x": x, "weight": weight, "transformed": winograd_weight(weight), "bias": bias, "join": join} | change
    with pytest.raises(InputError, match=f"^conv3x3: {message}"):
        conv3x3(**arguments)


@pytest.mark.parametrize("weight", [torch.zeros(4, 4, 1, 1), torch.zeros(4, 3, 3), torch.zeros(4, 4, 3, 3).int(), torch.zeros(0, 4, 3, 3)])
def test_a_weight_that_does_not_fit(weight):
    with pytest.raises(InputError, match="^winograd_weight: weight is .* it must be floating-point"):
        winograd_weight(weight)


@pytest.mark.cpp
@pytest.mark.parametrize(
    "index, value, message",
    [
        (0, torch.zeros(2, 20, 5, 7), "x has shape .* channels_last"),
        (0, torch.zeros(2, 20, 5, 7).double().to(memory_format=torch.channels_last), "x must be float32"),
        (1, torch.zeros(2, 36, 24, 16), "weight has shape .* it must be"),
        (1, torch.zeros(2, 36, 16, 20).transpose(2, 3), "weight has shape .* contiguous"),
        (2, torch.zeros(23), r"bias has shape \[23\]"),
        (3, torch.zeros(2, 24, 5, 7), "join has shape .* channels_last"),
        (5, 0, "outputs is 0"),
        (5, 33, "weight has shape"),
    ],
)
def test_the_operator_names_its_own_errors(index, value, message):
    x, weight, bias, join = make_inputs()
    arguments = [x, winograd_weight(weight), bias, join, 0.5, 24]
    arguments[index] = value
    with pytest.raises(RuntimeError, match=f"conv3x3: {message}"):
        torch.ops.ddgan_cpp.conv3x3(*arguments)
