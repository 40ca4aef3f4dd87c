"""Adaptive group normalisation, with Swish and FIR resampling behind it (paper C.1; Karras et al. 2019)."""

import torch
import torch.nn.functional as F

from ddgan_fast.errors import InputError
from ddgan_fast.ops.backend import always, pick
from ddgan_fast.ops.fir import fir_down2, fir_up2

RESAMPLE = {None: None, "up": fir_up2, "down": fir_down2}


def adaptive_group_norm(x, scale, shift, groups, eps=1e-6, swish=False, fir=None, skip=None):
    """y = scale * norm(x) + shift (no 1 + scale), then Swish, then FIR resampling.

    x: [B, C, H, W].  skip: [B, C2, H, W], normalised as if concatenated behind x on the channels; C below is then C + C2.
    scale, shift: [B, C] per sample, or [C].  groups divides C; the variance is the biased one; eps is added to it.
    fir: None returns y; "up" or "down" returns (fir(y), fir(x)), of twice or half the size.
    Gradients: any order, with respect to x, skip, scale and shift.  Raises InputError for shapes that do not fit.
    """
    channels = x.shape[1] + (0 if skip is None else skip.shape[1])
    if channels % groups:
        raise InputError(f"adaptive_group_norm: {channels} channels cannot be split into {groups} groups")
    for name, value in (("scale", scale), ("shift", shift)):
        if value.shape not in ((channels,), (x.shape[0], channels)):
            right = f"[{channels}] or [{x.shape[0]}, {channels}]"
            raise InputError(f"adaptive_group_norm: {name} has shape {list(value.shape)}; it must be {right}")
    if fir not in RESAMPLE:
        raise InputError(f"adaptive_group_norm: fir = {fir!r}; it must be None, 'up' or 'down'")
    return pick("adaptive_group_norm", BACKENDS, x, scale, shift, skip)(x, scale, shift, groups, eps, swish, fir, skip)


def reference(x, scale, shift, groups, eps, swish, fir, skip):
    if skip is not None:
        x = torch.cat((x, skip), dim=1)
    y = scale[..., None, None] * _norm(x, groups, eps) + shift[..., None, None]
    if swish:
        y = F.silu(y)
    return y if fir is None else (RESAMPLE[fir](y), RESAMPLE[fir](x))


def _norm(x, groups, eps):
    """F.group_norm; for channels_last by its formula, because torch's own is off by 5e-5 there for a mean of 30 (float32, CPU)."""
    if x.is_contiguous():
        return F.group_norm(x, groups, eps=eps)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    wide = wide - _group_mean(wide, groups)
    return (wide * torch.rsqrt(_group_mean(wide.square(), groups) + eps)).to(x.dtype)


def _group_mean(x, groups):
    """[B, C, 1, 1]: for each channel, the mean of its group."""
    mean = x.mean(dim=(2, 3)).unflatten(1, (groups, -1)).mean(dim=2)
    return mean.repeat_interleave(x.shape[1] // groups, dim=1)[..., None, None]


BACKENDS = {"reference": (always, reference)}
