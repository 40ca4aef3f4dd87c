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
    if not any(value.dim() == len(shape) and value.shape == shape for shape in map(torch.Size, shapes)):  # lengths first: B may be a symbol
        raise InputError(f"{op}: {name} has shape {list(value.shape)}; it must be {' or '.join(str(list(shape)) for shape in shapes)}")
    if value.device != x.device:
        raise InputError(f"{op}: {name} is on {value.device}; it must be on {x.device}, where x is")
    if value.dtype not in (x.dtype, *dtypes):
        right = " or ".join(map(str, dict.fromkeys((x.dtype, *dtypes))))
        raise InputError(f"{op}: {name} has dtype {value.dtype}; it must be {right}")


def require_floating(op, name, x):
    """A floating-point tensor [B, ...] that is not empty."""
    if x.dim() < 2 or x.numel() == 0 or not x.is_floating_point():
        raise InputError(f"{op}: {name} is {x.dtype} {list(x.shape)}; it must be floating-point [B, ...], no size 0")


def require_index(op, name, value, x):
    """An int64 tensor [B] on x's device, one entry for each sample of x; None passes."""
    if value is None:
        return
    if value.shape != x.shape[:1] or value.dtype != torch.int64 or value.device != x.device:
        raise InputError(
            f"{op}: {name} is {value.dtype} {list(value.shape)} on {value.device}; it must be torch.int64 [{x.shape[0]}] on {x.device}"
        )


def require_table(op, table, rows, x):
    """A float32 tensor [rows, T] on x's device."""
    if table.dim() != 2 or len(table) != rows or not table.shape[1] or table.dtype != torch.float32 or table.device != x.device:
        raise InputError(
            f"{op}: table is {table.dtype} {list(table.shape)} on {table.device}; it must be torch.float32 [{rows}, T] on {x.device}"
        )


def require_seeds(op, seeds, step, *streams):
    """Seeds int64 [B], and step and streams that fit into the counter."""
    if seeds.dim() != 1 or seeds.dtype != torch.int64:
        raise InputError(f"{op}: seeds is {seeds.dtype} {list(seeds.shape)}; it must be torch.int64 [B]")
    for name, value in (("step", step), *(("stream", stream) for stream in streams)):
        if not 0 <= value < 2**32:
            raise InputError(f"{op}: {name} = {value}; it must be 0 to 2^32 - 1")


def per_sample(row, x):
    """row [B] shaped to broadcast over the samples of x."""
    return row.reshape(-1, *[1] * (x.dim() - 1))


def layout_of(*tensors):
    """The memory format that dense tensors share (None among them is passed over); contiguous where all have both."""
    return torch.contiguous_format if all(t is None or t.is_contiguous() for t in tensors) else torch.channels_last


def dense_row(row):
    """scale, shift or bias with its channels side by side in memory, as the kernels read it; None stays None."""
    return row if row is None or row.stride(-1) == 1 else row.contiguous()


def stats_shape(x):
    """An empty tensor of the size of x's partial statistics."""
    from ddgan_fast.kernels.tiles import runs_of

    runs = runs_of(x.shape[2] * x.shape[3])
    return x.new_empty((x.shape[0], 2, runs, x.shape[1]), dtype=wide_of(x))


def wide_of(x):
    """The dtype of statistics of x."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32
