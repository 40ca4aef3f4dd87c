"""The kernels of group norm, residual join and their FIR forms against the plain formula in float64: values and gradients."""

from itertools import product

import pytest
import torch

pytest.importorskip("triton")

from ddgan_fast.errors import InputError, MissingError
from ddgan_fast.kernels import group_norm as kernels
from ddgan_fast.kernels.tiles import Shape
from ddgan_fast.ops import adaptive_group_norm, backend, residual_join
from ddgan_fast.ops.group_norm import group_norm, group_norm_backward, group_norm_fir

NCHW, NHWC = torch.contiguous_format, torch.channels_last
F16, BF16, F32, F64 = torch.float16, torch.bfloat16, torch.float32, torch.float64
# of values, over the largest; the interpreter truncates where a GPU rounds to bfloat16
LIMITS = {F16: 2**-10, BF16: 2**-7, F32: 2e-6, F64: 1e-12}


def make(device, shape, dtype, layout, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator) * 2 + 1).to(device, dtype).to(memory_format=layout).requires_grad_()


def rows(device, dtype, *shapes):
    generator = torch.Generator().manual_seed(1)
    return [(0.5 + torch.randn(shape, generator=generator)).to(device, dtype).requires_grad_() for shape in shapes]


def wide(tensor):
    """The tensor in float64, as a leaf."""
    return None if tensor is None else tensor.detach().double().requires_grad_()


def check(assert_near, call, tensors, limit, layout):
    """`call(*tensors)`, a tuple of outputs, by the kernels and by the reference in float64: values, layouts, gradients."""
    doubles = [wide(tensor) for tensor in tensors]
    with backend.force("triton"):
        got = call(*tensors)
    with backend.force("reference"):
        want = call(*doubles)
    upstream = [torch.cos(3 * y.detach()) for y in want]
    present = [i for i, tensor in enumerate(tensors) if tensor is not None]
    grads = torch.autograd.grad(got, [tensors[i] for i in present], [u.to(y) for u, y in zip(upstream, got, strict=True)])
    wanted = torch.autograd.grad(want, [doubles[i] for i in present], upstream)
    for a, b in zip(got, want, strict=True):
        assert a.is_contiguous(memory_format=layout)
        assert_near(a, b, limit)
    for i, a, b in zip(present, grads, wanted, strict=True):
        assert (a.dtype, a.stride()) == (tensors[i].dtype, tensors[i].stride())
        assert_near(a, b, 4 * limit)


# x, channels of skip, groups, dtype, layout, swish, bias and embedding; on chip down to the blank line, then split
CASES = [
    ((1, 12, 1, 1), 0, 3, F32, NCHW, False, False),
    ((3, 12, 17, 9), 0, 3, BF16, NHWC, True, True),
    ((2, 64, 4, 4), 0, 16, F16, NHWC, True, True),
    ((1, 96, 5, 7), 0, 24, F32, NCHW, True, False),
    ((3, 160, 3, 3), 96, 32, F32, NHWC, True, False),
    ((1, 10, 17, 17), 10, 5, F64, NCHW, True, True),
    ((2, 12, 4, 1), 0, 1, BF16, NCHW, False, False),

    ((1, 12, 40, 33), 0, 3, F32, NHWC, True, True),
    ((2, 20, 36, 36), 16, 9, F32, NCHW, True, True),
    ((1, 12, 33, 64), 0, 3, BF16, NHWC, True, False),
    ((1, 10, 48, 48), 10, 5, F16, NHWC, False, True),
    ((1, 4, 70, 70), 0, 1, F64, NCHW, True, False),
]  # fmt: skip


@pytest.mark.parametrize("shape, beside, groups, dtype, layout, swish, offsets", CASES, ids=str)
def test_norm(assert_near, device, shape, beside, groups, dtype, layout, swish, offsets):
    batch, channels = shape[0], shape[1] + beside
    x = make(device, shape, dtype, layout)
    skip = make(device, (batch, beside, *shape[2:]), dtype, layout, seed=2) if beside else None
    scale, shift, bias, embedding = rows(device, dtype, (batch, channels), (channels,), (channels,), (batch, channels))
    bias, embedding = (bias, embedding) if offsets else (None, None)

    def call(x, skip, scale, shift, bias, embedding):
        out = adaptive_group_norm(
            x, scale, shift, groups, swish=swish, skip=skip, bias=bias, embedding=embedding, concat=skip is not None
        )  # fmt: skip
        return out if skip is not None else (out,)

    check(assert_near, call, (x, skip, scale, shift, bias, embedding), LIMITS[dtype], layout)


