"""Group norm with scale and shift per image, Swish, and a second input that is read in place of a concatenation.

Two forms. `on_chip`: a program holds whole groups of one image, and every element is read once and written once. Split: partial
statistics (tiles.py) come from the pass that made the tensor (residual.py) or from `stats`, and `apply` reads once and writes once.
"""

import triton
import triton.language as tl

from ddgan_fast.kernels.tiles import (
    Shape,
    accumulator,
    add_to_stats,
    group_stats,
    load_offset,
    load_pair,
    load_rows,
    offsets,
    plan_runs,
    row_stride,
    swish,
    warps,
)


@triton.jit
def on_chip_kernel(
    x, skip, bias, embedding, scale, shift, y, cat, mean, rstd,
    pixels, channels_x, channels_skip, groups, embedding_stride, scale_stride, shift_stride, eps,
    SWISH: tl.constexpr, CG: tl.constexpr, G: tl.constexpr, C: tl.constexpr, P: tl.constexpr, ACC: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
):  # fmt: skip
    """Whole groups of one image: statistics and y from one read."""
    b = tl.program_id(1).to(tl.int64)
    g = tl.program_id(0) * G + tl.arange(0, G)[:, None, None]
    i = tl.arange(0, C)[None, :, None]
    p = tl.arange(0, P)[None, None, :]
    c = g * CG + i
    live_c = (i < CG) & (g < groups)
    live = live_c & (p < pixels)
    value = load_pair(x, skip, b, c, p, live, channels_x, channels_skip, pixels, ACC, CHANNELS_LAST)
    if cat is not None:
        at = cat + b * groups * CG * pixels + offsets(c, p, groups * CG, pixels, CHANNELS_LAST)
        tl.store(at, value.to(cat.dtype.element_ty), mask=live)
    value += load_offset(bias, embedding, b, c, live_c, embedding_stride, ACC)
    size = tl.full((1, 1, 1), CG * pixels, ACC)
    m = tl.sum(tl.sum(tl.where(live, value, 0), 2, keep_dims=True), 1, keep_dims=True) / size
    deviation = tl.where(live, value - m, 0)
    r = tl.rsqrt(tl.sum(tl.sum(deviation * deviation, 2, keep_dims=True), 1, keep_dims=True) / size + eps)
    s, t = load_rows(scale, shift, b, c, live_c, scale_stride, shift_stride, ACC)
    out = deviation * (r * s) + t
    if SWISH:
        out = swish(out)
    at = y + b * groups * CG * pixels + offsets(c, p, groups * CG, pixels, CHANNELS_LAST)
    tl.store(at, out.to(y.dtype.element_ty), mask=live)
    first = (i == 0) & (g < groups)
    tl.store(mean + b * groups + g + i, m + tl.zeros(c.shape, ACC), mask=first)
    tl.store(rstd + b * groups + g + i, r + tl.zeros(c.shape, ACC), mask=first)


