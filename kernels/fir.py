"""FIR resampling by [1, 3, 3, 1], alone or behind group norm and Swish: then x is read once and both fir(y) and fir(x) are written.

A program goes down some rows of one image and keeps the horizontally filtered rows that the next output row needs again.
"""

import torch
import triton
import triton.language as tl

from ddgan_fast.kernels.group_norm import partial_stats
from ddgan_fast.kernels.tiles import CHANNELS, PROGRAMS, TILE, Shape, group_stats, load_rows, offsets, row_stride, warps

ROWS = 4  # least rows of a program: 2 or 3 more are read to begin


@triton.jit
def filtered_row(
    x, row, column, c, live_c, channels, height, width, m, r, s, t,
    UP: tl.constexpr, NORM: tl.constexpr, SWISH: tl.constexpr, ACC: tl.constexpr, CHANNELS_LAST: tl.constexpr,
):  # fmt: skip
    """One row of an image, filtered along the columns: of y behind the norm, and of x; pixels outside the image are 0 in both.

    Down: (y, x, y, x), the taps [1, 3, 3, 1] / 8 from `column` on.  UP: even columns of (y, x), then odd ones, of twice the width, with
    the taps [1, 3] / 4 from column - 1 on and [3, 1] / 4 from `column` on.
    """
    even_y = tl.zeros(live_c.shape, ACC) + tl.zeros(column.shape, ACC)
    even_x, odd_y, odd_x = even_y, even_y, even_y
    live_row = live_c & (row >= 0) & (row < height)
    for j in tl.static_range(3 if UP else 4):
        at = column + (j - 1 if UP else j)
        live = live_row & (at >= 0) & (at < width)
        pixel = row * width + at
        where = pixel * channels + c if CHANNELS_LAST else c * (height * width) + pixel
        value = tl.load(x + where, mask=live, other=0).to(ACC)
        y = value
        if NORM:
            y = (value - m) * (r * s) + t
            if SWISH:
                y = y * tl.sigmoid(y)
            y = tl.where(live, y, 0)
        if not UP:
            weight = 0.375 if j == 1 or j == 2 else 0.125
            even_y, even_x = even_y + weight * y, even_x + weight * value
        else:
            if j < 2:
                weight = 0.75 if j == 1 else 0.25
                even_y, even_x = even_y + weight * y, even_x + weight * value
            if j > 0:
                weight = 0.75 if j == 1 else 0.25
                odd_y, odd_x = odd_y + weight * y, odd_x + weight * value
    return even_y, even_x, odd_y, odd_x