def test_both_forms_are_met():
    forms = [
        Shape(torch.empty(shape), torch.empty(shape[0], n, *shape[2:]) if n else None, groups).on_chip for shape, n, groups, *_ in CASES
    ]
    assert forms == 7 * [True] + 5 * [False]


@pytest.mark.parametrize("mean", [1e3, -1e3])
@pytest.mark.parametrize("size, layout", [(9, NCHW), (9, NHWC), (40, NCHW), (40, NHWC)], ids=str)
def test_a_large_mean_does_not_cancel(assert_near, device, size, layout, mean):
    """Limit: float32 numbers near 1e3 are 6e-5 apart, and y reaches 4; E[x^2] - E[x]^2 would be off by more than a tenth."""
    torch.manual_seed(0)
    x = (mean + torch.randn(2, 8, size, size)).to(device).to(memory_format=layout)
    scale, shift = torch.ones(8, device=device), torch.zeros(8, device=device)
    with backend.force("triton"):
        y = adaptive_group_norm(x, scale, shift, 2)
        joined, stats = residual_join(x, x, with_stats=True)
        handed = adaptive_group_norm(joined, scale, shift, 2, stats=stats)
    with backend.force("reference"):
        for got, given in ((y, x), (handed, joined)):
            assert_near(got, adaptive_group_norm(given.double(), scale.double(), shift.double(), 2), 3e-5)


@pytest.mark.parametrize(
    "shape, dtype, layout, biases",
    [
        ((1, 12, 1, 1), F32, NCHW, True), ((3, 12, 17, 9), BF16, NHWC, True), ((2, 96, 4, 4), F16, NHWC, False),
        ((1, 20, 40, 33), F32, NCHW, True), ((2, 3, 33, 64), F64, NHWC, True),
    ],
    ids=str,
)  # fmt: skip
def test_join(assert_near, device, shape, dtype, layout, biases):
    x, h = make(device, shape, dtype, layout), make(device, shape, dtype, layout, seed=2)
    x_bias, h_bias = rows(device, dtype, shape[1:2], shape[1:2]) if biases else (None, None)
    check(assert_near, lambda *leaves: (residual_join(*leaves),), (x, h, x_bias, h_bias), LIMITS[dtype], layout)
    check(assert_near, lambda *leaves: (residual_join(*leaves, scale=0.3),), (x, h, x_bias, h_bias), LIMITS[dtype], layout)


# x at half the size; the last two are of several runs of pixels, which begin and end within a row
@pytest.mark.parametrize(
    "shape, dtype, layout, biases",
    [
        ((1, 12, 1, 1), F32, NHWC, True), ((2, 1, 3, 1), F64, NCHW, True), ((3, 12, 5, 3), BF16, NHWC, True),
        ((2, 96, 2, 2), F16, NCHW, False), ((1, 20, 14, 11), F32, NCHW, True), ((2, 3, 15, 11), BF16, NHWC, False),
    ],
    ids=str,
)  # fmt: skip
def test_join_of_an_upsampled_input(assert_near, device, shape, dtype, layout, biases):
    x, h = make(device, shape, dtype, layout), make(device, (*shape[:2], 2 * shape[2], 2 * shape[3]), dtype, layout, seed=2)
    x_bias, h_bias = rows(device, dtype, shape[1:2], shape[1:2]) if biases else (None, None)
    check(assert_near, lambda *leaves: (residual_join(*leaves, up=True, scale=0.3),), (x, h, x_bias, h_bias), LIMITS[dtype], layout)


@pytest.mark.parametrize("name", ["reference", "triton"])
def test_gradients_of_a_join_of_an_upsampled_input(device, name):
    """Of the first and second order, from dense and expanded gradients."""
    x, h = make(device, (1, 2, 2, 3), F64, NHWC), make(device, (1, 2, 4, 6), F64, NHWC, seed=2)
    leaves, fast = (x, h, *rows(device, F64, (2,), (2,))), name == "triton"  # fast: along random directions
    with backend.force(name):
        assert torch.autograd.gradcheck(lambda *leaves: residual_join(*leaves, up=True, scale=0.3), leaves, fast_mode=fast)
        assert torch.autograd.gradgradcheck(lambda *leaves: residual_join(*leaves, up=True).square(), leaves, fast_mode=fast)
        out = residual_join(*leaves, up=True)
        for leaf, together in zip(leaves, torch.autograd.grad(out.sum(), leaves, retain_graph=True), strict=True):
            (alone,) = torch.autograd.grad(out.sum(), leaf, retain_graph=True)
            torch.testing.assert_close(alone, together, rtol=0, atol=0)


