"""The join of a residual block: (shortcut + branch) / sqrt(2), with the biases of the convolutions before it (paper C.1; NCSN++).

The shortcut may come at half the size: it is then upsampled in passing.
"""

import math

import torch
from torch import Tensor

from ddgan_fast.ops import extension
from ddgan_fast.ops.arguments import dense_row, layout_of, require_images, require_like, stats_shape, wide_of
from ddgan_fast.ops.backend import always, pick, triton_refuses
from ddgan_fast.ops.fir import adjoint_of_up2, fir_up2

SCALE = math.sqrt(0.5)


def residual_join(x, h, x_bias=None, h_bias=None, with_stats=False, up=False, scale=SCALE):
    """(x + x_bias + h + h_bias) * scale, in h's dtype and memory format.

    x, h: [B, C, H, W] of one dtype and memory format; up: x is [B, C, H / 2, W / 2], and fir_up2(x) stands in its place.
    x_bias, h_bias: [C], in x's dtype or float32.
    with_stats: return (out, stats), where stats are the partial statistics of out that `adaptive_group_norm` takes as `stats`, so that
    it need not read its input twice; None where the backend makes none.  They carry no gradient of their own.
    Gradients: any order, to x, h and the biases.  Raises InputError for arguments that do not fit.
    """
    op = "residual_join"
    require_images(op, "x", x)
    require_like(op, "h", h, x, (*x.shape[:2], *(2 * size if up else size for size in x.shape[2:])))
    for name, bias in (("x_bias", x_bias), ("h_bias", h_bias)):
        require_like(op, name, bias, x, x.shape[1:2], dtypes=(torch.float32,))
    out, stats = pick(op, BACKENDS, x, h, x_bias, h_bias)(x, h, x_bias, h_bias, with_stats, up, scale)
    return (out, stats) if with_stats else out


def reference(x, h, x_bias, h_bias, with_stats, up, scale):
    """residual_join in plain torch."""
    x = fir_up2(x) if up else x
    added = [bias[:, None, None] for bias in (x_bias, h_bias) if bias is not None]
    total = x + h if not added else x + (h + sum(added[1:], added[0]))
    return (total * scale).to(x.dtype), None


@torch.library.custom_op("ddgan_fast::residual_join", mutates_args=())
def join(
    x: Tensor, h: Tensor, x_bias: Tensor | None, h_bias: Tensor | None, with_stats: bool, up: bool, scale: float
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(out, stats); stats are empty without `with_stats`."""
    from ddgan_fast.kernels import residual

    with torch.cuda.device_of(x):
        out, stats = residual.residual_join(x, h, x_bias, h_bias, with_stats, up, scale)
    return out, x.new_empty(0) if stats is None else stats


@join.register_fake
def _(x, h, x_bias, h_bias, with_stats, up, scale):
    return torch.empty_like(h), stats_shape(h) if with_stats else x.new_empty(0)


def _keep(ctx, inputs, output):
    x, h, x_bias, h_bias, _, ctx.up, ctx.scale = inputs
    ctx.layout, ctx.layout_of_h = layout_of(x), layout_of(h)
    ctx.dtypes = [None if bias is None else bias.dtype for bias in (x_bias, h_bias)]
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _of_x(ctx, gradient):
    """Gradient of x from that of what x adds to the result. Autograd may hand over an expanded one, which the kernels do not take."""
    if not ctx.up:
        return gradient
    return adjoint_of_up2(gradient.contiguous(memory_format=ctx.layout_of_h)).contiguous(memory_format=ctx.layout)


def _backward(ctx, gradient, _):
    if gradient is None:
        return (None,) * 7
    wanted = ctx.needs_input_grad[2:4]
    row = gradient.sum(dim=(0, 2, 3), dtype=wide_of(gradient)) * ctx.scale if any(wanted) else None
    rows = [row.to(dtype) if wants else None for wants, dtype in zip(wanted, ctx.dtypes, strict=True)]
    gradient = gradient * ctx.scale
    of_x = _of_x(ctx, gradient) if ctx.needs_input_grad[0] else None
    return of_x, gradient, *rows, None, None, None


join.register_autograd(_backward, setup_context=_keep)


def _run(x, h, x_bias, h_bias, with_stats, up, scale):
    out, stats = join(x, h, dense_row(x_bias), dense_row(h_bias), with_stats, up, scale)
    return out, stats if with_stats else None


def _cpu(x, h, x_bias, h_bias, with_stats, up, scale):
    biases = (x.new_empty(0) if bias is None else dense_row(bias) for bias in (x_bias, h_bias))
    return torch.ops.ddgan_cpp.residual_join(fir_up2(x) if up else x, h, *biases, scale), None


if not extension.MISSING:
    torch.library.register_fake("ddgan_cpp::residual_join", lambda x, *_: torch.empty_like(x))


BACKENDS = {
    "triton": (lambda x, h, *_: triton_refuses(x, h), _run),
    "cpu": (lambda x, h, *biases: extension.sampling_refuses((x, h), biases), _cpu),
    "reference": (always, reference),
}