@triton.jit
def stats_kernel(x, stats, pixels, channels, runs, C: tl.constexpr, P: tl.constexpr, ACC: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """Statistics of each channel over one run of pixels of one image."""
    run, b = tl.program_id(0), tl.program_id(2).to(tl.int64)
    c = tl.program_id(1) * C + tl.arange(0, C)[None, :, None]
    live_c = c < channels
    length = tl.cdiv(pixels, runs)
    end = tl.minimum(run * length + length, pixels)
    n = tl.zeros([1, C, 1], ACC)
    mean, m2 = n, n
    for start in range(run * length, end, P):
        p = start + tl.arange(0, P)[None, None, :]
        live = live_c & (p < end)
        value = load_pair(x, None, b, c, p, live, channels, 0, pixels, ACC, CHANNELS_LAST)
        n, mean, m2 = add_to_stats(value, live, tl.minimum(end - start, P).to(ACC), n, mean, m2)
    at = stats + (b * 2 * runs + run) * channels + c
    tl.store(at, mean, mask=live_c)
    tl.store(at + runs * channels, m2, mask=live_c)


@triton.jit
def apply_kernel(
    x, skip, stats, skip_stats, bias, embedding, scale, shift, y, cat, mean, rstd,
    pixels, channels_x, channels_skip, groups, runs, skip_runs, embedding_stride, scale_stride, shift_stride, length, eps,
    SWISH: tl.constexpr, CG: tl.constexpr, G: tl.constexpr, C: tl.constexpr, P: tl.constexpr, RUNS: tl.constexpr, ACC: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
):  # fmt: skip
    """y of some pixels of one image, from the partial statistics of all."""
    b = tl.program_id(2).to(tl.int64)
    g = tl.program_id(1) * G + tl.arange(0, G)[:, None, None]
    i = tl.arange(0, C)[None, :, None]
    c = g * CG + i
    live_c = (i < CG) & (g < groups)
    added = load_offset(bias, embedding, b, c, live_c, embedding_stride, ACC)
    size = tl.full((1, 1, 1), CG * pixels, ACC)
    m, r = group_stats(stats, skip_stats, added, b, c, live_c, channels_x, channels_skip, pixels, runs, skip_runs, size, eps, RUNS)
    s, t = load_rows(scale, shift, b, c, live_c, scale_stride, shift_stride, ACC)
    first = (i == 0) & (g < groups) & (tl.program_id(0) == 0)
    tl.store(mean + b * groups + g + i, m + tl.zeros(c.shape, ACC), mask=first)
    tl.store(rstd + b * groups + g + i, r + tl.zeros(c.shape, ACC), mask=first)
    begin = tl.program_id(0) * length
    end = tl.minimum(begin + length, pixels)
    for start in range(begin, end, P):
        p = start + tl.arange(0, P)[None, None, :]
        live = live_c & (p < end)
        value = load_pair(x, skip, b, c, p, live, channels_x, channels_skip, pixels, ACC, CHANNELS_LAST)
        at = b * groups * CG * pixels + offsets(c, p, groups * CG, pixels, CHANNELS_LAST)
        if cat is not None:
            tl.store(cat + at, value.to(cat.dtype.element_ty), mask=live)
        out = (value + (added - m)) * (r * s) + t
        if SWISH:
            out = swish(out)
        tl.store(y + at, out.to(y.dtype.element_ty), mask=live)


def partial_stats(x, channels_last):
    """Partial statistics [B, 2, S, C] of x [B, C, H, W]."""
    batch, channels, height, width = x.shape
    pixels, accumulate = height * width, accumulator(x.dtype)
    runs, c, p = plan_runs(batch, channels, pixels)
    stats = x.new_empty((batch, 2, runs, channels), dtype=accumulate[1])
    grid = (runs, triton.cdiv(channels, c), batch)
    stats_kernel[grid](
        x, stats, pixels, channels, runs, C=c, P=p, ACC=accumulate[0], CHANNELS_LAST=channels_last, num_warps=warps(c * p)
    )  # fmt: skip
    return stats


def forward(x, skip, bias, embedding, scale, shift, stats, skip_stats, groups, eps, swish, concat):
    """(y, concatenated input or None, mean [B, groups], rstd [B, groups]); arguments as ops.adaptive_group_norm."""
    shape = Shape(x, skip, groups)
    y = shape.empty(x)
    cat = shape.empty(x) if concat else None
    mean, rstd = (x.new_empty((shape.batch, groups), dtype=shape.accumulate[1]) for _ in range(2))
    strides = row_stride(embedding), row_stride(scale), row_stride(shift)
    sizes = shape.pixels, shape.channels_x, shape.channels_skip, groups
    common = {"SWISH": swish, "CG": shape.group_channels, "C": shape.c, "ACC": shape.accumulate[0], "CHANNELS_LAST": shape.channels_last}
    missing = stats is None or (skip is not None and skip_stats is None)
    if shape.on_chip and missing:
        g, p, grid = shape.on_chip_tiles()
        on_chip_kernel[grid](
            x, skip, bias, embedding, scale, shift, y, cat, mean, rstd, *sizes, *strides, eps,
            G=g, P=p, num_warps=warps(g * shape.c * p, 32), **common,
        )  # fmt: skip
        return y, cat, mean, rstd
    stats = partial_stats(x, shape.channels_last) if stats is None else stats
    if skip is not None and skip_stats is None:
        skip_stats = partial_stats(skip, shape.channels_last)
    runs, skip_runs = stats.shape[2], 0 if skip is None else skip_stats.shape[2]
    g, p, length, grid = shape.split_tiles()
    apply_kernel[grid](
        x, skip, stats, skip_stats, bias, embedding, scale, shift, y, cat, mean, rstd, *sizes, runs, skip_runs, *strides, length, eps,
        G=g, P=p, RUNS=triton.next_power_of_2(max(runs, skip_runs)), num_warps=warps(g * shape.c * p), **common,
    )  # fmt: skip
    return y, cat, mean, rstd
