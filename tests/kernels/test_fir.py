"""The FIR kernels in every dtype against the plain formula in float64; tests/ops/test_fir.py replays the stored arrays with them."""

import pytest
import torch

from ddgan_fast.ops import backend, fir_blur, fir_down2, fir_up2
from ddgan_fast.ops.fir import blur, down2, up2

pytest.importorskip("triton")
NCHW, NHWC = torch.contiguous_format, torch.channels_last
LIMITS = {torch.float16: 2**-10, torch.bfloat16: 2**-7, torch.float32: 1e-6, torch.float64: 1e-14}
CASES = [
    ((1, 12, 4, 17), torch.float32, NCHW),
    ((3, 64, 17, 5), torch.bfloat16, NHWC),
    ((2, 96, 2, 2), torch.float16, NHWC),
    ((1, 3, 33, 34), torch.float64, NHWC),
]


@pytest.mark.parametrize("op", [fir_up2, fir_down2, fir_blur])
@pytest.mark.parametrize("shape, dtype, layout", CASES, ids=str)
def test_values_and_gradients(assert_near, device, op, shape, dtype, layout):
    torch.manual_seed(0)
    x = torch.randn(shape).to(device, dtype).to(memory_format=layout).requires_grad_()
    wide = x.detach().double().requires_grad_()
    with backend.force("triton"):
        got = op(x)
    with backend.force("reference"):
        want = op(wide)
    upstream = torch.cos(want.detach())
    assert got.is_contiguous(memory_format=layout)
    assert_near(got, want, LIMITS[dtype])
    (grad,), (wanted,) = torch.autograd.grad(got, x, upstream.to(got)), torch.autograd.grad(want, wide, upstream)
    assert (grad.dtype, grad.stride()) == (dtype, x.stride())
    assert_near(grad, wanted, 4 * LIMITS[dtype])


@pytest.mark.parametrize("op, options", [(up2, (9, 10, 0.5)), (down2, (2.0,)), (blur, (1,))], ids=["up2", "down2", "blur"])
def test_registration(device, op, options):
    torch.use_deterministic_algorithms(False)
    x = torch.randn(1, 3, 4, 5, device=device, requires_grad=True)
    torch.library.opcheck(op, (x, *options))


def test_an_expanded_gradient_is_taken(device):
    x = torch.randn(1, 3, 4, 4, device=device, requires_grad=True)
    with backend.force("triton"):
        (grad,) = torch.autograd.grad(fir_up2(x).sum(), x)
    with backend.force("reference"):
        (wanted,) = torch.autograd.grad(fir_up2(x).sum(), x)
    torch.testing.assert_close(grad, wanted)


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(100, 256, 32, 32), (16, 64, 256, 256)], ids=str)
@pytest.mark.parametrize("op", [fir_up2, fir_down2, fir_blur])
def test_real_shapes(assert_near, op, shape):
    test_values_and_gradients(assert_near, "cuda", op, shape, torch.bfloat16, NHWC)
