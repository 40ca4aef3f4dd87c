"""Anti-aliased resampling with the FIR filter [1, 3, 3, 1] (Zhang 2019; Karras et al. 2020), zero padding, any gradient order.

The gradient of each op is an op of this file again: of up2, down2 and the other way round; of a blur, a blur with the other pad.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ddgan_fast.errors import InputError
from ddgan_fast.ops import extension
from ddgan_fast.ops.arguments import layout_of, require_images
from ddgan_fast.ops.backend import always, pick, triton_refuses


def fir_up2(x):
    """Twice the size: zero insertion, pads (2, 1), the filter times 4.  [B, C, H, W] -> [B, C, 2H, 2W], same dtype and memory format."""
    require_images("fir_up2", "x", x)
    return pick("fir_up2", UP, x)(x)


def fir_down2(x):
    """Half the size: pads (1, 1), the filter, every second pixel.  [B, C, H, W] -> [B, C, H // 2, W // 2], same dtype and memory format.

    H and W are 2 or more.
    """
    require_images("fir_down2", "x", x)
    if min(x.shape[2:]) < 2:
        raise InputError(f"fir_down2: x has shape {list(x.shape)}; height and width must be 2 or more")
    return pick("fir_down2", DOWN, x)(x)


def fir_blur(x):
    """The filter with pads (2, 2), before a strided 3x3 convolution without padding.  [B, C, H, W] -> [B, C, H + 1, W + 1]."""
    require_images("fir_blur", "x", x)
    return pick("fir_blur", BLUR, x)(x)


def taps(x):
    """[C, 1, 4, 4]: the outer product of [1, 3, 3, 1] / 8 with itself."""
    row = (4 - (2 * torch.arange(4, device=x.device) - 3).abs()).to(x.dtype) / 8  # made on the device: no copy from the host
    return torch.outer(row, row).expand(x.shape[1], 1, 4, 4)


def reference_up2(x):
    """fir_up2 in plain torch."""
    # in an exported program of bfloat16 this alone is float32: TensorRT-RTX has no transposed convolution in bfloat16
    wide = x.float() if x.dtype == torch.bfloat16 and torch.compiler.is_exporting() else x
    return F.conv_transpose2d(wide, 4 * taps(wide), stride=2, padding=1, groups=x.shape[1]).to(x.dtype)


def reference_down2(x):
    """fir_down2 in plain torch."""
    return F.conv2d(x, taps(x), stride=2, padding=1, groups=x.shape[1])


def reference_blur(x):
    """fir_blur in plain torch."""
    return F.conv2d(x, taps(x), padding=2, groups=x.shape[1])


def resized(x, height, width):
    """An empty tensor like x, of another height and width, in its memory format."""
    return torch.empty((*x.shape[:2], height, width), dtype=x.dtype, device=x.device, memory_format=layout_of(x))


@torch.library.custom_op("ddgan_fast::fir_up2", mutates_args=())
def up2(x: Tensor, height: int, width: int, gain: float) -> Tensor:
    """`gain` times fir_up2, cut off or continued by a row and a column to [height, width]."""
    from ddgan_fast.kernels import fir

    with torch.cuda.device_of(x):
        return fir.up2(x, (height, width), gain)[1]


@torch.library.custom_op("ddgan_fast::fir_down2", mutates_args=())
def down2(x: Tensor, gain: float) -> Tensor:
    """`gain` times fir_down2."""
    from ddgan_fast.kernels import fir

    with torch.cuda.device_of(x):
        return fir.down2(x, gain)[1]


@torch.library.custom_op("ddgan_fast::fir_blur", mutates_args=())
def blur(x: Tensor, pad: int) -> Tensor:
    """The filter alone, with `pad` zeros (1 or 2) on each side."""
    from ddgan_fast.kernels import fir

    with torch.cuda.device_of(x):
        return fir.blur(x, pad)[1]


@up2.register_fake
def _(x, height, width, gain):
    return resized(x, height, width)


@down2.register_fake
def _(x, gain):
    return resized(x, x.shape[2] // 2, x.shape[3] // 2)


@blur.register_fake
def _(x, pad):
    return resized(x, x.shape[2] + 2 * pad - 3, x.shape[3] + 2 * pad - 3)


def adjoint_of_up2(gradient, gain=1.0):
    """Gradient of `up2` with respect to its input."""
    return down2(gradient, 4 * gain)


def adjoint_of_down2(gradient, height, width, gain=1.0):
    """Gradient of `down2` with respect to its input [.., height, width]."""
    return up2(gradient, height, width, gain / 4)


def _keep(ctx, inputs, output):
    ctx.size, ctx.layout, ctx.options = inputs[0].shape[2:], layout_of(inputs[0]), inputs[1:]


def _adjoint(op):
    """A backward function: op(gradient, context), from and to the memory format of x. Autograd may hand over an expanded gradient, and
    one of a single pixel has no layout of its own."""

    def backward(ctx, gradient):
        result = op(gradient.contiguous(memory_format=ctx.layout), ctx)
        return result.contiguous(memory_format=ctx.layout), *[None] * len(ctx.options)

    return backward


up2.register_autograd(_adjoint(lambda g, ctx: adjoint_of_up2(g, ctx.options[2])), setup_context=_keep)
down2.register_autograd(_adjoint(lambda g, ctx: adjoint_of_down2(g, *ctx.size, ctx.options[0])), setup_context=_keep)
blur.register_autograd(_adjoint(lambda g, ctx: blur(g, 3 - ctx.options[0])), setup_context=_keep)


def _cpu_refuses(x):
    return extension.sampling_refuses((x,))


def _images(x, height, width):
    return torch.empty((*x.shape[:2], height, width), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


if not extension.MISSING:
    torch.library.register_fake("ddgan_cpp::fir_up2", lambda x: _images(x, 2 * x.shape[2], 2 * x.shape[3]))
    torch.library.register_fake("ddgan_cpp::fir_down2", lambda x: _images(x, x.shape[2] // 2, x.shape[3] // 2))
    torch.library.register_fake("ddgan_cpp::fir_blur", lambda x: _images(x, x.shape[2] + 1, x.shape[3] + 1))

UP = {
    "triton": (triton_refuses, lambda x: up2(x, 2 * x.shape[2], 2 * x.shape[3], 1.0)),
    "cpu": (_cpu_refuses, lambda x: torch.ops.ddgan_cpp.fir_up2(x)),
    "reference": (always, reference_up2),
}
DOWN = {
    "triton": (triton_refuses, lambda x: down2(x, 1.0)),
    "cpu": (_cpu_refuses, lambda x: torch.ops.ddgan_cpp.fir_down2(x)),
    "reference": (always, reference_down2),
}
BLUR = {
    "triton": (triton_refuses, lambda x: blur(x, 2)),
    "cpu": (_cpu_refuses, lambda x: torch.ops.ddgan_cpp.fir_blur(x)),
    "reference": (always, reference_blur),
}
