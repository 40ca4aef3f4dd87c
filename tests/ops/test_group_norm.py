"""Adaptive group norm against the reference implementation, and its options against compositions of plain torch."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from ddgan_fast.errors import InputError
from ddgan_fast.models.layers import AdaGN
from ddgan_fast.ops import adaptive_group_norm, backend, fir_down2, fir_up2
from ddgan_fast.ops.group_norm import BACKENDS

CASES = [
    *("n2_c8_5x7_s6", "n3_c16_8x8_s8", "n3_c16_8x8_s8_tiny", "n3_c16_8x8_s8_offset", "n1_c32_9x3_s16", "n2_c64_4x4_s5", "n2_c128_3x5_s16"),
    *("n2_c160_4x4_s8", "n2_c160_4x4_s8_tiny", "n2_c160_4x4_s8_offset", "n1_c256_6x6_s8", "n4_c4_3x3_s4", "n2_c12_9x5_s7", "n2_c24_1x1_s4"),
    "n1_c512_2x2_s8",
]
LAYOUTS = [torch.contiguous_format, torch.channels_last]
layouts = pytest.mark.parametrize("layout", LAYOUTS, ids=str)
each_backend = pytest.mark.parametrize("name", BACKENDS)
RUNS = [("reference", case, dtype, layout) for case in CASES for dtype in (torch.float32, torch.float64) for layout in LAYOUTS]
# interpreted kernels take seconds: each case once, dtypes and layouts in turn; tests/kernels has the rest
RUNS += [("triton", case, (torch.float32, torch.float64)[i // 2 % 2], LAYOUTS[i % 2]) for i, case in enumerate(CASES)]
LIMITS = {torch.float32: (1e-5, 1e-4), torch.float64: (1e-6, 1e-6)}  # of values and of gradients


def make_inputs(layout=torch.contiguous_format, dtype=torch.float64, channels=12, per_sample=True):
    """x [2, 12, 5, 7], scale and shift [2, C] or [C]."""
    torch.manual_seed(0)
    shape = (2, channels) if per_sample else (channels,)
    x = (3 * torch.randn(2, 12, 5, 7) + 1).to(dtype).to(memory_format=layout)
    return x, (1 + torch.randn(shape)).to(dtype), torch.randn(shape).to(dtype)


@pytest.mark.parametrize("name, case, dtype, layout", RUNS, ids=str)
def test_matches_reference(golden, assert_near, name, case, dtype, layout):
    g, (limit, grad_limit) = golden("I_adagn_silu"), LIMITS[dtype]
    config, out = g.config[case], g.group(f"out/{case}/")
    norm = AdaGN(config["C"], config["style_dim"])
    assert norm.groups == config["groups"]
    norm.load_state_dict(g.group(f"w/{case}/"))
    norm.to(dtype)
    x = g[f"in/{case}/x"].to(dtype).to(memory_format=layout).requires_grad_()
    style = g[f"in/{case}/style"].to(dtype).requires_grad_()
    with backend.force(name):
        before, y = norm(x, style), norm(x, style, swish=True)
        y.backward(g[f"in/{case}/grad_out"].to(dtype).to(memory_format=layout))
    assert y.is_contiguous(memory_format=layout)
    assert before.is_contiguous(memory_format=layout)
    assert_near(before, out["pre_act"], limit)
    assert_near(y, out["y"], limit)
    grads = {"x": x, "style": style, "style.weight": norm.style.weight, "style.bias": norm.style.bias}
    for key, leaf in grads.items():
        assert_near(leaf.grad, out[f"grad_{key}"], grad_limit)


def test_every_stored_case_is_replayed(golden):
    assert set(golden("I_adagn_silu").config) == set(CASES)


@layouts
@pytest.mark.parametrize("fir, resample", [("up", fir_up2), ("down", fir_down2)])
@pytest.mark.parametrize("swish", [False, True])
def test_fir_resamples_output_and_input(assert_near, fir, resample, swish, layout):
    x, scale, shift = make_inputs(layout)
    y, resampled = adaptive_group_norm(x, scale, shift, 3, swish=swish, fir=fir)
    assert_near(y, resample(adaptive_group_norm(x, scale, shift, 3, swish=swish)), 1e-12)
    assert_near(resampled, resample(x), 1e-12)
    assert y.is_contiguous(memory_format=layout)
    assert resampled.is_contiguous(memory_format=layout)


@layouts
@pytest.mark.parametrize("fir", [None, "up", "down"])
def test_skip_is_normalised_as_if_concatenated(assert_near, fir, layout):
    """5 groups of 4 channels: one of them straddles the seam at 10."""
    x, scale, shift = make_inputs(layout, channels=20)
    x, skip = x[:, :10].contiguous(memory_format=layout), torch.randn(2, 10, 5, 7, dtype=x.dtype).to(memory_format=layout)
    leaves = [tensor.requires_grad_() for tensor in (x, skip, scale, shift)]
    got = adaptive_group_norm(x, scale, shift, 5, swish=True, fir=fir, skip=skip)
    want = adaptive_group_norm(torch.cat((x, skip), dim=1), scale, shift, 5, swish=True, fir=fir)
    got, want = (y if fir is None else torch.cat(y, dim=1) for y in (got, want))
    assert_near(got, want, 1e-12)
    for a, b in zip(torch.autograd.grad(got.sin().sum(), leaves), torch.autograd.grad(want.sin().sum(), leaves), strict=True):
        assert_near(a, b, 1e-12)


@pytest.mark.parametrize("eps", [1e-6, 0.5])
def test_one_scale_for_all_samples_is_the_ordinary_group_norm(assert_near, eps):
    x, scale, shift = make_inputs(per_sample=False)
    y = adaptive_group_norm(x, scale, shift, 3, eps=eps)
    assert_near(adaptive_group_norm(x, scale.expand(2, 12), shift.expand(2, 12), 3, eps=eps), y, 1e-12)
    assert_near(y, F.group_norm(x, 3, scale, shift, eps), 1e-12)


@layouts
@pytest.mark.parametrize("dtype, limit", [(torch.bfloat16, 2**-7), (torch.float32, 1e-5)], ids=["bf16", "f32"])
@pytest.mark.parametrize("fir", [None, "up", "down"])
def test_near_float64(assert_near, fir, dtype, limit, layout):
    x, scale, shift = make_inputs(layout, dtype)
    got = adaptive_group_norm(x, scale, shift, 3, swish=True, fir=fir)
    want = adaptive_group_norm(x.double(), scale.double(), shift.double(), 3, swish=True, fir=fir)
    for a, b in ((got, want),) if fir is None else zip(got, want, strict=True):
        assert a.dtype == dtype
        assert a.is_contiguous(memory_format=layout)
        assert_near(a, b, limit)


@pytest.mark.parametrize("name, fir", [("reference", None), ("reference", "up"), ("reference", "down"), ("triton", None)])
def test_gradients_of_both_orders(name, fir):
    torch.manual_seed(0)
    x, scale, shift = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((1, 4, 3, 2), (1, 6), (1, 6)))
    skip = torch.randn(1, 2, 3, 2, dtype=torch.float64, requires_grad=True)

    def op(x, scale, shift, skip):
        return adaptive_group_norm(x, scale, shift, 3, swish=True, fir=fir, skip=skip)

    with backend.force(name):
        assert gradcheck(op, (x, scale, shift, skip), fast_mode=True)
        assert gradgradcheck(op, (x, scale, shift, skip), fast_mode=True)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"groups": 5}, "12 channels cannot be split into 5 groups"),
        ({"skip": torch.zeros(2, 6, 5, 7, dtype=torch.float64)}, r"scale has shape \[2, 12\]; it must be \[18\] or \[2, 18\]"),
        ({"scale": torch.ones(3, 12)}, r"scale has shape \[3, 12\]"),
        ({"scale": torch.ones(2, 12, 1, 1)}, "scale has shape"),
        ({"shift": torch.ones(11)}, r"shift has shape \[11\]"),
        ({"fir": "left"}, "fir = 'left'; it must be None, 'up' or 'down'"),
        ({"fir": True}, "fir = True"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(wrong, message):
    x, scale, shift = make_inputs()
    with pytest.raises(InputError, match=message):
        adaptive_group_norm(**{"x": x, "scale": scale, "shift": shift, "groups": 3} | wrong)


@pytest.mark.parametrize("fir", [None, "down"])
def test_compiles_into_one_graph(fir):
    x, scale, shift = make_inputs(dtype=torch.float32)
    compiled = torch.compile(adaptive_group_norm, fullgraph=True, backend="aot_eager")
    got, want = (op(x, scale, shift, 3, swish=True, fir=fir) for op in (compiled, adaptive_group_norm))
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)
