"""Adaptive group normalisation, with Swish and FIR resampling behind it (paper C.1; Karras et al. 2019)."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ddgan_fast.errors import InputError
from ddgan_fast.ops import extension
from ddgan_fast.ops.arguments import dense_row, layout_of, require_images, require_like, wide_of
from ddgan_fast.ops.backend import always, pick, triton_refuses
from ddgan_fast.ops.fir import adjoint_of_down2, adjoint_of_up2, fir_down2, fir_up2, resized

RESAMPLE = {None: None, "up": fir_up2, "down": fir_down2}
OP = "adaptive_group_norm"
MOST_GROUP_CHANNELS = 512


def adaptive_group_norm(
    x, scale, shift, groups, eps=1e-6, swish=False, fir=None, skip=None, *,
    bias=None, embedding=None, stats=None, skip_stats=None, concat=False, fir_x=True,
):  # fmt: skip
    """y = scale * norm(x + bias + embedding) + shift (no 1 + scale), then Swish, then FIR resampling.

    x: [B, C, H, W].  skip: [B, C2, H, W], normalised as if concatenated behind x on the channels; C below is then C + C2.
    scale, shift: [B, C] per sample, or [C].  groups divides C; the variance is the biased one; eps is added to it.
    bias [C] of the convolution before and embedding [B, C] of the time may be left to this op: adding them costs it nothing.
    stats, skip_stats: partial statistics of x and skip from `residual_join`, which save a pass over them; they must be of these tensors.
    Rows (scale, shift, bias, embedding) have x's dtype or float32.
    fir: None returns y; "up" or "down" returns (fir(y), fir(x)), of twice or half the size, with fir_x=False fir(y) alone.
    concat: returns (y, x with skip behind it).
    Gradients: first and second order, to x, skip, scale, shift, bias and embedding; the second by the plain formula on every backend.
    Raises InputError for arguments that do not fit.
    """
    _check(x, scale, shift, groups, fir, skip, bias, embedding, concat)
    _check_stats(x, skip, stats, skip_stats)
    run = pick(OP, BACKENDS, x, skip, groups, scale, shift, bias, embedding)
    return run(x, scale, shift, groups, eps, swish, fir, skip, bias, embedding, stats, skip_stats, concat, fir_x)


def _check(x, scale, shift, groups, fir, skip, bias, embedding, concat):
    require_images(OP, "x", x)
    if skip is not None:
        require_images(OP, "skip", skip)
        require_like(OP, "skip", skip, x, (x.shape[0], skip.shape[1], *x.shape[2:]))
    batch, channels = x.shape[0], x.shape[1] + (0 if skip is None else skip.shape[1])
    if groups < 1 or channels % groups:
        raise InputError(f"{OP}: {channels} channels cannot be split into {groups} groups")
    for name, rows in (("scale", scale), ("shift", shift)):
        require_like(OP, name, rows, x, (channels,), (batch, channels), dtypes=(torch.float32,))
    require_like(OP, "bias", bias, x, (channels,), dtypes=(torch.float32,))
    require_like(OP, "embedding", embedding, x, (batch, channels), dtypes=(torch.float32,))
    if fir not in RESAMPLE:
        raise InputError(f"{OP}: fir = {fir!r}; it must be None, 'up' or 'down'")
    if fir == "down" and min(x.shape[2:]) < 2:
        raise InputError(f"{OP}: x has shape {list(x.shape)}; with fir = 'down' height and width must be 2 or more")
    if concat and (skip is None or fir):
        raise InputError(f"{OP}: concat = True; it goes with a skip and without fir")


def _check_stats(x, skip, stats, skip_stats):
    for name, images, given in (("stats", x, stats), ("skip_stats", skip, skip_stats)):
        if given is None:
            continue
        if images is None or given.dim() != 4 or (*given.shape[:2], given.shape[3]) != (x.shape[0], 2, images.shape[1]):
            of = "no skip" if images is None else f"{name.removesuffix('stats').removesuffix('_') or 'x'} of shape {list(images.shape)}"
            raise InputError(
                f"{OP}: {name} has shape {list(given.shape)}; it must be what residual_join returned beside this tensor, and this is {of}"
            )
        require_like(OP, name, given, x, given.shape, dtypes=(wide_of(x),))
        if given.dtype != wide_of(x):
            raise InputError(f"{OP}: {name} has dtype {given.dtype}; it must be {wide_of(x)}")


def reference(x, scale, shift, groups, eps, swish, fir, skip, bias, embedding, stats, skip_stats, concat, fir_x=True):
    """adaptive_group_norm in plain torch; `stats` are not needed."""
    x = x if skip is None else torch.cat((x, skip), dim=1)
    added = [rows[..., None, None] for rows in (bias, embedding) if rows is not None]
    moved = x + sum(added[1:], added[0]) if added else x
    y = scale[..., None, None] * _norm(moved, groups, eps) + shift[..., None, None]
    y = (F.silu(y) if swish else y).to(x.dtype)
    return _results(y, x, fir, concat, fir_x)


def _results(y, x, fir, concat, fir_x):
    """What adaptive_group_norm returns, from the norm y of x."""
    if fir:
        return (RESAMPLE[fir](y), RESAMPLE[fir](x)) if fir_x else RESAMPLE[fir](y)
    return (y, x) if concat else y


def _norm(x, groups, eps):
    """F.group_norm; for channels_last by its formula, because torch's own is off by 5e-5 there for a mean of 30 (float32, CPU)."""
    wide = x.to(wide_of(x))
    if x.is_contiguous() or torch.compiler.is_exporting():  # an exported program: one node, and the layout is its runtime's matter
        return F.group_norm(wide, groups, eps=eps)
    wide = wide - _group_mean(wide, groups)
    return wide * torch.rsqrt(_group_mean(wide.square(), groups) + eps)


