"""Images that seeds name, as an iterable of batches (paper Eq. 6), the same at any batch size."""

import math

import torch

from ddgan_fast.diffusion import denoise, draw_start
from ddgan_fast.models import memory_format
from ddgan_fast.noise import as_seeds

CHUNK_PIXELS = 4096  # on a CPU the network always sees this many pixels: 4 images of 32x32, where a larger batch gains 10 %


def batches(generator, schedule, seeds, batch_size, as_uint8=False):
    """Yield (seeds, samples) for `batch_size` seeds after the other; samples [b, C, H, W] or [b, 2], on the generator's device;
    as_uint8: images [b, H, W, C].

    generator: with `config` (config.Model), in eval mode.  schedule: on its device.  seeds: a sequence of whole numbers.
    On a CPU a sample is bitwise the same at any batch size and in any company.
    """
    for start in range(0, len(seeds), batch_size):
        part = seeds[start : start + batch_size]
        yield part, sample(generator, schedule, part, as_uint8)


@torch.no_grad()
def sample(generator, schedule, seeds, as_uint8=False):
    """The samples of `seeds` [b, ...], in one batch on a GPU, in chunks of a fixed size on a CPU.

    CPU kernels round differently at different batch sizes; so every chunk has the same size there, the last one padded.
    """
    device = next(generator.parameters()).device
    seeds = as_seeds(seeds, device)
    chunk = len(seeds) if device.type != "cpu" else max(1, CHUNK_PIXELS // math.prod(generator.config.sample_shape[1:]))
    padded = torch.cat((seeds, seeds[-1:].expand(-len(seeds) % chunk)))
    parts = [
        run(generator, schedule, *draw_start(part, generator.config, schedule.steps), seeds=part, as_uint8=as_uint8)
        for part in padded.split(chunk)
    ]
    return torch.cat(parts)[: len(seeds)]


def run(generator, schedule, x, z, noise=None, seeds=None, as_uint8=False):
    """diffusion.denoise in the generator's device, dtype and memory format."""
    weight = next(generator.parameters())
    x, z, noise = (None if part is None else part.to(weight) for part in (x, z, noise))
    if x.dim() == 4:
        x = x.to(memory_format=memory_format(x.device))
    return denoise(generator, schedule, x, z, noise, seeds=seeds, as_uint8=as_uint8)
