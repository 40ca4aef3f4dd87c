"""A 1x1 convolution over one or two inputs whose result never reaches memory: the join of a residual block takes it from registers.

The product is weight [C, K] times pixels [K, P], so that its tile is that of the join: the channels, of which there are always enough,
fill the 64 rows of a tensor core instruction, and the pixels of a small image only as many of its columns as there are.
"""

import torch
import triton
import triton.language as tl

from ddgan_fast.kernels.residual import close_join, store_stats
from ddgan_fast.kernels.tiles import PROGRAMS, add_to_stats, load_offset, runs_of

# Sizes for an H100 or H200, reasoned and not measured.
CHANNELS = 128  # results of a tile: each input is read once for every so many
LEAST_CHANNELS = 32  # down to here the tile shrinks where multiprocessors would idle; below, reading pixels takes longer than all else
PIXELS = 128  # with CHANNELS 64 sums a thread of 8 warps
LEAST_PIXELS = 16  # the least that tl.dot takes
INPUTS = 64  # of a step: 128 bytes of each pixel
WARPS = {32: 8, 64: 4, 128: 8}  # of a tile of so many results: 4 for each 64, and for 32, where programs are few, more to hide the reads


@triton.jit
def multiply(
    x, skip, weight, b, c, p, live_c, live_p, channels_x, channels_skip, pixels, C: tl.constexpr, P: tl.constexpr, K: tl.constexpr,
    UPCAST: tl.constexpr,
):  # fmt: skip
    """weight times [x, skip] of image b, as if concatenated on the channels: [C, P]. One loop over both, so that loads never pause."""
    value = tl.zeros([C, P], tl.float32)
    steps_x = tl.cdiv(channels_x, K)
    for step in range(0, steps_x + tl.cdiv(channels_skip, K)):
        base, channels, first = x + b * channels_x * pixels, channels_x, 0
        k = step * K + tl.arange(0, K)
        if skip is not None:
            beyond = step >= steps_x
            base = tl.where(beyond, skip + b * channels_skip * pixels, base)
            channels, first = tl.where(beyond, channels_skip, channels_x), tl.where(beyond, channels_x, 0)
            k -= tl.where(beyond, steps_x * K, 0)
        live_k = k < channels
        w = weight + c[:, None] * (channels_x + channels_skip) + first + k[None, :]
        w = tl.load(w, mask=live_c[:, None] & live_k[None, :], other=0)
        v = tl.load(base + p[None, :] * channels + k[:, None], mask=live_p[None, :] & live_k[:, None], other=0)
        if UPCAST:  # the interpreter multiplies the bits of bfloat16 as if they were integers
            w, v = w.to(tl.float32), v.to(tl.float32)
        value = tl.dot(w, v, value)
    return value


@triton.jit
def pointwise_join_kernel(
    x, skip, weight, h, bias, h_bias, out, stats, pixels, channels, channels_x, channels_skip, runs,
    SCALE: tl.constexpr, C: tl.constexpr, P: tl.constexpr, K: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """One run of pixels of one image: out, and the statistics of each channel over the run. All images are channels_last."""
    run, b = tl.program_id(1), tl.program_id(2).to(tl.int64)
    row = tl.program_id(0) * C + tl.arange(0, C)
    c = row[None, :, None]
    live_c = c < channels
    added = load_offset(bias, None, b, c, live_c, 0, tl.float32) + load_offset(h_bias, None, b, c, live_c, 0, tl.float32)
    length = tl.cdiv(pixels, runs)
    end = tl.minimum(run * length + length, pixels)
    n = tl.zeros([1, 1, 1], tl.float32)
    mean = tl.zeros([1, C, 1], tl.float32)
    m2 = mean
    for start in range(run * length, end, P):
        column = start + tl.arange(0, P)
        live_p = column < end
        value = multiply(x, skip, weight, b, row, column, row < channels, live_p, channels_x, channels_skip, pixels, C, P, K, UPCAST)
        p = column[None, None, :]
        live = live_c & (p < end)
        value = close_join(value[None, :, :], added, h, out, b, c, p, live, channels, pixels, SCALE, tl.float32, True)
        if stats is not None:
            n, mean, m2 = add_to_stats(value, live, tl.minimum(end - start, P).to(tl.float32), n, mean, m2)
    if stats is not None:
        store_stats(stats, b, run, runs, c, live_c, channels, mean, m2)


def plan(batch, channels, pixels):
    """(runs, channels of a tile, pixels of a tile, inputs of a step)."""
    runs = runs_of(pixels)
    c = min(CHANNELS, max(triton.next_power_of_2(channels), LEAST_CHANNELS))
    while c > LEAST_CHANNELS and runs * batch * triton.cdiv(channels, c) < PROGRAMS:
        c //= 2
    p = max(min(triton.next_power_of_2(triton.cdiv(pixels, runs)), PIXELS), LEAST_PIXELS)
    return runs, c, p, INPUTS if c * p < 64 * PIXELS else INPUTS // 2  # addresses of a whole step would not fit beside so many sums


def pointwise_join(x, weight, h, bias, h_bias, skip, with_stats, scale):
    """(out, partial statistics of out or None); arguments as ops.pointwise_join."""
    batch, channels, height, width = h.shape
    runs, c, p, k = plan(batch, channels, height * width)
    out = torch.empty_like(h)
    stats = x.new_empty((batch, 2, runs, channels), dtype=torch.float32) if with_stats else None
    pointwise_join_kernel[(triton.cdiv(channels, c), runs, batch)](
        x, skip, weight, h, bias, h_bias, out, stats,
        height * width, channels, x.shape[1], 0 if skip is None else skip.shape[1], runs,
        SCALE=scale, C=c, P=p, K=k, UPCAST=x.is_cpu, num_warps=WARPS[c],
    )  # fmt: skip
    return out, stats
