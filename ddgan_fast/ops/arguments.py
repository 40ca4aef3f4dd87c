"""What the ops are given: checks, whose errors name op and argument, what it got and what would be right; and its layout."""

import torch

from ddgan_fast.errors import InputError


def require_images(op, name, x):
    """A floating-point tensor [B, C, H, W] that is not empty."""
    if x.dim() != 4:
        raise InputError(f"{op}: {name} has shape {list(x.shape)}; it must be [B, C, H, W]")
    if not x.is_floating_point():
        raise InputError(f"{op}: {name} has dtype {x.dtype}; it must be a floating-point one")
    if x.numel() == 0:
        raise InputError(f"{op}: {name} has shape {list(x.shape)}; no size may be 0")


def require_like(op, name, value, x, *shapes, dtypes=()):
    """A tensor of one of `shapes` on x's device, in x's dtype or one of `dtypes`; None passes."""
    if value is None:
        return
    if tuple(value.shape) not in [tuple(shape) for shape in shapes]:
        raise InputError(f"{op}: {name} has shape {list(value.shape)}; it must be {' or '.join(str(list(shape)) for shape in shapes)}")
    if value.device != x.device:
        raise InputError(f"{op}: {name} is on {value.device}; it must be on {x.device}, where x is")
    if value.dtype not in (x.dtype, *dtypes):
        right = " or ".join(map(str, dict.fromkeys((x.dtype, *dtypes))))
        raise InputError(f"{op}: {name} has dtype {value.dtype}; it must be {right}")


def layout_of(*tensors):
    """The memory format that dense tensors share (None among them is passed over); contiguous where all have both."""
    return torch.contiguous_format if all(t is None or t.is_contiguous() for t in tensors) else torch.channels_last


def dense_row(row):
    """scale, shift or bias with its channels side by side in memory, as the kernels read it; None stays None."""
    return row if row is None or row.stride(-1) == 1 else row.contiguous()
