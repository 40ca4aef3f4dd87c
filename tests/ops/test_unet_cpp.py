"""The U-Net's ops of the extension: group norm, residual join and FIR resampling for sampling on a CPU, against float64."""

import pytest
import torch
import torch.nn.functional as F

from ddgan_fast.errors import MissingError
from ddgan_fast.ops import adaptive_group_norm, backend, fir_blur, fir_down2, fir_up2, residual_join

pytestmark = pytest.mark.cpp
NHWC = torch.channels_last
LIMIT = 1e-6  # over the largest value
# channels, of these of skip, groups, height, width: vectors that end early, a group across the seam, one pixel, several runs of pixels
SHAPES = [
    (20, 0, 5, 5, 7),
    (20, 10, 5, 5, 7),
    (24, 0, 6, 1, 1),
    (12, 4, 3, 1, 1),
    (8, 0, 1, 33, 32),
    (12, 3, 3, 33, 32),
    (256, 128, 32, 9, 8),
]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)


@pytest.fixture(autouse=True)
def sampling():
    """No gradients."""
    with torch.no_grad():
        yield


def images(*shape, seed=0):
    return (2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed)) + 1).to(memory_format=NHWC)


def norm_inputs(shape, batch=3):
    """x, skip or None, and rows [batch, 2 * channels] with bias and embedding [batch, channels]."""
    channels, beside, _, height, width = shape
    x = images(batch, channels - beside, height, width)
    skip = images(batch, beside, height, width, seed=1) if beside else None
    generator = torch.Generator().manual_seed(2)
    return x, skip, *(0.5 + torch.randn(size, generator=generator) for size in ((batch, 2 * channels), (channels,), (batch, channels)))


def compare(assert_near, call, tensors, limit=LIMIT):
    """`call(*tensors)`, a tuple of images, by the extension and by the reference in float64. Returns the former."""
    with backend.force("cpu"):
        got = call(*tensors)
    with backend.force("reference"):
        want = call(*(None if tensor is None else tensor.double() for tensor in tensors))
    for a, b in zip(got, want, strict=True):
        assert a.dtype == torch.float32
        assert a.is_contiguous(memory_format=NHWC)
        assert_near(a, b, limit)
    return got


@shapes
@pytest.mark.parametrize(
    "swish, offsets, per_sample", [(False, "", True), (True, "be", True), (True, "b", False), (False, "e", False)], ids=str
)
def test_norm(assert_near, shape, swish, offsets, per_sample):
    x, skip, rows, bias, embedding = norm_inputs(shape)

    def call(x, skip, rows, bias, embedding):
        scale, shift = (rows if per_sample else rows[1]).chunk(2, dim=-1)  # views, whose rows lie apart
        out = adaptive_group_norm(
            x, scale, shift, shape[2], swish=swish, skip=skip, concat=skip is not None,
            bias=bias if "b" in offsets else None, embedding=embedding if "e" in offsets else None,
        )  # fmt: skip
        return (out,) if skip is None else out

    got = compare(assert_near, call, (x, skip, rows, bias, embedding))
    assert skip is not None or got[0].stride() == x.stride()


@pytest.mark.parametrize("fir", ["up", "down"])
@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[1]], ids=str)
def test_norm_with_fir(assert_near, shape, fir):
    x, skip, rows, bias, embedding = norm_inputs(shape)
    compare(
        assert_near,
        lambda x, skip, rows: adaptive_group_norm(x, *rows.chunk(2, dim=1), shape[2], swish=True, fir=fir, skip=skip),
        (x, skip, rows),
    )


@pytest.mark.parametrize("eps", [1e-6, 0.5])
def test_norm_without_options_is_the_ordinary_one(assert_near, eps):
    x, _, rows, *_ = norm_inputs(SHAPES[0])
    scale, shift = rows[0].chunk(2)
    with backend.force("cpu"):
        got = adaptive_group_norm(x, scale, shift, 5, eps=eps)
    assert_near(got, F.group_norm(x.double(), 5, scale.double(), shift.double(), eps), LIMIT)


@pytest.mark.parametrize("mean", [1e3, -1e3, 1e5])
@pytest.mark.parametrize("size", [4, 40])
def test_a_large_mean_does_not_cancel(assert_near, size, mean):
    """The values handed over are exact, so the limit is that of a small mean; so it is where the mean is that of a bias."""
    x, row = images(2, 8, size, size), torch.ones(8)
    compare(assert_near, lambda x, row: (adaptive_group_norm(x, row, 0 * row, 2),), (x + mean, row))
    compare(assert_near, lambda x, row: (adaptive_group_norm(x, row, 0 * row, 2, bias=mean * row),), (x, row))


def test_one_far_pixel_does_not_spoil_the_others(assert_near):
    x, row = images(2, 8, 32, 32), torch.ones(8)
    x[:, :, 0, 0] = 1e4
    compare(assert_near, lambda x, row: (adaptive_group_norm(x, row, 0 * row, 2),), (x, row))


