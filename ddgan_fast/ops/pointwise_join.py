"""The join of a residual block whose shortcut is a 1x1 convolution, in one pass over memory: for sampling in half precision."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ddgan_fast.ops.arguments import dense_row, require_images, require_like, stats_shape
from ddgan_fast.ops.backend import always, pick, triton_refuses, wants_gradient
from ddgan_fast.ops.residual import SCALE, residual_join

OP = "pointwise_join"
DTYPES = torch.float16, torch.bfloat16  # of the kernel: it multiplies on tensor cores, and float32 would lose bits there


def pointwise_join(x, weight, h, bias=None, h_bias=None, skip=None, with_stats=False, scale=SCALE):
    """(weight [x; skip] + bias + h + h_bias) * scale at each pixel, in x's dtype and memory format.

    x: [B, C, H, W].  skip: [B, C2, H, W], taken as if concatenated behind x on the channels.  weight: [N, C + C2].  h: [B, N, H, W].
    All of one dtype and memory format; bias, h_bias: [N], in x's dtype or float32.
    with_stats: return (out, stats) as `residual_join` does.
    Gradients: any order, but by a convolution and `residual_join`; the kernel has none and refuses where one is wanted.
    Raises InputError for arguments that do not fit.
    """
    require_images(OP, "x", x)
    channels = x.shape[1]
    if skip is not None:
        require_images(OP, "skip", skip)
        require_like(OP, "skip", skip, x, (x.shape[0], skip.shape[1], *x.shape[2:]))
        channels += skip.shape[1]
    require_images(OP, "h", h)
    require_like(OP, "h", h, x, (x.shape[0], h.shape[1], *x.shape[2:]))
    require_like(OP, "weight", weight, x, (h.shape[1], channels))
    for name, row in (("bias", bias), ("h_bias", h_bias)):
        require_like(OP, name, row, x, h.shape[1:2], dtypes=(torch.float32,))
    return pick(OP, BACKENDS, x, weight, h, bias, h_bias, skip)(x, weight, h, bias, h_bias, skip, with_stats, scale)


def reference(x, weight, h, bias, h_bias, skip, with_stats, scale):
    """pointwise_join by torch's convolution and whichever residual_join there is."""
    return residual_join(pointwise(x, weight, skip), h, bias, h_bias, with_stats, scale=scale)


def pointwise(x, weight, skip=None):
    """The 1x1 convolution of [x, skip] in plain torch, without the concatenation; arguments as in `pointwise_join`."""
    channels, weight = x.shape[1], weight[..., None, None]
    y = F.conv2d(x, weight[:, :channels])
    return y if skip is None else y + F.conv2d(skip, weight[:, channels:])


@torch.library.custom_op("ddgan_fast::pointwise_join", mutates_args=())
def join(
    x: Tensor, weight: Tensor, h: Tensor, bias: Tensor | None, h_bias: Tensor | None, skip: Tensor | None,
    with_stats: bool, scale: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(out, stats); stats are empty without `with_stats`."""
    from ddgan_fast.kernels import pointwise_join as kernels

    with torch.cuda.device_of(x):
        out, stats = kernels.pointwise_join(x, weight, h, bias, h_bias, skip, with_stats, scale)
    return out, x.new_empty(0) if stats is None else stats


@join.register_fake
def _(x, weight, h, bias, h_bias, skip, with_stats, scale):
    return torch.empty_like(h), stats_shape(h) if with_stats else x.new_empty(0)


def _refuses(x, weight, h, bias, h_bias, skip):
    """Why the kernel cannot serve these arguments, or None."""
    if reason := triton_refuses(x, h, skip):
        return reason
    if x.dtype not in DTYPES:
        return f"dtype {x.dtype} is not among {', '.join(map(str, DTYPES))}"
    for images in (x, h, skip):
        if images is not None and not images.is_contiguous(memory_format=torch.channels_last):
            return f"a tensor of strides {tuple(images.stride())} is not channels_last"
    if wants_gradient(x, weight, h, bias, h_bias, skip):
        return "a gradient is wanted, and it has no gradient"
    return None


def _run(x, weight, h, bias, h_bias, skip, with_stats, scale):
    out, stats = join(x, weight.contiguous(), h, dense_row(bias), dense_row(h_bias), skip, with_stats, scale)
    return (out, stats) if with_stats else out


BACKENDS = {"triton": (_refuses, _run), "reference": (always, reference)}
