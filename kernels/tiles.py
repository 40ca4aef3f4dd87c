"""What the kernels share: where an element lies, the affine norm of a tile, running statistics, and sizes of tiles.

A tile is [groups, channels of a group, pixels]; channels and pixels are padded to powers of two and masked. Tensors are dense, either
contiguous or channels_last: an image is then a matrix [C, P] or [P, C] with P = H * W. Arithmetic is in ACC, float32 (float64 for float64
tensors); what is loaded is cast at once and what is stored is cast at the end.

Partial statistics, "stats", are [B, 2, S, C]: mean and sum of squared deviations of each channel over each of S runs of pixels.
They are merged by the formula of Chan et al. (1983), which does not cancel for a mean far from zero.
"""

import torch
import triton
import triton.language as tl

# Sizes for an H100 or H200, reasoned and not yet measured.
PROGRAMS = 264  # two for each multiprocessor
MAX_RUNS = 32  # runs of pixels per image: each program of the pass behind reads them all
ON_CHIP = 16384  # elements of a tile that holds whole groups: 32 a thread of 16 warps; half of it where two tensors are held
ON_CHIP_PIXELS = 1024  # above, such a tile has so few channels that reads of a channels_last tensor fill no 32-byte sector
TILE = 4096  # elements of any other tile
CHANNELS = 64  # channels of a tile, where there are as many


@triton.jit
def offsets(c, p, channels, pixels, CHANNELS_LAST: tl.constexpr):
    """Of channel c and pixel p (broadcast) in one image."""
    if CHANNELS_LAST:
        return p * channels + c
    else:
        return c * pixels + p