@pytest.mark.parametrize("shape, dtype, layout", [((2, 12, 4, 3), F32, NCHW), ((1, 12, 15, 11), BF16, NHWC)], ids=str)
def test_stats_of_a_join_of_an_upsampled_input_serve_the_next_norm(assert_near, device, shape, dtype, layout):
    x, h = make(device, shape, dtype, layout), make(device, (*shape[:2], 2 * shape[2], 2 * shape[3]), dtype, layout, seed=2)
    scale, shift = rows(device, F32, shape[1:2], shape[1:2])
    with backend.force("triton"):
        out, stats = residual_join(x, h, with_stats=True, up=True)
        got = adaptive_group_norm(out, scale, shift, 4, stats=stats)
    with backend.force("reference"):
        assert_near(got, adaptive_group_norm(out.double(), scale.double(), shift.double(), 4), LIMITS[dtype])


@pytest.mark.parametrize(
    "shape, beside, dtype, layout",
    [((2, 12, 9, 17), 0, F32, NHWC), ((1, 12, 40, 41), 8, F32, NCHW), ((2, 20, 36, 36), 16, BF16, NHWC)],
    ids=str,
)
def test_stats_of_a_join_serve_the_next_norm(assert_near, device, shape, beside, dtype, layout):
    """Also with two inputs, whose groups straddle the seam."""
    joined = [
        residual_join_by_kernels(make(device, (shape[0], channels, *shape[2:]), dtype, layout, seed)) for seed, channels in ((0, shape[1]), (2, beside)) if channels
    ]  # fmt: skip
    (x, stats), (skip, skip_stats) = joined[0], joined[1] if beside else (None, None)
    channels = shape[1] + beside
    scale, shift, bias = rows(device, dtype, (shape[0], channels), (channels,), (channels,))

    def call(x, skip, scale, shift, bias):
        given = {"stats": stats, "skip_stats": skip_stats} if x.dtype == dtype else {}
        return (adaptive_group_norm(x, scale, shift, 4, swish=True, skip=skip, bias=bias, **given),)

    check(assert_near, call, (x, skip, scale, shift, bias), LIMITS[dtype], layout)


