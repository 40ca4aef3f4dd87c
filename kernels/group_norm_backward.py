"""Gradients of the group norm of group_norm.py: on chip in one pass, or sums of each channel and then a pass that applies them."""

import torch
import triton
import triton.language as tl

from ddgan_fast.kernels.tiles import (
    Shape,
    load_offset,
    load_pair,
    load_rows,
    plan_runs,
    row_stride,
    store_pair,
    warps,
)


@triton.jit
def gradient_of_affine(normed, dy, s, t, SWISH: tl.constexpr):
    """Gradient with respect to scale * normed + shift, from dy behind the optional Swish."""
    if SWISH:
        before = normed * s + t
        gate = tl.sigmoid(before)
        dy = dy * (gate * (1 + before * (1 - gate)))
    return dy


@triton.jit
def on_chip_kernel(
    x, skip, bias, embedding, scale, shift, mean, rstd, dy, dcat, dx, dskip, dscale, dshift, dembedding,
    pixels, channels_x, channels_skip, groups, embedding_stride, scale_stride, shift_stride,
    SWISH: tl.constexpr, CG: tl.constexpr, G: tl.constexpr, C: tl.constexpr, P: tl.constexpr, ACC: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
):  # fmt: skip
    """Whole groups of one image: all gradients from one read."""
    b = tl.program_id(1).to(tl.int64)
    g = tl.program_id(0) * G + tl.arange(0, G)[:, None, None]
    i = tl.arange(0, C)[None, :, None]
    p = tl.arange(0, P)[None, None, :]
    c = g * CG + i
    live_c = (i < CG) & (g < groups)
    live = live_c & (p < pixels)
    r = tl.load(rstd + b * groups + g, mask=g < groups, other=0)
    added = load_offset(bias, embedding, b, c, live_c, embedding_stride, ACC) - tl.load(mean + b * groups + g, mask=g < groups, other=0)
    normed = load_pair(x, skip, b, c, p, live, channels_x, channels_skip, pixels, ACC, CHANNELS_LAST)
    normed = tl.where(live, (normed + added) * r, 0)
    s, t = load_rows(scale, shift, b, c, live_c, scale_stride, shift_stride, ACC)
    gradient = load_pair(dy, None, b, c, p, live, groups * CG, 0, pixels, ACC, CHANNELS_LAST)
    gradient = gradient_of_affine(normed, gradient, s, t, SWISH)
    sum_d = tl.sum(gradient, 2, keep_dims=True)
    sum_dn = tl.sum(gradient * normed, 2, keep_dims=True)
    size = tl.full((1, 1, 1), CG * pixels, ACC)
    mean_d = tl.sum(sum_d * s, 1, keep_dims=True) / size
    mean_dn = tl.sum(sum_dn * s, 1, keep_dims=True) / size
    at = b * groups * CG + c
    tl.store(dscale + at, sum_dn, mask=live_c)
    tl.store(dshift + at, sum_d, mask=live_c)
    gradient = r * (gradient * s - mean_d - normed * mean_dn)
    if dembedding is not None:
        tl.store(dembedding + at, tl.sum(tl.where(live, gradient, 0), 2, keep_dims=True), mask=live_c)
    if dcat is not None:
        gradient += load_pair(dcat, None, b, c, p, live, groups * CG, 0, pixels, ACC, CHANNELS_LAST)
    store_pair(dx, dskip, b, c, p, live, channels_x, channels_skip, pixels, gradient, CHANNELS_LAST)