def _group_mean(x, groups):
    """[B, C, 1, 1]: for each channel, the mean of its group."""
    mean = x.mean(dim=(2, 3)).unflatten(1, (groups, -1)).mean(dim=2)
    return mean.repeat_interleave(x.shape[1] // groups, dim=1)[..., None, None]


@torch.library.custom_op("ddgan_fast::group_norm", mutates_args=())
def group_norm(
    x: Tensor, skip: Tensor | None, bias: Tensor | None, embedding: Tensor | None, scale: Tensor, shift: Tensor,
    stats: Tensor | None, skip_stats: Tensor | None, groups: int, eps: float, swish: bool, concat: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """(y, concatenated input, mean [B, groups], rstd [B, groups]); the second is empty without `concat`."""
    from ddgan_fast.kernels import group_norm as kernels

    with torch.cuda.device_of(x):
        y, cat, mean, rstd = kernels.forward(x, skip, bias, embedding, scale, shift, stats, skip_stats, groups, eps, swish, concat)
    return y, x.new_empty(0) if cat is None else cat, mean, rstd


@torch.library.custom_op("ddgan_fast::group_norm_backward", mutates_args=())
def group_norm_backward(
    dy: Tensor, dcat: Tensor | None, x: Tensor, skip: Tensor | None, bias: Tensor | None, embedding: Tensor | None,
    scale: Tensor, shift: Tensor, mean: Tensor, rstd: Tensor, eps: float, swish: bool, wants_embedding: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of x, skip, scale [B, C], shift [B, C], embedding [B, C]; empty for what is not there or not wanted.

    dcat is the gradient of the concatenated input, and is added to that of x and skip.
    """
    from ddgan_fast.kernels import group_norm_backward as kernels

    with torch.cuda.device_of(x):
        gradients = kernels.backward(dy, dcat, x, skip, bias, embedding, scale, shift, mean, rstd, swish, wants_embedding)
    return tuple(x.new_empty(0) if gradient is None else gradient for gradient in gradients)


@torch.library.custom_op("ddgan_fast::group_norm_fir", mutates_args=())
def group_norm_fir(
    x: Tensor, scale: Tensor, shift: Tensor, stats: Tensor | None, groups: int, eps: float, swish: bool, up: bool, with_x: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(fir(y), fir(x), mean, rstd); the second is empty without `with_x`."""
    from ddgan_fast.kernels import fir

    norm = scale, shift, stats, groups, eps, swish
    with torch.cuda.device_of(x):
        run = partial(fir.up2, x, (2 * x.shape[2], 2 * x.shape[3])) if up else partial(fir.down2, x)
        y, resampled, mean, rstd = run(norm=norm, with_x=with_x)
    return y, resampled if with_x else x.new_empty(0), mean, rstd


@group_norm.register_fake
def _(x, skip, bias, embedding, scale, shift, stats, skip_stats, groups, eps, swish, concat):
    channels = x.shape[1] + (0 if skip is None else skip.shape[1])
    size = (x.shape[0], channels, *x.shape[2:])
    y = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=layout_of(x, skip))
    mean, rstd = (x.new_empty((x.shape[0], groups), dtype=wide_of(x)) for _ in range(2))
    return y, torch.empty_like(y) if concat else x.new_empty(0), mean, rstd


@group_norm_backward.register_fake
def _(dy, dcat, x, skip, bias, embedding, scale, shift, mean, rstd, eps, swish, wants_embedding):
    nothing = x.new_empty(0)
    rows = [mean.new_empty(dy.shape[:2]) for _ in range(3)]
    dskip = x.new_empty(0) if skip is None else torch.empty_like(skip)
    return torch.empty_like(x), dskip, rows[0], rows[1], rows[2] if wants_embedding else nothing


@group_norm_fir.register_fake
def _(x, scale, shift, stats, groups, eps, swish, up, with_x):
    height, width = (2 * size if up else size // 2 for size in x.shape[2:])
    mean, rstd = (x.new_empty((x.shape[0], groups), dtype=wide_of(x)) for _ in range(2))
    return resized(x, height, width), resized(x, height, width) if with_x else x.new_empty(0), mean, rstd


def _keep(ctx, inputs, output):
    x, skip, bias, embedding, scale, shift, _, _, _, eps, swish, concat = inputs
    ctx.options = eps, swish
    ctx.save_for_backward(x, skip, bias, embedding, scale, shift, output[2], output[3])
    ctx.mark_non_differentiable(*output[2:], *(() if concat else output[1:2]))
    ctx.set_materialize_grads(False)


def _backward(ctx, dy, dcat, *_):
    if dy is None and dcat is None:
        return (None,) * 12
    x, skip, bias, embedding, scale, shift, mean, rstd = ctx.saved_tensors
    gradients = _gradients(dy, dcat, x, skip, bias, embedding, scale, shift, mean, rstd, ctx.options, any(ctx.needs_input_grad[2:4]))
    return *gradients, *[None] * 6


def _gradients(dy, dcat, x, skip, bias, embedding, scale, shift, mean, rstd, options, wants_embedding):
    """Gradients of x, skip, bias, embedding, scale, shift, in their shapes and dtypes; None for what is None."""
    layout = layout_of(x, skip)
    if dy is None:
        dy = torch.zeros_like(dcat)
    dy, dcat = (None if gradient is None else gradient.contiguous(memory_format=layout) for gradient in (dy, dcat))
    arguments = x, skip, bias, embedding, scale, shift, mean, rstd
    dx, dskip, dscale, dshift, dembedding = group_norm_backward(dy, dcat, *arguments, *options, wants_embedding)

    def row(gradient, like):
        if like is None or not gradient.numel():
            return None
        return (gradient if like.dim() == 2 else gradient.sum(dim=0)).to(like.dtype)

    rows = row(dembedding, bias), row(dembedding, embedding), row(dscale, scale), row(dshift, shift)
    return dx, None if skip is None else dskip, *rows


def _keep_fir(ctx, inputs, output):
    x, scale, shift, _, _, eps, swish, up, with_x = inputs
    ctx.options, ctx.up, ctx.with_x = (eps, swish), up, with_x
    ctx.save_for_backward(x, scale, shift, output[2], output[3])
    ctx.mark_non_differentiable(*output[2:], *(() if with_x else output[1:2]))


def _backward_fir(ctx, dy, dresampled, *_):
    x, scale, shift, mean, rstd = ctx.saved_tensors
    dense = [gradient.contiguous(memory_format=layout_of(x)) for gradient in (dy, dresampled)[: 1 + ctx.with_x]]
    dy, dx = [*(adjoint_of_up2(g) if ctx.up else adjoint_of_down2(g, *x.shape[2:]) for g in dense), None][:2]
    dx, _, _, _, dscale, dshift = _gradients(dy, dx, x, None, None, None, scale, shift, mean, rstd, ctx.options, False)
    return dx, dscale, dshift, *[None] * 6


def _keep_backward(ctx, inputs, output):
    dy, dcat, x, skip, bias, embedding, scale, shift, mean, _, eps, swish, wants_embedding = inputs
    ctx.options = mean.shape[1], eps, swish
    ctx.save_for_backward(dy, dcat, x, skip, bias, embedding, scale, shift)
    present = True, skip is not None, True, True, wants_embedding
    ctx.mark_non_differentiable(*(tensor for tensor, there in zip(output, present, strict=True) if not there))
    ctx.set_materialize_grads(False)


def _second_order(ctx, *upstream):
    """The gradients of `group_norm_backward`, by differentiating the plain formula twice."""
    groups, eps, swish = ctx.options
    if all(gradient is None for gradient in upstream):
        return (None,) * 13
    if torch.is_grad_enabled():  # create_graph
        raise NotImplementedError(f"{OP}: a gradient of third order; only the reference has one: use backend.force('reference')")
    with torch.enable_grad():
        leaves = [None if value is None else value.detach().requires_grad_() for value in ctx.saved_tensors]
        dy, dcat, x, skip, bias, embedding, scale, shift = leaves
        rows = [row.expand(dy.shape[:2]).to(wide_of(x)) for row in (scale, shift)]
        moved = torch.zeros_like(rows[0], requires_grad=True) if embedding is None else embedding.to(wide_of(x))
        out = reference(x, *rows, groups, eps, swish, None, skip, bias, moved, None, None, dcat is not None)
        wanted = [(of, up) for of, up in zip((x, skip, *rows, moved), upstream, strict=True) if of is not None and up is not None]
        of, upstream = zip(*wanted, strict=True)
        first = torch.autograd.grad(out, of, dy if dcat is None else (dy, dcat), create_graph=True)
        present = [leaf for leaf in leaves if leaf is not None]
        second = iter(torch.autograd.grad(first, present, upstream, allow_unused=True))
    return *(None if leaf is None else next(second) for leaf in leaves), *[None] * 5


group_norm.register_autograd(_backward, setup_context=_keep)
group_norm_backward.register_autograd(_second_order, setup_context=_keep_backward)
group_norm_fir.register_autograd(_backward_fir, setup_context=_keep_fir)


def _run(x, scale, shift, groups, eps, swish, fir, skip, bias, embedding, stats, skip_stats, concat, fir_x):
    """adaptive_group_norm by the kernels; with fir and more than x, y and x go to memory in between."""
    if fir and skip is None and bias is None and embedding is None:
        y, resampled, _, _ = group_norm_fir(x, dense_row(scale), dense_row(shift), stats, groups, eps, swish, fir == "up", fir_x)
        return (y, resampled) if fir_x else y
    rows = [dense_row(row) for row in (bias, embedding, scale, shift)]
    joined = concat or bool(fir and fir_x and skip is not None)
    y, cat, _, _ = group_norm(x, skip, *rows, stats, skip_stats, groups, eps, swish, joined)
    return _results(y, cat if joined else x, fir, concat, fir_x)


def _cpu(x, scale, shift, groups, eps, swish, fir, skip, bias, embedding, stats, skip_stats, concat, fir_x):
    """adaptive_group_norm by the extension; `stats` are not needed."""
    nothing = x.new_empty(0)
    rows = [nothing if row is None else dense_row(row) for row in (bias, embedding, scale, shift)]
    joined = concat or bool(fir and fir_x and skip is not None)
    y, cat = torch.ops.ddgan_cpp.group_norm(x, nothing if skip is None else skip, *rows, groups, eps, int(swish), int(joined))
    return _results(y, cat if joined else x, fir, concat, fir_x)


if not extension.MISSING:

    @torch.library.register_fake("ddgan_cpp::group_norm")
    def _(x, skip, bias, embedding, scale, shift, groups, eps, swish, concat):
        size = (x.shape[0], x.shape[1] + skip.shape[1], *x.shape[2:]) if skip.dim() == 4 else None
        y = torch.empty_like(x) if size is None else torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        return y, torch.empty_like(y) if concat else x.new_empty(0)


def _triton_refuses(x, skip, groups, *_):
    channels = (x.shape[1] + (0 if skip is None else skip.shape[1])) // groups
    if channels > MOST_GROUP_CHANNELS:
        return f"groups of {channels} channels; the kernels take up to {MOST_GROUP_CHANNELS}"
    return triton_refuses(x, skip)


def _cpu_refuses(x, skip, groups, *rows):
    return extension.sampling_refuses((x, skip), rows)


BACKENDS = {"triton": (_triton_refuses, _run), "cpu": (_cpu_refuses, _cpu), "reference": (always, reference)}
