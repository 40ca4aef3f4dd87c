"""The pair of training: x_t from x_0 (paper Eq. 8) and x_{t+1} from x_t (Eq. 7), with one read and two writes."""

import torch

from ddgan_fast import noise as philox
from ddgan_fast.errors import InputError
from ddgan_fast.ops import extension
from ddgan_fast.ops.arguments import per_sample, require_floating, require_index, require_like, require_seeds, require_table
from ddgan_fast.ops.backend import always, pick

OP = "q_sample_pair"


def q_sample_pair(x0, t, table, noises=None, seeds=None, step=None, streams=None):
    """(x_t, x_{t+1}): x_t = table[0, t] * x0 + table[1, t] * noise_t, and x_{t+1} = table[2, t] * x_t + table[3, t] * noise_{t+1}.

    x0: [B, ...].  t: [B] int64, which may differ within the batch.  table: [4, T] float32 (diffusion.Schedule.pair).
    noises: (noise_t, noise_{t+1}), each [B, ...] standard normal, in x0's dtype or float32; or seeds [B] int64, step and the two
    streams, which name them.  Returns two tensors in x0's dtype and memory format, computed in float32 or wider.
    Gradients: any order, to x0.  Raises InputError for arguments that do not fit; t outside 0..T-1 as in `posterior_step`.
    """
    named = seeds is not None, step is not None, streams is not None
    if any(named) == (noises is not None) or any(named) != all(named):
        raise InputError(f"{OP}: give either noises, or seeds, step and streams")
    require_floating(OP, "x0", x0)
    for name, noise in zip(("noise_t", "noise_tp1"), noises or (None, None), strict=True):
        require_like(OP, name, noise, x0, x0.shape, dtypes=(torch.float32,))
    require_index(OP, "t", t, x0)
    require_table(OP, table, 4, x0)
    if seeds is not None:
        require_index(OP, "seeds", seeds, x0)
        require_seeds(OP, seeds, step, *streams)
    return pick(OP, BACKENDS, x0, table, noises)(x0, t, table, noises, seeds, step, streams)


def reference(x0, t, table, noises, seeds, step, streams):
    """q_sample_pair in plain torch."""
    noise_t, noise_tp1 = noises or (philox.normal(seeds, stream, step, x0.shape[1:]) for stream in streams)
    scale, deviation, scale_tp1, deviation_tp1 = (per_sample(row, x0) for row in table[:, t])
    x_t = (scale * x0 + deviation * noise_t).to(x0.dtype)
    return x_t, (scale_tp1 * x_t + deviation_tp1 * noise_tp1).to(x0.dtype)


def _refuses(x0, table, noises):
    if table.requires_grad or any(noise.requires_grad for noise in noises or ()):
        return "it has no gradient to the table or the noises"
    return extension.refuses(x0, *(noises or ()))


def _cpp(x0, t, table, noises, seeds, step, streams):
    t, table = t.contiguous(), table.contiguous()
    if noises is None:
        return torch.ops.ddgan_cpp.q_sample_pair_seeded(x0, t, table, seeds.contiguous(), *streams, step)
    return torch.ops.ddgan_cpp.q_sample_pair(x0, t, table, *noises)


def _keep(ctx, inputs, output):
    ctx.save_for_backward(*inputs[1:3])
    ctx.others = len(inputs) - 1


def _backward(ctx, gradient_t, gradient_tp1):
    t, table = ctx.saved_tensors
    t = t.clamp(0, table.shape[1] - 1)
    scale, _, scale_tp1, _ = (per_sample(row, gradient_t) for row in table[:, t])
    total = scale * (gradient_t + scale_tp1 * gradient_tp1)
    return total.to(gradient_t.dtype), *[None] * ctx.others


if not extension.MISSING:
    for name in ("q_sample_pair", "q_sample_pair_seeded"):
        torch.library.register_fake(f"ddgan_cpp::{name}", lambda x0, *_: (torch.empty_like(x0), torch.empty_like(x0)))
        torch.library.register_autograd(f"ddgan_cpp::{name}", _backward, setup_context=_keep)


BACKENDS = {"cpp": (_refuses, _cpp), "reference": (always, reference)}