def residual_join_by_kernels(x):
    with backend.force("triton"):
        out, stats = residual_join(x, x.detach().flip(0), with_stats=True)
    assert (stats.shape[0], stats.shape[1], stats.shape[3]) == (len(x), 2, x.shape[1])
    values = out.detach().double().flatten(2)
    if stats.shape[2] == 1:
        torch.testing.assert_close(stats[:, 0, 0].double(), values.mean(dim=2), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(stats[:, 1, 0].double(), values.var(dim=2, correction=0) * values.shape[2], rtol=1e-4, atol=1e-4)
    return out.detach().requires_grad_(), stats


def test_stats_are_used_where_they_are_given(device):
    """Wrong statistics give a wrong norm: the pass over x is really left out."""
    x = make(device, (1, 8, 4, 4), F32, NCHW).detach()
    scale, shift = torch.ones(8, device=device), torch.zeros(8, device=device)
    with backend.force("triton"):
        _, stats = residual_join(x, x, with_stats=True)
        wrong = adaptive_group_norm(x, scale, shift, 2, stats=stats * 4)
        right = adaptive_group_norm(x, scale, shift, 2)
    assert (wrong - right).abs().max() > 0.1


@pytest.mark.parametrize("fir", ["up", "down"])
@pytest.mark.parametrize(
    "shape, dtype, layout, handed",
    [((1, 12, 4, 4), F32, NCHW, False), ((3, 12, 17, 9), BF16, NHWC, True), ((1, 64, 8, 6), F32, NHWC, False), ((2, 12, 34, 33), F64, NHWC, True)],
    ids=str,
)  # fmt: skip
def test_norm_and_fir(assert_near, device, shape, dtype, layout, handed, fir):
    x, stats = make(device, shape, dtype, layout), None
    if handed:
        x, stats = residual_join_by_kernels(x)
    scale, shift = rows(device, dtype, shape[:2], shape[1:2])

    def call(x, scale, shift):
        return adaptive_group_norm(
            x, scale, shift, 3 if shape[1] == 12 else 16, swish=True, fir=fir, stats=stats if x.dtype == dtype else None
        )

    check(assert_near, call, (x, scale, shift), LIMITS[dtype], layout)


@pytest.mark.parametrize("fir, two", [("up", False), ("down", False), ("up", True)])
def test_fir_of_the_norm_without_that_of_its_input(assert_near, device, fir, two):
    x, skip = make(device, (2, 8, 6, 5), F32, NHWC), make(device, (2, 4, 6, 5), F32, NHWC, seed=2)
    scale, shift = rows(device, F32, (2, 12 if two else 8), (12 if two else 8,))

    def call(x, scale, shift, skip=None):
        return (adaptive_group_norm(x, scale, shift, 2, swish=True, fir=fir, skip=skip, fir_x=False),)

    check(assert_near, call, (x, scale, shift, skip) if two else (x, scale, shift), LIMITS[F32], NHWC)


def test_fir_behind_two_inputs_and_a_bias(assert_near, device):
    x, skip = make(device, (1, 10, 4, 5), F32, NHWC), make(device, (1, 10, 4, 5), F32, NHWC, seed=2)
    scale, shift, bias = rows(device, F32, (1, 20), (20,), (20,))

    def call(x, skip, scale, shift, bias):
        return adaptive_group_norm(x, scale, shift, 5, swish=True, fir="down", skip=skip, bias=bias)

    check(assert_near, call, (x, skip, scale, shift, bias), LIMITS[F32], NHWC)


def test_rows_may_be_float32_or_views(assert_near, device):
    """As the halves of one style projection, the norm weights of a half-precision run, and rows that are strided in memory."""
    x, style = make(device, (2, 8, 3, 5), BF16, NHWC), make(device, (2, 16, 1, 1), F32, NCHW)
    flat = style.flatten(1)
    halves, strided, expanded = flat.chunk(2, dim=1), (flat[:, ::2], flat[0, 1::2]), (flat[:, :1].expand(2, 8), flat[1, :8])
    for scale, shift in (halves, [half.to(BF16) for half in halves], strided, expanded):
        with backend.force("triton"):
            y = adaptive_group_norm(x, scale, shift, 2)
        with backend.force("reference"):
            assert_near(y, adaptive_group_norm(x.double(), scale.double(), shift.double(), 2), LIMITS[BF16])
        assert all(grad.isfinite().all() for grad in torch.autograd.grad(y.sum(), (x, style), retain_graph=True))


def test_a_strided_bias_of_a_join(assert_near, device):
    x, (bias,) = make(device, (2, 8, 3, 5), F32, NHWC), rows(device, F32, (16,))
    check(assert_near, lambda x, bias: (residual_join(x, x, bias[::2]),), (x, bias), LIMITS[F32], NHWC)


def test_an_input_that_fits_both_layouts_takes_that_of_the_other(assert_near, device):
    x, skip = make(device, (2, 1, 4, 4), F32, NCHW), make(device, (2, 7, 4, 4), F32, NHWC, seed=2)
    scale, shift = rows(device, F32, (8,), (8,))

    def call(x, skip, scale, shift):
        return adaptive_group_norm(x, scale, shift, 2, swish=True, skip=skip, concat=True)

    check(assert_near, call, (x, skip, scale, shift), LIMITS[F32], NHWC)


def test_float32_rows_of_half_precision_images_have_float32_gradients(device):
    x, (bias,) = make(device, (4, 8, 9, 9), BF16, NHWC), rows(device, F32, (8,))
    with backend.force("triton"):
        (grad,) = torch.autograd.grad((residual_join(x, x, bias) * torch.linspace(0, 1, 9, device=device).to(BF16)).sum(), bias)
    assert (grad != grad.to(BF16).float()).any()


LARGE = [
    ((70_000, 8, 2, 2), "a batch of 70000"),
    ((1, 128, 2048, 2048), "more than 536870911 elements"),
    ((1, 2048, 4, 4), "groups of 1024 channels"),
]


@pytest.mark.parametrize("shape, reason", LARGE, ids=str)
def test_what_is_too_large_is_refused(shape, reason):
    x, row = torch.empty(shape, device="meta"), torch.empty(shape[1], device="meta")
    with backend.force("triton"), pytest.raises(MissingError, match=reason):
        adaptive_group_norm(x, row, row, 2)


def test_a_third_order_is_refused(device):
    x, (scale,) = make(device, (1, 4, 2, 2), F64, NCHW), rows(device, F64, (4,))
    with backend.force("triton"):
        y = adaptive_group_norm(x, scale, scale, 2, swish=True)
    (first,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="third order"):
        torch.autograd.grad(first.square().sum(), x, create_graph=True)


VIEWS = {
    "sliced": (lambda x: x[:, :, ::2], "neither contiguous nor channels_last"),
    "expanded": (lambda x: x[:, :1].expand(-1, 8, -1, -1), "neither contiguous nor channels_last"),
    "transposed": (lambda x: x.transpose(2, 3), "neither contiguous nor channels_last"),
}


@pytest.mark.parametrize("view", VIEWS)
def test_views_are_refused_with_a_reason(device, view):
    change, reason = VIEWS[view]
    x = change(make(device, (2, 8, 6, 6), F32, NCHW))
    with backend.force("triton"):
        for call in (
            lambda: adaptive_group_norm(x, torch.ones(8, device=device), torch.ones(8, device=device), 2),
            lambda: residual_join(x, x),
        ):
            with pytest.raises(MissingError, match=reason):
                call()


def test_mixed_layouts_are_refused(device):
    x, h = make(device, (2, 8, 6, 6), F32, NCHW), make(device, (2, 8, 6, 6), F32, NHWC)
    with backend.force("triton"), pytest.raises(MissingError, match="one tensor is contiguous and another channels_last"):
        residual_join(x, h)


X = torch.zeros(2, 8, 4, 4)
ROW = torch.ones(8)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"x": torch.zeros(8, 4, 4)}, r"x has shape \[8, 4, 4\]; it must be \[B, C, H, W\]"),
        ({"x": torch.zeros(2, 8, 4, 4, dtype=torch.int64)}, "x has dtype torch.int64; it must be a floating-point one"),
        ({"x": torch.zeros(0, 8, 4, 4)}, "no size may be 0"),
        ({"skip": torch.zeros(2, 8, 4, 5)}, r"skip has shape \[2, 8, 4, 5\]; it must be \[2, 8, 4, 4\]"),
        ({"skip": torch.zeros(2, 8, 4, 4, dtype=F64)}, "skip has dtype torch.float64; it must be torch.float32"),
        ({"groups": 3}, "8 channels cannot be split into 3 groups"),
        ({"groups": 0}, "8 channels cannot be split into 0 groups"),
        ({"scale": torch.ones(8, device="meta")}, "scale is on meta; it must be on cpu"),
        ({"shift": torch.ones(8, dtype=F64)}, "shift has dtype torch.float64; it must be torch.float32"),
        ({"bias": torch.ones(2, 8)}, r"bias has shape \[2, 8\]; it must be \[8\]"),
        ({"embedding": torch.ones(8)}, r"embedding has shape \[8\]; it must be \[2, 8\]"),
        ({"x": torch.zeros(2, 8, 1, 4), "fir": "down"}, "height and width must be 2 or more"),
        ({"concat": True}, "it goes with a skip and without fir"),
        ({"stats": torch.zeros(1, 2, 1, 4)}, r"stats has shape \[1, 2, 1, 4\]; it must be what residual_join returned beside this tensor"),
        ({"stats": torch.zeros(2, 2, 1, 8, dtype=F64)}, "stats has dtype torch.float64; it must be torch.float32"),
        ({"skip_stats": torch.zeros(2, 2, 1, 8)}, "skip_stats has shape .* this is no skip"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused_before_any_launch(monkeypatch, wrong, message):
    monkeypatch.setattr(kernels, "forward", None)
    with backend.force("triton"), pytest.raises(InputError, match=message):
        adaptive_group_norm(**{"x": X, "scale": ROW, "shift": ROW, "groups": 2} | wrong)


@pytest.mark.parametrize("wrong, message", [({"h": torch.zeros(2, 8, 4, 5)}, r"h has shape \[2, 8, 4, 5\]"), ({"x_bias": torch.zeros(7)}, r"x_bias has shape \[7\]; it must be \[8\]"), ({"up": True}, r"h has shape \[2, 8, 4, 4\]; it must be \[2, 8, 8, 8\]")])  # fmt: skip
def test_wrong_arguments_of_a_join_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        residual_join(**{"x": X, "h": X} | wrong)


def test_registration(device):
    """torch's own checks of schema, fake tensors, autograd and AOT dispatch."""
    torch.use_deterministic_algorithms(False)  # opcheck compares two runs, and NaN of empty outputs would differ
    x, skip = make(device, (1, 8, 4, 4), F32, NHWC), make(device, (1, 8, 4, 4), F32, NHWC, seed=2)
    scale, shift, bias, embedding = rows(device, F32, (1, 16), (16,), (16,), (1, 16))
    torch.library.opcheck(group_norm, (x, skip, bias, embedding, scale, shift, None, None, 4, 1e-6, True, True))
    torch.library.opcheck(group_norm, (x, None, None, None, scale[:, :8], shift[:8], None, None, 2, 1e-6, False, False))
    torch.library.opcheck(group_norm_fir, (x, scale[:, :8], shift[:8], None, 2, 1e-6, True, False, True))
    torch.library.opcheck(group_norm_fir, (x, scale[:, :8], shift[:8], None, 2, 1e-6, True, True, False))
    torch.library.opcheck(torch.ops.ddgan_fast.residual_join.default, (x, skip, None, shift[:8], True, False, 0.5))
    torch.library.opcheck(torch.ops.ddgan_fast.residual_join.default, (x[..., :2, :2].contiguous(), skip, None, shift[:8], True, True, 0.5))
    with torch.no_grad():
        y, cat, mean, rstd = group_norm(x, skip, bias, embedding, scale, shift, None, None, 4, 1e-6, True, True)
        torch.library.opcheck(group_norm_backward, (y, cat, x, skip, bias, embedding, scale, shift, mean, rstd, 1e-6, True, True))


@pytest.mark.parametrize("fir", [None, "up"])
def test_compiles_and_exports_as_one_graph(device, fir):
    class Module(torch.nn.Module):
        def forward(self, x, scale):
            joined, stats = residual_join(x, x, with_stats=True)
            y = adaptive_group_norm(joined, scale, scale, 2, swish=True, fir=fir, stats=stats)
            return y if fir is None else torch.cat(y, dim=1)

    x, scale = make(device, (3, 8, 4, 4), F32, NHWC), make(device, (8,), F32, torch.preserve_format)
    with backend.force("triton"):
        want = Module()(x, scale)
        got = torch.compile(Module(), fullgraph=True, backend="aot_eager")(x, scale)
        batch = torch.export.Dim("batch", min=2, max=512)
        exported = torch.export.export(Module(), (x, scale), dynamic_shapes=({0: batch}, None))
        torch.testing.assert_close(got, want, rtol=0, atol=0)
        torch.testing.assert_close(exported.module()(x, scale), want, rtol=0, atol=0)
    for a, b in zip(torch.autograd.grad(got.sin().sum(), (x, scale)), torch.autograd.grad(want.sin().sum(), (x, scale)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    called = {str(node.target) for node in exported.graph.nodes if "ddgan_fast" in str(node.target)}
    assert called == {"ddgan_fast.residual_join.default", f"ddgan_fast.group_norm{'' if fir is None else '_fir'}.default"}


@pytest.mark.gpu
@pytest.mark.parametrize(
    "shape, beside", [((100, 128, 32, 32), 0), ((100, 256, 16, 16), 256), ((16, 64, 256, 256), 64), ((1, 64, 256, 256), 0)], ids=str
)
@pytest.mark.parametrize("dtype", [BF16, F32], ids=str)
def test_norm_at_real_shapes(assert_near, shape, beside, dtype):
    groups = min((shape[1] + beside) // 4, 32)
    test_norm(assert_near, "cuda", shape, beside, groups, dtype, NHWC, True, True)


@pytest.mark.gpu
def test_more_than_2_to_the_31_elements():
    x = torch.ones(33, 64, 1024, 1024, dtype=BF16, device="cuda").to(memory_format=NHWC)
    x[-1, :, ::2] = 3
    scale, shift = torch.ones(64, device="cuda"), torch.zeros(64, device="cuda")
    with backend.force("triton"):
        y = adaptive_group_norm(x, scale, shift, 16)
    assert not y[0].any()
    assert (y[-1].abs() == 1).all()


def test_layouts_dtypes_and_forms_are_paired():
    """The table above loses no pair of a dtype and a layout by accident."""
    assert {(case[3], case[4]) for case in CASES} >= set(product((F32, BF16), (NCHW, NHWC)))