@triton.jit
def load_pair(x, skip, b, c, p, live, channels_x, channels_skip, pixels, ACC: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """Elements of image b of [x, skip], as if concatenated on the channels; 0 where not `live`. skip may be None."""
    base = x + b * channels_x * pixels
    value = tl.load(base + offsets(c, p, channels_x, pixels, CHANNELS_LAST), mask=live & (c < channels_x), other=0).to(ACC)
    if skip is not None:
        base = skip + b * channels_skip * pixels
        where = offsets(c - channels_x, p, channels_skip, pixels, CHANNELS_LAST)
        value += tl.load(base + where, mask=live & (c >= channels_x), other=0).to(ACC)
    return value


@triton.jit
def store_pair(x, skip, b, c, p, live, channels_x, channels_skip, pixels, value, CHANNELS_LAST: tl.constexpr):
    """The inverse of `load_pair`."""
    base = x + b * channels_x * pixels
    tl.store(base + offsets(c, p, channels_x, pixels, CHANNELS_LAST), value.to(x.dtype.element_ty), mask=live & (c < channels_x))
    if skip is not None:
        base = skip + b * channels_skip * pixels
        where = offsets(c - channels_x, p, channels_skip, pixels, CHANNELS_LAST)
        tl.store(base + where, value.to(skip.dtype.element_ty), mask=live & (c >= channels_x))


@triton.jit
def load_rows(scale, shift, b, c, live, scale_stride, shift_stride, ACC: tl.constexpr):
    """Scale and shift of image b; a stride of 0 is one row for all images."""
    s = tl.load(scale + b * scale_stride + c, mask=live, other=0).to(ACC)
    return s, tl.load(shift + b * shift_stride + c, mask=live, other=0).to(ACC)


@triton.jit
def load_offset(bias, embedding, b, c, live, embedding_stride, ACC: tl.constexpr):
    """What is added to channel c of image b before the norm: bias [C] and embedding [B, C], either may be None."""
    added = tl.zeros(c.shape, ACC)
    if bias is not None:
        added += tl.load(bias + c, mask=live, other=0).to(ACC)
    if embedding is not None:
        added += tl.load(embedding + b * embedding_stride + c, mask=live, other=0).to(ACC)
    return added


@triton.jit
def load_stats(stats, b, c, live, channels, pixels, runs, RUNS: tl.constexpr):
    """(count, mean, m2) of each run of each channel: [1, 1, RUNS] and twice [G, C, RUNS], 0 for runs that are padding."""
    run = tl.arange(0, RUNS)[None, None, :]
    length = tl.cdiv(pixels, runs)
    count = tl.maximum(tl.minimum(length, pixels - run * length), 0)
    at = stats + b * 2 * runs * channels + run * channels + c
    mask = live & (run < runs)
    mean = tl.load(at, mask=mask, other=0)
    return count.to(mean.dtype), mean, tl.load(at + runs * channels, mask=mask, other=0)


@triton.jit
def group_stats(stats, skip_stats, added, b, c, live, channels_x, channels_skip, pixels, runs, skip_runs, size, eps, RUNS: tl.constexpr):
    """(mean, rstd) [G, 1, 1] of each group, of `size` elements, from the partial statistics of [x, skip] moved by `added`."""
    count, mean, m2 = load_stats(stats, b, c, live & (c < channels_x), channels_x, pixels, runs, RUNS)
    if skip_stats is not None:
        beyond = live & (c >= channels_x)
        skip_count, skip_mean, skip_m2 = load_stats(skip_stats, b, c - channels_x, beyond, channels_skip, pixels, skip_runs, RUNS)
        count, mean, m2 = tl.where(beyond, skip_count, count), mean + skip_mean, m2 + skip_m2
    count = tl.where(live, count, 0)
    mean += added
    centre = tl.sum(tl.sum(count * mean, 2, keep_dims=True), 1, keep_dims=True) / size
    deviation = mean - centre
    m2 = tl.sum(tl.sum(m2 + count * deviation * deviation, 2, keep_dims=True), 1, keep_dims=True)
    return centre, tl.rsqrt(m2 / size + eps)


@triton.jit
def add_to_stats(value, live, count, n, mean, m2):
    """(n, mean, m2) of each channel with `count` more pixels of a tile `value`, 0 where not `live`."""
    here = tl.sum(value, 2, keep_dims=True) / count
    deviation = tl.where(live, value - here, 0)
    here_m2 = tl.sum(deviation * deviation, 2, keep_dims=True)
    delta, total = here - mean, n + count
    return total, mean + delta * count / total, m2 + here_m2 + delta * delta * n * count / total


@triton.jit
def swish(y):
    """y * sigmoid(y)."""
    return y * tl.sigmoid(y)


def accumulator(dtype):
    """The dtype of arithmetic for tensors of `dtype`: (Triton's, torch's)."""
    return (tl.float64, torch.float64) if dtype == torch.float64 else (tl.float32, torch.float32)


def is_channels_last(x):
    """Whether a dense x is channels_last; where both layouts are the same, it counts as contiguous."""
    return not x.is_contiguous()


def row_stride(rows):
    """Elements from one image's row to the next in [B, C]; 0 for [C] and for None."""
    return 0 if rows is None or rows.dim() == 1 else rows.stride(0)


def warps(elements, a_thread=16):
    """Warps for a tile, with so many elements a thread: what a kernel holds at once decides."""
    return min(max(elements // (32 * a_thread), 1), 32)


def runs_of(pixels):
    """Runs of the pixels of an image, none of them empty; it depends on nothing else, so that the batch may stay open in a graph."""
    return triton.cdiv(pixels, triton.cdiv(pixels, min(MAX_RUNS, max(pixels // 256, 1))))


def plan_runs(batch, channels, pixels):
    """(runs, channels of a tile, pixels of a tile) of a pass over pixels that keeps sums of each channel."""
    runs = runs_of(pixels)
    c = min(CHANNELS, triton.next_power_of_2(channels))
    while c > 16 and runs * batch * triton.cdiv(channels, c) < PROGRAMS:
        c //= 2
    return runs, c, min(TILE // c, triton.next_power_of_2(triton.cdiv(pixels, runs)))


class Shape:
    """Sizes of a group norm over x [B, C, H, W] and, concatenated behind it, skip; and the tiles that cover it.

    held: tensors that a program on chip holds at once.
    """

    def __init__(self, x, skip, groups, held=1):
        self.batch, self.channels_x, self.height, self.width = x.shape
        self.channels_skip = 0 if skip is None else skip.shape[1]
        self.pixels, self.groups = self.height * self.width, groups
        self.channels = self.channels_x + self.channels_skip
        self.group_channels = self.channels // groups
        self.c = triton.next_power_of_2(self.group_channels)
        self.accumulate = accumulator(x.dtype)
        self.channels_last = is_channels_last(x) or (skip is not None and is_channels_last(skip))
        self.most = ON_CHIP // held

    def empty(self, like):
        """A tensor for all channels, in the layout of x."""
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        size = self.batch, self.channels, self.height, self.width
        return torch.empty(size, dtype=like.dtype, device=like.device, memory_format=layout)

    @property
    def on_chip(self):
        """Whether a program can hold whole groups."""
        p = triton.next_power_of_2(self.pixels)
        return p <= ON_CHIP_PIXELS and self.c * p <= self.most

    def _groups(self, most, programs):
        """Groups of a tile: up to CHANNELS channels and `most` groups; fewer where that leaves multiprocessors idle."""
        g = max(min(triton.next_power_of_2(self.groups), CHANNELS // self.c, most), 1)
        while g * self.c > 16 and g > 1 and programs * triton.cdiv(self.groups, g) < PROGRAMS:
            g //= 2
        return g

    def on_chip_tiles(self):
        """(groups, pixels, grid) of tiles that hold all pixels."""
        p = triton.next_power_of_2(self.pixels)
        g = self._groups(self.most // (self.c * p), self.batch)
        return g, p, (triton.cdiv(self.groups, g), self.batch)

    def split_tiles(self):
        """(groups, pixels, pixels of a program, grid) of tiles over a part of the pixels; a program goes over some of them."""
        g = self._groups(CHANNELS, self.batch * triton.cdiv(self.pixels, TILE // CHANNELS))
        p = min(max(TILE // (g * self.c), 1), triton.next_power_of_2(self.pixels))
        blocks = triton.cdiv(self.groups, g)
        chunks = min(triton.cdiv(self.pixels, p), triton.cdiv(2 * PROGRAMS, self.batch * blocks))
        length = p * triton.cdiv(triton.cdiv(self.pixels, chunks), p)
        return g, p, length, (triton.cdiv(self.pixels, length), blocks, self.batch)
