"""Normal numbers that a seed names (noise.py), in one pass."""

import math

import torch

from ddgan_fast import noise
from ddgan_fast.errors import InputError
from ddgan_fast.ops import extension
from ddgan_fast.ops.arguments import require_seeds
from ddgan_fast.ops.backend import always, pick


def philox_normal(seeds, stream, step, shape):
    """Standard normal numbers, float32 [B, *shape], on the device of seeds; element numbered row by row over `shape`.

    seeds: int64 [B], 0 to 2^63 - 1.  stream, step: whole numbers below 2^32.  A number depends on its seed, stream, step and element
    alone; backends agree to 4e-6.  No gradient.  Raises InputError for arguments that do not fit.
    """
    require_seeds("philox_normal", seeds, step, stream)
    if not len(seeds) or min(shape, default=0) < 1:
        raise InputError(f"philox_normal: seeds has shape {list(seeds.shape)} and shape is {tuple(shape)}; no size may be 0")
    return pick("philox_normal", BACKENDS, seeds)(seeds, stream, step, shape)


def _refuses(seeds):
    if extension.MISSING:
        return extension.MISSING
    if seeds.device.type not in ("cpu", "cuda"):
        return f"seeds are on {seeds.device.type}; it serves cpu and cuda"
    return (extension.MISSING_CUDA or extension.gpu_refuses(seeds.device.index)) if seeds.is_cuda else None


def _cpp(seeds, stream, step, shape):
    return torch.ops.ddgan_cpp.philox_normal(seeds.contiguous(), stream, step, math.prod(shape)).unflatten(1, shape)


if not extension.MISSING:

    @torch.library.register_fake("ddgan_cpp::philox_normal")
    def _(seeds, stream, step, count):
        return seeds.new_empty((len(seeds), count), dtype=torch.float32)

    @torch.library.register_fake("ddgan_cpp::philox_words")
    def _(seeds, stream, step, count):
        return seeds.new_empty((len(seeds), count))


BACKENDS = {"cpp": (_refuses, _cpp), "reference": (always, noise.normal)}
