"""The join of a residual block, with the partial statistics of the result: the norm behind it then reads its input once."""

import torch
import triton
import triton.language as tl

from ddgan_fast.kernels.tiles import accumulator, add_to_stats, is_channels_last, load_offset, load_pair, offsets, plan_runs, warps


@triton.jit
def load_up2(x, b, c, p, live, channels, pixels, width, ACC: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """fir_up2 of image b of x, at pixels p of the image of twice the size, which has `pixels` pixels and rows of `width`.

    Of the filter, the taps [3, 1] / 4 of a row and a column fall on pixels of x: those of the nearest pixel and of the next one.
    """
    row, column = p // width, p % width
    x += b * channels * (pixels // 4)
    value = tl.zeros(live.shape, ACC)
    for i in tl.static_range(2):
        for j in tl.static_range(2):
            r = row // 2 + i * (row % 2 * 2 - 1)
            s = column // 2 + j * (column % 2 * 2 - 1)
            inside = live & (r >= 0) & (r < pixels // width // 2) & (s >= 0) & (s < width // 2)
            where = offsets(c, r * (width // 2) + s, channels, pixels // 4, CHANNELS_LAST)
            value += (3 - 2 * i) * (3 - 2 * j) / 16 * tl.load(x + where, mask=inside, other=0).to(ACC)
    return value


@triton.jit
def close_join(
    value, added, h, out, b, c, p, live, channels, pixels, SCALE: tl.constexpr, ACC: tl.constexpr, CHANNELS_LAST: tl.constexpr
):  # fmt: skip
    """Writes (value + h + added) * SCALE; what was written, as the statistics take it."""
    value += load_pair(h, None, b, c, p, live, channels, 0, pixels, ACC, CHANNELS_LAST)
    value = ((value + added) * SCALE).to(out.dtype.element_ty)
    tl.store(out + b * channels * pixels + offsets(c, p, channels, pixels, CHANNELS_LAST), value, mask=live)
    return tl.where(live, value.to(ACC), 0)


@triton.jit
def store_stats(stats, b, run, runs, c, live, channels, mean, m2):
    """Statistics of one run of pixels."""
    at = stats + (b * 2 * runs + run) * channels + c
    tl.store(at, mean, mask=live)
    tl.store(at + runs * channels, m2, mask=live)


@triton.jit
def join_kernel(
    x, h, x_bias, h_bias, out, stats, pixels, channels, width, runs, UP: tl.constexpr,
    SCALE: tl.constexpr, C: tl.constexpr, P: tl.constexpr, ACC: tl.constexpr, CHANNELS_LAST: tl.constexpr,
):  # fmt: skip
    """One run of pixels of one image: out, and the statistics of each channel over the run."""
    run, b = tl.program_id(0), tl.program_id(2).to(tl.int64)
    c = tl.program_id(1) * C + tl.arange(0, C)[None, :, None]
    live_c = c < channels
    added = load_offset(x_bias, None, b, c, live_c, 0, ACC) + load_offset(h_bias, None, b, c, live_c, 0, ACC)
    length = tl.cdiv(pixels, runs)
    end = tl.minimum(run * length + length, pixels)
    n = tl.zeros([1, 1, 1], ACC)
    mean = tl.zeros([1, C, 1], ACC)
    m2 = mean
    for start in range(run * length, end, P):
        p = start + tl.arange(0, P)[None, None, :]
        live = live_c & (p < end)
        if UP:
            value = load_up2(x, b, c, p, live, channels, pixels, width, ACC, CHANNELS_LAST)
        else:
            value = load_pair(x, None, b, c, p, live, channels, 0, pixels, ACC, CHANNELS_LAST)
        value = close_join(value, added, h, out, b, c, p, live, channels, pixels, SCALE, ACC, CHANNELS_LAST)
        if stats is not None:
            n, mean, m2 = add_to_stats(value, live, tl.minimum(end - start, P).to(ACC), n, mean, m2)
    if stats is not None:
        store_stats(stats, b, run, runs, c, live_c, channels, mean, m2)


def residual_join(x, h, x_bias, h_bias, with_stats, up, scale):
    """(out, partial statistics of out or None); arguments as ops.residual_join."""
    batch, channels, height, width = h.shape
    accumulate, statistics = accumulator(x.dtype)
    runs, c, p = plan_runs(batch, channels, height * width)
    out = torch.empty_like(h)
    stats = x.new_empty((batch, 2, runs, channels), dtype=statistics) if with_stats else None
    join_kernel[(runs, triton.cdiv(channels, c), batch)](
        x, h, x_bias, h_bias, out, stats, height * width, channels, width, runs, UP=up,
        SCALE=scale, C=c, P=p, ACC=accumulate, CHANNELS_LAST=is_channels_last(h), num_warps=warps(c * p, 8 if up else 16),
    )  # fmt: skip
    return out, stats
