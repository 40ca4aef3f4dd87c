"""One reverse step: draw x_{t-1} from q(x_{t-1} | x_t, x_0), paper Eq. 11."""

import torch

from ddgan_fast import noise as philox
from ddgan_fast.errors import InputError
from ddgan_fast.ops import extension
from ddgan_fast.ops.arguments import (
    per_sample,
    require_floating,
    require_images,
    require_index,
    require_like,
    require_seeds,
    require_table,
)
from ddgan_fast.ops.backend import always, pick

OP, FINAL = "posterior_step", "posterior_final_uint8"


def posterior_step(x0, x_t, t, table, noise=None, seeds=None, step=None, stream=philox.POSTERIOR):
    """table[0, t] * x0 + table[1, t] * x_t + table[2, t] * noise.

    x0, x_t: [B, ...] of one shape, dtype and device.  t: [B] int64, index of the cleaner image, 0 is the last step; it may differ
    within the batch.  table: [3, T] float32, rows: coefficient of x0, of x_t, standard deviation; the last is 0 at t = 0.
    noise: [B, ...] standard normal, in x0's dtype or float32; or seeds [B] int64 and step, which name it (stream POSTERIOR, or `stream`).
    Returns [B, ...] in x0's dtype and memory format, computed in float32 or wider.  Gradients: any order, to x0 and x_t.
    Raises InputError for arguments that do not fit, and unless exactly one of noise and seeds is given.  A t outside 0..T-1 is an error
    on a CPU and NaN on a GPU, where reading it would mean waiting.
    """
    if (noise is None) == (seeds is None) or (seeds is None) != (step is None):
        raise InputError(f"{OP}: give either noise, or seeds and step")
    require_floating(OP, "x0", x0)
    require_like(OP, "x_t", x_t, x0, x0.shape)
    require_like(OP, "noise", noise, x0, x0.shape, dtypes=(torch.float32,))
    require_index(OP, "t", t, x0)
    require_table(OP, table, 3, x0)
    if seeds is not None:
        require_index(OP, "seeds", seeds, x0)
        require_seeds(OP, seeds, step, stream)
    return pick(OP, BACKENDS, x0, x_t, table, noise)(x0, x_t, t, table, noise, seeds, step, stream)


def posterior_final_uint8(x0, x_t, table):
    """The posterior step at t = 0 of images [B, C, H, W], as uint8 [B, H, W, C]: clamped to [-1, 1], then rounded half away from zero.

    x0, x_t, table: as in `posterior_step`.  The bytes are those of pictures.to_uint8 after `posterior_step`.  No gradient.
    Raises InputError for arguments that do not fit.
    """
    require_images(FINAL, "x0", x0)
    require_like(FINAL, "x_t", x_t, x0, x0.shape)
    require_table(FINAL, table, 3, x0)
    return pick(FINAL, FINAL_BACKENDS, x0, x_t, table)(x0, x_t, table)


def reference(x0, x_t, t, table, noise, seeds, step, stream):
    """posterior_step in plain torch."""
    if noise is None:
        noise = philox.normal(seeds, stream, step, x0.shape[1:])
    a, b, s = (per_sample(row, x0) for row in table[:, t])
    return (a * x0 + b * x_t + s * noise).to(x0.dtype)


def reference_final(x0, x_t, table):
    """posterior_final_uint8 in plain torch."""
    last = (table[0, :1] * x0 + table[1, :1] * x_t).to(x0.dtype)
    scaled = ((last.float() + 1) * 127.5).clamp(0, 255)
    return (scaled + 0.5).floor().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _refuses(x0, x_t, table, noise=None):
    if table.requires_grad or noise is not None and noise.requires_grad:
        return "it has no gradient to the table or the noise"
    return extension.refuses(x0, x_t, noise)


def _cpp(x0, x_t, t, table, noise, seeds, step, stream):
    if noise is None:
        return torch.ops.ddgan_cpp.posterior_step_seeded(x0, x_t, t.contiguous(), table.contiguous(), seeds.contiguous(), stream, step)
    return torch.ops.ddgan_cpp.posterior_step(x0, x_t, t.contiguous(), table.contiguous(), noise)


def _cpp_final(x0, x_t, table):
    return torch.ops.ddgan_cpp.posterior_final_uint8(x0, x_t, table.contiguous())


def _keep(ctx, inputs, output):
    ctx.save_for_backward(*inputs[2:4])
    ctx.others = len(inputs) - 2


def _backward(ctx, gradient):
    t, table = ctx.saved_tensors
    t = t.clamp(0, table.shape[1] - 1)  # for an entry outside, whose value is NaN on a GPU
    both = [
        (per_sample(row[t], gradient) * gradient).to(gradient.dtype) if wanted else None
        for row, wanted in zip(table[:2], ctx.needs_input_grad[:2], strict=True)
    ]
    return *both, *[None] * ctx.others


if not extension.MISSING:
    for name in ("posterior_step", "posterior_step_seeded"):
        torch.library.register_fake(f"ddgan_cpp::{name}", lambda x0, *_: torch.empty_like(x0))
        torch.library.register_autograd(f"ddgan_cpp::{name}", _backward, setup_context=_keep)

    @torch.library.register_fake("ddgan_cpp::posterior_final_uint8")
    def _(x0, x_t, table):
        batch, channels, height, width = x0.shape
        return x0.new_empty((batch, height, width, channels), dtype=torch.uint8)


BACKENDS = {"cpp": (_refuses, _cpp), "reference": (always, reference)}
FINAL_BACKENDS = {"cpp": (_refuses, _cpp_final), "reference": (always, reference_final)}