def test_swish_at_every_scale():
    """A scale of 0 leaves the shift alone. Limit: 3 units in the last place, and where e^-y overflows 0, as torch has it."""
    special = torch.tensor([88, -88, -88.7, -89, 200, -200, 3e38, -3e38, 0, 1e-30, float("inf"), float("-inf"), float("nan")])
    y = torch.cat((special, torch.linspace(-88, 88, 20_000), torch.linspace(-2, 2, 20_000)))
    x = images(1, len(y), 2, 1)
    with backend.force("cpu"):
        got = adaptive_group_norm(x, torch.zeros_like(y), y, len(y), swish=True)[0, :, 0, 0]
    want = torch.where(y < -88.72, -0.0, F.silu(y.double())).float()
    want[torch.isinf(y) & (y < 0)] = float("nan")
    torch.testing.assert_close(got, want, rtol=3 * 2**-24 * 2, atol=0, equal_nan=True)


@pytest.mark.parametrize("biases", ["", "x", "h", "xh"])
@pytest.mark.parametrize("size", [(3, 20, 5, 7), (2, 8, 1, 1), (2, 128, 33, 32)], ids=str)
def test_join_gives_the_bits_of_the_reference(size, biases):
    x, h = images(*size), images(*size, seed=1)
    rows = torch.randn(2, size[1])
    given = {f"{name}_bias": row for name, row in zip("xh", rows, strict=True) if name in biases}
    with backend.force("cpu"):
        got = residual_join(x, h, **given)
        assert torch.equal(residual_join(x, h, **given, with_stats=True)[0], got)
    with backend.force("reference"):
        assert torch.equal(got, residual_join(x, h, **given))
    assert got.stride() == x.stride()


@pytest.mark.parametrize("op", [fir_up2, fir_down2, fir_blur])
@pytest.mark.parametrize("size", [(3, 20, 5, 7), (2, 3, 2, 3), (1, 70, 33, 32), (1, 4, 3, 70)], ids=str)
def test_fir(assert_near, op, size):
    compare(assert_near, lambda x: (op(x),), (images(*size),))


def calls(x, skip, rows, embedding, groups):
    """Each op once; a tuple of images."""
    scale, shift = rows.chunk(2, dim=1)
    norm = adaptive_group_norm(x, scale, shift, groups, swish=True, skip=skip, embedding=embedding, concat=skip is not None)
    return *((norm,) if skip is None else norm), residual_join(x, x.flip(1), x[0, :, 0, 0]), fir_up2(x), fir_blur(x)


@shapes
def test_an_image_has_the_same_bits_in_any_batch_at_any_number_of_threads(shape):
    x, skip, rows, _, embedding = norm_inputs(shape, batch=5)
    arguments = x, skip, rows, embedding
    with backend.force("cpu"):
        whole = calls(*arguments, shape[2])
        for alone, among in zip(calls(*(None if a is None else a[:1] for a in arguments), shape[2]), whole, strict=True):
            assert torch.equal(alone[0], among[0])
        threads = torch.get_num_threads()
        try:
            torch.set_num_threads(3 - min(threads, 2))
            for a, b in zip(calls(*arguments, shape[2]), whole, strict=True):
                assert torch.equal(a, b)
        finally:
            torch.set_num_threads(threads)


def test_images_of_several_rounds_and_runs_of_pixels(assert_near):
    """5 images of 80 x 80 x 16: together more than are normalised at a time."""
    x, row = images(5, 16, 80, 80), torch.ones(16)
    compare(assert_near, lambda x, row: (adaptive_group_norm(x, row, row, 4),), (x, row))


def test_join_upsamples_and_scales(assert_near):
    x, h, row = images(2, 20, 5, 7), images(2, 20, 10, 14, seed=1), torch.randn(20)
    compare(assert_near, lambda x, h, row: (residual_join(x, h, row, up=True, scale=0.3),), (x, h, row))


@pytest.mark.parametrize("fir", ["up", "down"])
@pytest.mark.parametrize("shape", SHAPES[1:2], ids=str)
def test_the_fir_of_the_norm_alone(assert_near, shape, fir):
    x, skip, rows, *_ = norm_inputs(shape)

    def call(x, skip, rows):
        scale, shift = rows.chunk(2, dim=1)
        return (adaptive_group_norm(x, scale, shift, shape[2], swish=True, fir=fir, skip=skip, fir_x=False),)

    compare(assert_near, call, (x, skip, rows))


@pytest.mark.parametrize("shape", SHAPES[:3], ids=str)
def test_registration(shape):
    x, skip, rows, bias, embedding = norm_inputs(shape)
    scale, shift = rows.chunk(2, dim=1)
    nothing, ops = torch.empty(0), torch.ops.ddgan_cpp
    skip = nothing if skip is None else skip
    for swish, concat in ((1, 0), (0, int(skip is not nothing))):
        torch.library.opcheck(ops.group_norm.default, (x, skip, bias, nothing, scale, shift, shape[2], 1e-6, swish, concat))
    torch.library.opcheck(ops.residual_join.default, (x, x.clone(), nothing, nothing, 0.5))
    for op in (ops.fir_up2, ops.fir_blur, *([ops.fir_down2] if min(x.shape[2:]) > 1 else [])):
        torch.library.opcheck(op.default, (x,))


