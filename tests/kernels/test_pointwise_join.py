"""The kernel of the join whose shortcut is a 1x1 convolution, against the plain formula in float64."""

from functools import partial

import pytest
import torch

pytest.importorskip("triton")

from ddgan_fast.errors import InputError, MissingError
from ddgan_fast.kernels import pointwise_join as kernels
from ddgan_fast.ops import adaptive_group_norm, backend, pointwise_join

NHWC = torch.channels_last
F16, BF16, F32, F64 = torch.float16, torch.bfloat16, torch.float32, torch.float64
# of values, over the largest; the interpreter truncates where a GPU rounds to bfloat16
LIMITS = {F16: 2**-10, BF16: 2**-7}


def make(device, dtype, batch=2, inputs=20, beside=12, outputs=24, size=(5, 7), rows=None, layout=NHWC):
    """Arguments by name; rows: the dtype of the biases, None leaves them out."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape, dtype=dtype):
        return (torch.randn(shape, generator=generator) * 2 + 1).to(device, dtype)

    def images(channels):
        return normal(batch, channels, *size).to(memory_format=layout)

    return {
        "x": images(inputs),
        "weight": normal(outputs, inputs + beside) / (inputs + beside) ** 0.5,
        "h": images(outputs),
        "bias": normal(outputs, dtype=rows) if rows else None,
        "h_bias": normal(outputs, dtype=rows) if rows else None,
        "skip": images(beside) if beside else None,
    }


def wide(arguments):
    """The arguments in float64."""
    return {name: None if tensor is None else tensor.double() for name, tensor in arguments.items()}


# x and the rest end inside blocks of 16, 32, 64 and 128; the last are of several runs of pixels, and of several steps and blocks
@pytest.mark.parametrize(
    "dtype, sizes, scale",
    [
        (BF16, {"rows": BF16}, 0.5**0.5), (F16, {"rows": F32, "beside": 0}, 0.3), (F16, {"batch": 1, "size": (1, 1), "rows": F16}, 1.0),
        (BF16, {"inputs": 1, "beside": 1, "outputs": 1}, 0.3), (F16, {"size": (24, 24)}, 0.3), (BF16, {"size": (40, 33), "batch": 1}, 0.3),
        (BF16, {"inputs": 72, "beside": 130, "outputs": 40, "size": (3, 5)}, 0.3), (F16, {"inputs": 128, "beside": 0, "size": (4, 4)}, 0.3),
    ],
    ids=str,
)  # fmt: skip
def test_matches_float64_reference(assert_near, device, dtype, sizes, scale):
    arguments = make(device, dtype, **sizes)
    with backend.force("triton"):
        got = pointwise_join(**arguments, scale=scale)
    with backend.force("reference"):
        want = pointwise_join(**wide(arguments), scale=scale)
    assert got.dtype == dtype
    assert got.is_contiguous(memory_format=NHWC)
    assert_near(got, want, LIMITS[dtype])


@pytest.mark.parametrize("channels", [32, 64, 128])
def test_every_width_of_a_tile(assert_near, monkeypatch, device, channels):
    """On CPU tensors of a small batch only the least would be met."""
    monkeypatch.setattr(kernels, "plan", lambda batch, outputs, pixels: (1, channels, 16, 32))
    test_matches_float64_reference(assert_near, device, F16, {"outputs": 150, "rows": F16}, 0.5)


def test_the_tile_shrinks_with_the_image_and_the_batch():
    assert kernels.plan(100, 256, 1024) == (4, 128, 128, 32)
    assert kernels.plan(100, 256, 64) == (1, 64, 64, 64)
    assert kernels.plan(1, 256, 16) == (1, 32, 16, 64)
    assert kernels.plan(16, 64, 65536) == (32, 64, 128, 32)


@pytest.mark.parametrize("dtype, size", [(BF16, (5, 7)), (F16, (24, 24)), (BF16, (1, 1))], ids=str)
def test_stats_serve_the_next_norm(assert_near, device, dtype, size):
    arguments = make(device, dtype, size=size, rows=F32)
    scale, shift = torch.linspace(-1, 1, 24, device=device), torch.linspace(2, 3, 24, device=device)
    with backend.force("triton"):
        out, stats = pointwise_join(**arguments, with_stats=True)
        got = adaptive_group_norm(out, scale, shift, 4, stats=stats)
        assert_near(out, pointwise_join(**arguments), 0)
    with backend.force("reference"):
        assert_near(got, adaptive_group_norm(out.double(), scale.double(), shift.double(), 4), LIMITS[dtype])
    for run, values in enumerate(out.double().flatten(2).split(-(-out[0, 0].numel() // stats.shape[2]), dim=2)):
        torch.testing.assert_close(stats[:, 0, run].double(), values.mean(dim=2), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(stats[:, 1, run].double(), (values - values.mean(dim=2, keepdim=True)).square().sum(dim=2), rtol=1e-4, atol=1e-4)  # fmt: skip
    assert run == stats.shape[2] - 1


def test_rows_may_be_strided_and_weights_transposed(assert_near, device):
    arguments = make(device, F16, rows=F16)
    arguments["bias"], arguments["weight"] = arguments["bias"].repeat_interleave(2)[::2], arguments["weight"].T.contiguous().T
    with backend.force("triton"):
        got = pointwise_join(**arguments)
    with backend.force("reference"):
        assert_near(got, pointwise_join(**wide(arguments)), LIMITS[F16])


def test_the_reference_has_gradients_and_no_stats():
    arguments = {name: tensor.requires_grad_() for name, tensor in make("cpu", F64, rows=F64, size=(2, 3)).items()}
    out, stats = pointwise_join(**arguments, with_stats=True, scale=0.3)
    assert stats is None
    assert torch.autograd.gradcheck(lambda *tensors: pointwise_join(*tensors, scale=0.3), tuple(arguments.values()))
    x, weight, h, bias, h_bias, skip = arguments.values()
    want = torch.einsum("bkhw,nk->bnhw", torch.cat((x, skip), dim=1), weight) + h + (bias + h_bias)[:, None, None]
    torch.testing.assert_close(out, want * 0.3)


def test_where_the_kernel_refuses_the_reference_runs():
    arguments = make("cpu", F32)
    torch.testing.assert_close(pointwise_join(**arguments), pointwise_join(**wide(arguments)).float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "options, reason",
    [
        ({"dtype": F32}, "dtype torch.float32 is not among torch.float16, torch.bfloat16"),
        ({"dtype": F64}, "dtype torch.float64 is not among"),
        ({"dtype": BF16, "layout": torch.contiguous_format}, r"a tensor of strides \(700, 35, 7, 1\) is not channels_last"),
    ],
    ids=str,
)
def test_what_the_kernel_cannot_serve_is_refused(device, options, reason):
    with backend.force("triton"), pytest.raises(MissingError, match=reason):
        pointwise_join(**make(device, **options))


def test_one_contiguous_input_is_refused(device):
    arguments = make(device, BF16, beside=1)
    arguments["h"] = arguments["h"].contiguous()
    with backend.force("triton"), pytest.raises(MissingError, match="one tensor is contiguous and another channels_last"):
        pointwise_join(**arguments)


@pytest.mark.parametrize("name", ["x", "weight", "h", "bias", "h_bias", "skip"])
def test_a_wanted_gradient_is_refused(device, name):
    arguments = make(device, BF16, size=(1, 1), rows=F32)
    arguments[name].requires_grad_()
    with backend.force("triton"):
        with pytest.raises(MissingError, match="it has no gradient"):
            pointwise_join(**arguments)
        with torch.no_grad():
            assert not pointwise_join(**arguments).requires_grad


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"x": torch.zeros(20, 5, 7)}, r"x has shape \[20, 5, 7\]; it must be \[B, C, H, W\]"),
        ({"skip": torch.zeros(2, 12, 5, 6)}, r"skip has shape \[2, 12, 5, 6\]; it must be \[2, 12, 5, 7\]"),
        ({"skip": torch.zeros(2, 12, 5, 7, dtype=F64)}, "skip has dtype torch.float64; it must be torch.float32"),
        ({"skip": None}, r"weight has shape \[24, 32\]; it must be \[24, 20\]"),
        ({"weight": torch.zeros(24, 32, 1, 1)}, r"weight has shape \[24, 32, 1, 1\]; it must be \[24, 32\]"),
        ({"h": torch.zeros(2, 24, 7, 5)}, r"h has shape \[2, 24, 7, 5\]; it must be \[2, 24, 5, 7\]"),
        ({"h": torch.zeros(2, 24, 5, 7, device="meta")}, "h is on meta; it must be on cpu"),
        ({"bias": torch.zeros(20)}, r"bias has shape \[20\]; it must be \[24\]"),
        ({"h_bias": torch.zeros(24, dtype=F64)}, "h_bias has dtype torch.float64; it must be torch.float32"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused_before_any_launch(monkeypatch, wrong, message):
    monkeypatch.setattr(kernels, "pointwise_join", None)
    with backend.force("triton"), pytest.raises(InputError, match=message):
        pointwise_join(**make("cpu", F32, rows=F32) | wrong)


def test_registration(device):
    """torch's own checks of schema, fake tensors and AOT dispatch."""
    torch.use_deterministic_algorithms(False)  # opcheck compares two runs, and NaN of empty outputs would differ
    arguments = make(device, F16, inputs=3, beside=2, outputs=4, size=(2, 3), rows=F32)
    for with_stats in (True, False):
        torch.library.opcheck(torch.ops.ddgan_fast.pointwise_join.default, (*arguments.values(), with_stats, 0.5))


def test_compiles_as_one_graph(device):
    arguments = make(device, F16, inputs=3, beside=2, outputs=4, size=(2, 3))
    call = partial(pointwise_join, with_stats=True)
    with backend.force("triton"), torch.no_grad():
        got = torch.compile(call, fullgraph=True, backend="aot_eager")(**arguments)
        torch.testing.assert_close(got, call(**arguments), rtol=0, atol=0)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "sizes",
    [
        {"batch": 100, "inputs": 256, "beside": 128, "outputs": 128, "size": (32, 32)},
        {"batch": 100, "inputs": 256, "beside": 256, "outputs": 256, "size": (8, 8)},
        {"batch": 1, "inputs": 256, "beside": 256, "outputs": 256, "size": (4, 4)},
        {"batch": 16, "inputs": 64, "beside": 64, "outputs": 64, "size": (256, 256)},
        {"batch": 1, "inputs": 128, "beside": 0, "outputs": 64, "size": (256, 256)},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
def test_at_real_shapes(assert_near, sizes, dtype):
    test_matches_float64_reference(assert_near, "cuda", dtype, sizes | {"rows": dtype}, 0.5**0.5)
