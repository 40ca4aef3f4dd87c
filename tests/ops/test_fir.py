"""FIR resampling against the reference implementation, its adjoint, its gradients of both orders, and its borders."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from ddgan_fast.models.layers import Features, PyramidDown
from ddgan_fast.ops import backend, fir, fir_blur, fir_down2, fir_up2

OPS = {"fir_up2": (fir_up2, fir.UP), "fir_down2": (fir_down2, fir.DOWN), "fir_blur": (fir_blur, fir.BLUR)}
CASES = {
    "op/up2_as_in_upsample_2d": "fir_up2",
    "op/up2_odd_size": "fir_up2",
    "op/up2_size1": "fir_up2",
    "upsample_2d/k1331_8x8_f2_g1": "fir_up2",
    "upsample_2d/k1331_5x7_f2_g1": "fir_up2",
    "op/down2_as_in_downsample_2d": "fir_down2",
    "op/down2_odd_size": "fir_down2",
    "op/down2_size2": "fir_down2",
    "downsample_2d/k1331_8x8_f2_g1": "fir_down2",
    "downsample_2d/k1331_5x7_f2_g1": "fir_down2",
    "op/blur_as_in_conv_downsample_2d": "fir_blur",
}
RUNS = [(op, name) for op in OPS for name in ("reference", "triton")]
LAYOUTS = [torch.contiguous_format, torch.channels_last]
GOLDEN_RUNS = [("reference", case, dtype, layout) for case in CASES for dtype in (torch.float32, torch.float64) for layout in LAYOUTS]
# interpreted kernels take seconds: each case once, dtypes and layouts in turn
GOLDEN_RUNS += [("triton", case, (torch.float32, torch.float64)[i // 2 % 2], LAYOUTS[i % 2]) for i, case in enumerate(CASES)]
layouts = pytest.mark.parametrize("layout", LAYOUTS, ids=str)
dtypes = pytest.mark.parametrize("dtype, limit", [(torch.float32, 1e-5), (torch.float64, 1e-6)], ids=["f32", "f64"])
each_op = pytest.mark.parametrize("op", OPS)


def is_our_filter(g, case):
    """Whether the stored case uses the normalised [1, 3, 3, 1], times 4 for up."""
    config = g.config[case]
    if not case.startswith("op/"):
        return (config["k"], config["factor"], config["gain"]) == ([1, 3, 3, 1], 2, 1)
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    return torch.equal(g[f"in/{case}/kernel"], config["up_x"] ** 2 * torch.outer(taps, taps))


def same_layout(y, x):
    """y is dense in the memory format of x. Where x fits both (one channel, or one pixel), y may have either."""
    return any(y.is_contiguous(memory_format=f) for f in LAYOUTS if x.is_contiguous(memory_format=f))


@pytest.mark.parametrize("name, case, dtype, layout", GOLDEN_RUNS, ids=str)
def test_matches_reference(golden, assert_near, name, case, dtype, layout):
    g, limit = golden("H_upfirdn2d"), {torch.float32: 1e-5, torch.float64: 1e-6}[dtype]
    assert is_our_filter(g, case)
    x = g[f"in/{case}/x"].to(dtype).to(memory_format=layout).requires_grad_()
    with backend.force(name):
        y = OPS[CASES[case]][0](x)
        (grad,) = torch.autograd.grad(y, x, g[f"in/{case}/grad_out"].to(dtype).to(memory_format=layout))
    assert y.dtype == dtype
    assert same_layout(y, x)
    assert_near(y, g[f"out/{case}/y"], limit)
    assert_near(grad, g[f"out/{case}/grad_x"], limit)


def test_no_case_with_our_filter_is_left_out(golden):
    g = golden("H_upfirdn2d")
    ours = {case for case in g.config if case.startswith(("op/", "upsample_2d/", "downsample_2d/")) and is_our_filter(g, case)}
    assert ours - set(CASES) == {"op/no_pad", "op/up1_down1_asym_pad"} & ours  # pads that no layer has


@layouts
@dtypes
@pytest.mark.parametrize("size", ["8x8", "5x7"])
def test_pyramid_matches_reference(golden, assert_near, size, dtype, limit, layout):
    g, case = golden("H_upfirdn2d"), f"conv_downsample_2d/k1331_{size}_f2_g1_conv3"
    assert is_our_filter(g, case)
    w = g[f"in/{case}/w"]
    layer = PyramidDown(w.shape[1], w.shape[0])
    layer.load_state_dict({"conv.weight": w, "conv.bias": torch.zeros(len(w))})
    layer.to(dtype=dtype, memory_format=layout)
    x = g[f"in/{case}/x"].to(dtype).to(memory_format=layout).requires_grad_()
    nothing = x.new_zeros(len(x), len(w), x.shape[2] // 2, x.shape[3] // 2).to(memory_format=layout)
    y = 2**0.5 * layer(x, Features(nothing)).x
    assert same_layout(y, x)
    y.backward(g[f"in/{case}/grad_out"].to(dtype))
    for name, got in (("y", y), ("grad_x", x.grad), ("grad_w", layer.conv.weight.grad)):
        assert_near(got, g[f"out/{case}/{name}"], limit)


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 1, 2, 2), (2, 5, 4, 10)], ids=str)
def test_up_is_four_times_the_adjoint_of_down(shape):
    torch.manual_seed(0)
    x, y = torch.randn(shape, dtype=torch.float64), torch.randn(*shape[:2], 2 * shape[2], 2 * shape[3], dtype=torch.float64)
    torch.testing.assert_close((fir_up2(x) * y).sum(), 4 * (x * fir_down2(y)).sum(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("op, name", RUNS)
def test_gradients_of_both_orders(op, name):
    torch.manual_seed(0)
    x = torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    with backend.force(name):
        assert gradcheck(OPS[op][0], (x,), fast_mode=True)
        assert gradgradcheck(OPS[op][0], (x,), fast_mode=True)


def test_zero_padding_darkens_the_borders_of_a_constant_image():
    one = torch.ones(1, 1, 8, 8)
    for y, corner, edge in ((fir_up2(one), 0.5625, 0.75), (fir_down2(one), 0.765625, 0.875)):
        assert y[0, 0, 0, 0] == y[0, 0, -1, -1] == y[0, 0, 0, -1] == corner
        assert (y[0, 0, 0, 1:-1] == edge).all()
        assert (y[0, 0, 1:-1, -1] == edge).all()
        assert (y[0, 0, 1:-1, 1:-1] == 1).all()
    assert fir_blur(one)[0, 0, 0, 0] == 0.25
    assert (fir_blur(one)[0, 0, 2:-2, 2:-2] == 1).all()


@each_op
def test_samples_and_channels_do_not_mix(op):
    x = torch.zeros(2, 3, 6, 6)
    x[1, 2] = torch.randn(6, 6)
    y = OPS[op][0](x)
    assert not y[0].any()
    assert not y[1, :2].any()
    torch.testing.assert_close(y[1, 2], OPS[op][0](x[1:, 2:])[0, 0], rtol=1e-6, atol=1e-6)


@each_op
def test_compiles_into_one_graph(op):
    x = torch.randn(2, 3, 6, 5)
    compiled = torch.compile(OPS[op][0], fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), OPS[op][0](x), rtol=0, atol=0)