@triton.jit
def tile_norm(
    stats, scale, shift, mean, rstd, b, g, i, live, groups, pixels, runs, scale_stride, shift_stride, eps,
    NORM: tl.constexpr, CG: tl.constexpr, RUNS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """(mean, rstd, scale, shift) of the channels of a tile, the first two also stored; (0, 1, 1, 0) without a norm."""
    if NORM:
        c = g * CG + i
        zero = tl.zeros(c.shape, ACC)
        size = tl.full((1, 1, 1), CG * pixels, ACC)
        m, r = group_stats(stats, None, zero, b, c, live, groups * CG, 0, pixels, runs, 0, size, eps, RUNS)
        first = live & (i == 0) & (tl.program_id(0) == 0)
        tl.store(mean + b * groups + g + i, m + zero, mask=first)
        tl.store(rstd + b * groups + g + i, r + zero, mask=first)
        s, t = load_rows(scale, shift, b, c, live, scale_stride, shift_stride, ACC)
        return m, r, s, t
    else:
        zero = tl.zeros([1, 1, 1], ACC)
        return zero, zero + 1, zero + 1, zero


@triton.jit
def down_kernel(
    x, y, resampled, stats, scale, shift, mean, rstd,
    channels, groups, height, width, out_height, out_width, rows, runs, scale_stride, shift_stride, gain, eps, pad,
    STEP: tl.constexpr, NORM: tl.constexpr, SWISH: tl.constexpr, CG: tl.constexpr, G: tl.constexpr, C: tl.constexpr, W: tl.constexpr,
    RUNS: tl.constexpr, ACC: tl.constexpr, CHANNELS_LAST: tl.constexpr,
):  # fmt: skip
    """Every STEP-th row and column (1 or 2) of the filtered image that begins `pad` pixels outside."""
    b = tl.program_id(2).to(tl.int64)
    wide = tl.cdiv(out_width, W)
    first_row = tl.program_id(0) // wide * rows
    g = tl.program_id(1) * G + tl.arange(0, G)[:, None, None]
    i = tl.arange(0, C)[None, :, None]
    c = g * CG + i
    live_c = (i < CG) & (g < groups)
    out_column = tl.program_id(0) % wide * W + tl.arange(0, W)[None, None, :]
    m, r, s, t = tile_norm(
        stats, scale, shift, mean, rstd, b, g, i, live_c, groups, height * width, runs, scale_stride, shift_stride, eps, NORM, CG, RUNS, ACC
    )  # fmt: skip
    x += b * channels * height * width
    column = out_column * STEP - pad
    row = first_row * STEP - pad
    y0, x0, _, _ = filtered_row(x, row, column, c, live_c, channels, height, width, m, r, s, t, False, NORM, SWISH, ACC, CHANNELS_LAST)
    y1, x1, _, _ = filtered_row(x, row + 1, column, c, live_c, channels, height, width, m, r, s, t, False, NORM, SWISH, ACC, CHANNELS_LAST)
    y2, x2 = y1, x1
    if STEP == 1:
        y2, x2, _, _ = filtered_row(
            x, row + 2, column, c, live_c, channels, height, width, m, r, s, t, False, NORM, SWISH, ACC, CHANNELS_LAST
        )
    for out_row in range(first_row, tl.minimum(first_row + rows, out_height)):
        row = out_row * STEP - pad
        if STEP == 2:
            y2, x2, _, _ = filtered_row(
                x, row + 2, column, c, live_c, channels, height, width, m, r, s, t, False, NORM, SWISH, ACC, CHANNELS_LAST
            )
        y3, x3, _, _ = filtered_row(
            x, row + 3, column, c, live_c, channels, height, width, m, r, s, t, False, NORM, SWISH, ACC, CHANNELS_LAST
        )
        at = b * channels * out_height * out_width
        at += offsets(c, out_row * out_width + out_column, channels, out_height * out_width, CHANNELS_LAST)
        live = live_c & (out_column < out_width)
        if resampled is not None:
            value = ((x0 + x3) * 0.125 + (x1 + x2) * 0.375) * gain
            tl.store(resampled + at, value.to(resampled.dtype.element_ty), mask=live)
        if NORM:
            value = ((y0 + y3) * 0.125 + (y1 + y2) * 0.375) * gain
            tl.store(y + at, value.to(y.dtype.element_ty), mask=live)
        if STEP == 2:
            y0, x0, y1, x1 = y2, x2, y3, x3
        else:
            y0, x0, y1, x1, y2, x2 = y1, x1, y2, x2, y3, x3


@triton.jit
def store_quad(out, at, row, column, c, live_c, channels, height, width, ee, eo, oe, oo, CHANNELS_LAST: tl.constexpr):
    """Four neighbours: rows `row` and row + 1, columns `column` and column + 1."""
    for i in tl.static_range(2):
        for j in tl.static_range(2):
            value = (ee if j == 0 else eo) if i == 0 else (oe if j == 0 else oo)
            live = live_c & (row + i < height) & (column + j < width)
            pixel = (row + i) * width + column + j
            where = pixel * channels + c if CHANNELS_LAST else c * (height * width) + pixel
            tl.store(out + at + where, value.to(out.dtype.element_ty), mask=live)


@triton.jit
def up_kernel(
    x, y, resampled, stats, scale, shift, mean, rstd,
    channels, groups, height, width, out_height, out_width, rows, runs, scale_stride, shift_stride, gain, eps,
    NORM: tl.constexpr, SWISH: tl.constexpr, CG: tl.constexpr, G: tl.constexpr, C: tl.constexpr, W: tl.constexpr,
    RUNS: tl.constexpr, ACC: tl.constexpr, CHANNELS_LAST: tl.constexpr,
):  # fmt: skip
    """Twice the rows and columns; from input row i come output rows 2 i and 2 i + 1."""
    b = tl.program_id(2).to(tl.int64)
    wide = tl.cdiv((out_width + 1) // 2, W)
    first_row = tl.program_id(0) // wide * rows
    g = tl.program_id(1) * G + tl.arange(0, G)[:, None, None]
    i = tl.arange(0, C)[None, :, None]
    c = g * CG + i
    live_c = (i < CG) & (g < groups)
    column = tl.program_id(0) % wide * W + tl.arange(0, W)[None, None, :]
    m, r, s, t = tile_norm(
        stats, scale, shift, mean, rstd, b, g, i, live_c, groups, height * width, runs, scale_stride, shift_stride, eps, NORM, CG, RUNS, ACC
    )  # fmt: skip
    x += b * channels * height * width
    at = b * channels * out_height * out_width
    row = first_row
    ye0, xe0, yo0, xo0 = filtered_row(
        x, row - 1, column, c, live_c, channels, height, width, m, r, s, t, True, NORM, SWISH, ACC, CHANNELS_LAST
    )
    ye1, xe1, yo1, xo1 = filtered_row(x, row, column, c, live_c, channels, height, width, m, r, s, t, True, NORM, SWISH, ACC, CHANNELS_LAST)
    for row in range(first_row, tl.minimum(first_row + rows, (out_height + 1) // 2)):
        ye2, xe2, yo2, xo2 = filtered_row(
            x, row + 1, column, c, live_c, channels, height, width, m, r, s, t, True, NORM, SWISH, ACC, CHANNELS_LAST
        )
        near, far = 0.75 * gain, 0.25 * gain
        if resampled is not None:
            store_quad(
                resampled, at, 2 * row, 2 * column, c, live_c, channels, out_height, out_width,
                far * xe0 + near * xe1, far * xo0 + near * xo1, near * xe1 + far * xe2, near * xo1 + far * xo2, CHANNELS_LAST,
            )  # fmt: skip
        if NORM:
            store_quad(
                y, at, 2 * row, 2 * column, c, live_c, channels, out_height, out_width,
                far * ye0 + near * ye1, far * yo0 + near * yo1, near * ye1 + far * ye2, near * yo1 + far * yo2, CHANNELS_LAST,
            )  # fmt: skip
        ye0, yo0, xe0, xo0 = ye1, yo1, xe1, xo1
        ye1, yo1, xe1, xo1 = ye2, yo2, xe2, xo2


def launch(kernel, x, out_size, steps, gain, norm, with_x, **others):
    """(fir(y) or None, fir(x) or None, mean, rstd): one launch.

    out_size: (height, width).  steps: (rows, columns) that programs share out.  norm: None, or (scale, shift, stats, groups, eps, swish).
    """
    batch, channels, height, width = x.shape
    scale, shift, stats, groups, eps, swished = norm or (None, None, None, 1, 0.0, False)
    shape = Shape(x, None, groups)
    layout = torch.channels_last if shape.channels_last else torch.contiguous_format
    out = torch.empty((batch, channels, *out_size), dtype=x.dtype, device=x.device, memory_format=layout)
    y, resampled, mean, rstd = None, out if with_x else None, None, None
    if norm:
        stats = partial_stats(x, shape.channels_last) if stats is None else stats
        y = torch.empty_like(out) if with_x else out
        mean, rstd = (x.new_empty((batch, groups), dtype=shape.accumulate[1]) for _ in range(2))
        group_channels, c = shape.group_channels, shape.c
    else:  # every channel for itself
        groups, group_channels, c = channels, 1, 1
    g = min(triton.next_power_of_2(groups), max(CHANNELS // c, 1))
    w = min(triton.next_power_of_2(steps[1]), max(TILE // 2 // (g * c), 1))
    wide, blocks = triton.cdiv(steps[1], w), triton.cdiv(groups, g)
    rows = max(min(steps[0], steps[0] * batch * wide * blocks // (4 * PROGRAMS)), min(ROWS, steps[0]))
    runs = 0 if stats is None else stats.shape[2]
    grid = (wide * triton.cdiv(steps[0], rows), blocks, batch)
    kernel[grid](
        x, y, resampled, stats, scale, shift, mean, rstd,
        channels, groups, height, width, *out_size, rows, runs, row_stride(scale), row_stride(shift), gain, eps,
        NORM=norm is not None, SWISH=swished, CG=group_channels, G=g, C=c, W=w, RUNS=triton.next_power_of_2(max(runs, 1)),
        ACC=shape.accumulate[0], CHANNELS_LAST=shape.channels_last, num_warps=warps(g * c * w, 4 if norm else 8), **others,
    )  # fmt: skip
    return y, resampled, mean, rstd


def down2(x, gain=1.0, norm=None, with_x=True):
    """Half the size, times `gain`."""
    out_size = x.shape[2] // 2, x.shape[3] // 2
    return launch(down_kernel, x, out_size, out_size, gain, norm, with_x, STEP=2, pad=1)


def blur(x, pad):
    """The filter alone: pad - 1.5 pixels wider on each side."""
    out_size = x.shape[2] + 2 * pad - 3, x.shape[3] + 2 * pad - 3
    return launch(down_kernel, x, out_size, out_size, 1.0, None, True, STEP=1, pad=pad)


def up2(x, out_size, gain=1.0, norm=None, with_x=True):
    """Twice the size, times `gain`; out_size: (height, width), twice that of x or one more."""
    return launch(up_kernel, x, out_size, tuple(-(-size // 2) for size in out_size), gain, norm, with_x)