def test_compiles_into_one_graph():
    x, skip, rows, _, embedding = norm_inputs(SHAPES[1])
    with backend.force("cpu"):
        compiled = torch.compile(calls, fullgraph=True, backend="aot_eager")
        for a, b in zip(compiled(x, skip, rows, embedding, 5), calls(x, skip, rows, embedding, 5), strict=True):
            assert torch.equal(a, b)


WRONG = {
    "float64": (lambda x: x.double(), "tensors are torch.float64 on cpu; it serves torch.float32 on cpu"),
    "bfloat16": (lambda x: x.bfloat16(), "tensors are torch.bfloat16 on cpu; it serves torch.float32 on cpu"),
    "another device": (lambda x: x.to("meta"), "tensors are torch.float32 on meta; it serves torch.float32 on cpu"),
    "contiguous": (lambda x: x.contiguous(), r"a tensor has strides \(256, 64, 8, 1\); it serves channels_last"),
    "sliced": (lambda x: x[:, :, ::2], r"a tensor has strides \(256, 1, 64, 4\); it serves channels_last"),
    "a gradient": (lambda x: x.requires_grad_(), r"it has no gradient, and one is wanted: call it under torch.no_grad\(\)"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_refused(wrong):
    """And where no backend is forced, the reference serves it."""
    change, reason = WRONG[wrong]
    x = change(images(2, 4, 8, 8))
    row = torch.ones(4, dtype=x.dtype, device=x.device)
    ops = (lambda: adaptive_group_norm(x, row, row, 1), lambda: residual_join(x, x), lambda: fir_up2(x), lambda: fir_blur(x))
    with torch.enable_grad():
        for op in ops:
            op()
            with backend.force("cpu"), pytest.raises(MissingError, match=reason):
                op()


def test_a_row_that_wants_a_gradient_and_a_skip_of_another_layout_are_refused():
    x, row = images(2, 4, 8, 8), torch.ones(4)
    wanting = torch.ones(4, requires_grad=True)
    with backend.force("cpu"):
        with torch.enable_grad(), pytest.raises(MissingError, match="it has no gradient"):
            adaptive_group_norm(x, row, wanting, 1)
        with torch.enable_grad(), pytest.raises(MissingError, match="it has no gradient"):
            residual_join(x, x, wanting)
        with pytest.raises(MissingError, match="channels_last"):
            adaptive_group_norm(x, torch.ones(8), torch.ones(8), 2, skip=x.contiguous())
        assert adaptive_group_norm(x, row, wanting, 1).shape == x.shape  # no gradient is recorded here


X, ROW, NONE = torch.zeros(2, 4, 3, 3).to(memory_format=NHWC), torch.ones(4), torch.empty(0)


@pytest.mark.parametrize(
    "op, arguments, message",
    [
        ("group_norm", (X.contiguous(), NONE, NONE, NONE, ROW, ROW, 1, 0.1, 0, 0), r"x has shape \[2, 4, 3, 3\]; it must be channels_last"),
        ("group_norm", (X, X[:1], NONE, NONE, ROW, ROW, 1, 0.1, 0, 0), r"skip has shape \[1, 4, 3, 3\] and x \[2, 4, 3, 3\]"),
        ("group_norm", (X, NONE, NONE, NONE, ROW, ROW, 3, 0.1, 0, 0), "4 channels and 3 groups"),
        ("group_norm", (X, NONE, NONE, NONE, ROW, NONE, 1, 0.1, 0, 0), "scale and shift must be given"),
        ("group_norm", (X, NONE, NONE, NONE, ROW, ROW, 1, 0.1, 0, 1), "concat goes with a skip"),
        ("group_norm", (X, NONE, ROW[:3], NONE, ROW, ROW, 1, 0.1, 0, 0), r"bias has shape \[3\]; it must be \[C\] or \[B, C\]"),
        ("group_norm", (X, NONE, ROW.expand(3, 4), NONE, ROW, ROW, 1, 0.1, 0, 0), r"bias has shape \[3, 4\]"),
        ("group_norm", (X, NONE, ROW.double(), NONE, ROW, ROW, 1, 0.1, 0, 0), "bias must be float32"),
        ("residual_join", (X, X[:1], NONE, NONE, 1.0), r"h has shape \[1, 4, 3, 3\]; it must be \[2, 4, 3, 3\]"),
        ("residual_join", (X, X, ROW.expand(2, 4), NONE, 1.0), r"x_bias has shape \[2, 4\]; it must be \[C\]"),
        ("fir_down2", (X[:1, :, :1],), r"x has shape \[1, 4, 1, 3\]; height and width must be 2 or more"),
        ("fir_up2", (X.double(),), "x must be float32"),
    ],
)  # fmt: skip
def test_the_library_checks_what_it_is_given(op, arguments, message):
    with pytest.raises(RuntimeError, match=f"ddgan_cpp::{op}: {message}"):
        getattr(torch.ops.ddgan_cpp, op)(*arguments)