@triton.jit
def sums_kernel(
    x, skip, bias, embedding, scale, shift, mean, rstd, dy, sums,
    pixels, channels_x, channels_skip, groups, runs, embedding_stride, scale_stride, shift_stride,
    SWISH: tl.constexpr, CG: tl.constexpr, C: tl.constexpr, P: tl.constexpr, ACC: tl.constexpr, CHANNELS_LAST: tl.constexpr,
):  # fmt: skip
    """sums [B, 3, runs, C]: over each run of pixels, the sum of the gradient, of gradient * normed, and of normed."""
    run, b = tl.program_id(0), tl.program_id(2).to(tl.int64)
    channels = groups * CG
    c = tl.program_id(1) * C + tl.arange(0, C)[None, :, None]
    live_c = c < channels
    r = tl.load(rstd + b * groups + c // CG, mask=live_c, other=0)
    added = load_offset(bias, embedding, b, c, live_c, embedding_stride, ACC)
    added -= tl.load(mean + b * groups + c // CG, mask=live_c, other=0)
    s, t = load_rows(scale, shift, b, c, live_c, scale_stride, shift_stride, ACC)
    length = tl.cdiv(pixels, runs)
    end = tl.minimum(run * length + length, pixels)
    sum_d = tl.zeros([1, C, 1], ACC)
    sum_dn, sum_n = sum_d, sum_d
    for start in range(run * length, end, P):
        p = start + tl.arange(0, P)[None, None, :]
        live = live_c & (p < end)
        normed = load_pair(x, skip, b, c, p, live, channels_x, channels_skip, pixels, ACC, CHANNELS_LAST)
        normed = tl.where(live, (normed + added) * r, 0)
        gradient = load_pair(dy, None, b, c, p, live, channels, 0, pixels, ACC, CHANNELS_LAST)
        gradient = gradient_of_affine(normed, gradient, s, t, SWISH)
        sum_d += tl.sum(gradient, 2, keep_dims=True)
        sum_dn += tl.sum(gradient * normed, 2, keep_dims=True)
        sum_n += tl.sum(normed, 2, keep_dims=True)
    at = sums + (b * 3 * runs + run) * channels + c
    tl.store(at, sum_d, mask=live_c)
    tl.store(at + runs * channels, sum_dn, mask=live_c)
    tl.store(at + 2 * runs * channels, sum_n, mask=live_c)


@triton.jit
def apply_kernel(
    x, skip, bias, embedding, scale, shift, mean, rstd, dy, dcat, sums, dx, dskip, dscale, dshift, dembedding,
    pixels, channels_x, channels_skip, groups, runs, embedding_stride, scale_stride, shift_stride, length,
    SWISH: tl.constexpr, CG: tl.constexpr, G: tl.constexpr, C: tl.constexpr, P: tl.constexpr, RUNS: tl.constexpr, ACC: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
):  # fmt: skip
    """Gradient of some pixels of one image, from the sums over all; the first program of a group writes those of its rows."""
    b = tl.program_id(2).to(tl.int64)
    channels = groups * CG
    g = tl.program_id(1) * G + tl.arange(0, G)[:, None, None]
    i = tl.arange(0, C)[None, :, None]
    c = g * CG + i
    live_c = (i < CG) & (g < groups)
    run = tl.arange(0, RUNS)[None, None, :]
    at = sums + (b * 3 * runs + run) * channels + c
    mask = live_c & (run < runs)
    sum_d = tl.sum(tl.load(at, mask=mask, other=0), 2, keep_dims=True)
    sum_dn = tl.sum(tl.load(at + runs * channels, mask=mask, other=0), 2, keep_dims=True)
    s, t = load_rows(scale, shift, b, c, live_c, scale_stride, shift_stride, ACC)
    size = tl.full((1, 1, 1), CG * pixels, ACC)
    mean_d = tl.sum(sum_d * s, 1, keep_dims=True) / size
    mean_dn = tl.sum(sum_dn * s, 1, keep_dims=True) / size
    r = tl.load(rstd + b * groups + g, mask=g < groups, other=0)
    first = live_c & (tl.program_id(0) == 0)
    row = b * channels + c
    tl.store(dscale + row, sum_dn, mask=first)
    tl.store(dshift + row, sum_d, mask=first)
    if dembedding is not None:
        sum_n = tl.sum(tl.load(at + 2 * runs * channels, mask=mask, other=0), 2, keep_dims=True)
        tl.store(dembedding + row, r * (sum_d * s - pixels * mean_d - sum_n * mean_dn), mask=first)
    added = load_offset(bias, embedding, b, c, live_c, embedding_stride, ACC) - tl.load(mean + b * groups + g, mask=g < groups, other=0)
    begin = tl.program_id(0) * length
    end = tl.minimum(begin + length, pixels)
    for start in range(begin, end, P):
        p = start + tl.arange(0, P)[None, None, :]
        live = live_c & (p < end)
        normed = (load_pair(x, skip, b, c, p, live, channels_x, channels_skip, pixels, ACC, CHANNELS_LAST) + added) * r
        gradient = load_pair(dy, None, b, c, p, live, channels, 0, pixels, ACC, CHANNELS_LAST)
        gradient = gradient_of_affine(normed, gradient, s, t, SWISH)
        gradient = r * (gradient * s - mean_d - normed * mean_dn)
        if dcat is not None:
            gradient += load_pair(dcat, None, b, c, p, live, channels, 0, pixels, ACC, CHANNELS_LAST)
        store_pair(dx, dskip, b, c, p, live, channels_x, channels_skip, pixels, gradient, CHANNELS_LAST)


def backward(dy, dcat, x, skip, bias, embedding, scale, shift, mean, rstd, swish, wants_embedding):
    """(dx, dskip or None, dscale, dshift, dembedding or None), the last three [B, C] in the dtype of the arithmetic.

    dy, dcat: gradients of what `forward` returned, in the layout of x; dcat may be None.
    """
    shape = Shape(x, skip, mean.shape[1], held=2)
    dx, dskip = torch.empty_like(x), None if skip is None else torch.empty_like(skip)
    row = (shape.batch, shape.channels)
    dscale, dshift, dembedding = (x.new_empty(row, dtype=mean.dtype) for _ in range(3))
    if not wants_embedding:
        dembedding = None
    inputs = x, skip, bias, embedding, scale, shift, mean, rstd, dy
    outputs = dx, dskip, dscale, dshift, dembedding
    strides = row_stride(embedding), row_stride(scale), row_stride(shift)
    sizes = shape.pixels, shape.channels_x, shape.channels_skip, shape.groups
    common = {"SWISH": swish, "CG": shape.group_channels, "ACC": shape.accumulate[0], "CHANNELS_LAST": shape.channels_last}
    if shape.on_chip:
        g, p, grid = shape.on_chip_tiles()
        on_chip_kernel[grid](
            *inputs, dcat, *outputs, *sizes, *strides, G=g, C=shape.c, P=p, num_warps=warps(g * shape.c * p), **common
        )  # fmt: skip
        return outputs
    runs, c, p = plan_runs(shape.batch, shape.channels, shape.pixels)
    sums = x.new_empty((shape.batch, 3, runs, shape.channels), dtype=mean.dtype)
    grid = (runs, triton.cdiv(shape.channels, c), shape.batch)
    sums_kernel[grid](*inputs, sums, *sizes, runs, *strides, C=c, P=p, num_warps=warps(c * p), **common)
    g, p, length, grid = shape.split_tiles()
    apply_kernel[grid](
        *inputs, dcat, sums, *outputs, *sizes, runs, *strides, length,
        G=g, C=shape.c, P=p, RUNS=triton.next_power_of_2(runs), num_warps=warps(g * shape.c * p, 32), **common,
    )  # fmt: skip
    return outputs
