"""The join of a residual block, with the partial statistics of the result: the norm behind it then reads its input once."""

import math

import torch
import triton
import triton.language as tl

from ddgan_fast.kernels.tiles import accumulator, add_to_stats, is_channels_last, load_offset, load_pair, offsets, plan_runs, warps


@triton.jit
def join_kernel(
    x, h, x_bias, h_bias, out, stats, pixels, channels, runs,
    SCALE: tl.constexpr, C: tl.constexpr, P: tl.constexpr, ACC: tl.constexpr, CHANNELS_LAST: tl.constexpr,
):  # fmt: skip
    """One run of pixels of one image: out, and the statistics of each channel over the run."""
    run, b = tl.program_id(0), tl.program_id(2).to(tl.int64)
    c = tl.program_id(1) * C + tl.arange(0, C)[None, :, None]
    live_c = c < channels
    added = load_offset(x_bias, None, b, c, live_c, 0, ACC) + load_offset(h_bias, None, b, c, live_c, 0, ACC)
    length = tl.cdiv(pixels, runs)
    end = tl.minimum(run * length + length, pixels)
    n = tl.zeros([1, C, 1], ACC)
    mean, m2 = n, n
    for start in range(run * length, end, P):
        p = start + tl.arange(0, P)[None, None, :]
        live = live_c & (p < end)
        value = load_pair(x, None, b, c, p, live, channels, 0, pixels, ACC, CHANNELS_LAST)
        value += load_pair(h, None, b, c, p, live, channels, 0, pixels, ACC, CHANNELS_LAST)
        value = ((value + added) * SCALE).to(out.dtype.element_ty)
        tl.store(out + b * channels * pixels + offsets(c, p, channels, pixels, CHANNELS_LAST), value, mask=live)
        if stats is not None:
            value = tl.where(live, value.to(ACC), 0)
            n, mean, m2 = add_to_stats(value, live, tl.minimum(end - start, P).to(ACC), n, mean, m2)
    if stats is not None:
        at = stats + (b * 2 * runs + run) * channels + c
        tl.store(at, mean, mask=live_c)
        tl.store(at + runs * channels, m2, mask=live_c)


def residual_join(x, h, x_bias, h_bias, with_stats):
    """(out, partial statistics of out or None); arguments as ops.residual_join."""
    batch, channels, height, width = x.shape
    accumulate, statistics = accumulator(x.dtype)
    runs, c, p = plan_runs(batch, channels, height * width)
    out = torch.empty_like(x)
    stats = x.new_empty((batch, 2, runs, channels), dtype=statistics) if with_stats else None
    join_kernel[(runs, triton.cdiv(channels, c), batch)](
        x, h, x_bias, h_bias, out, stats, height * width, channels, runs,
        SCALE=math.sqrt(0.5), C=c, P=p, ACC=accumulate, CHANNELS_LAST=is_channels_last(x), num_warps=warps(c * p),
    )  # fmt: skip
    return out, stats
