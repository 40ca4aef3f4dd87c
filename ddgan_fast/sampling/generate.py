"""Images that seeds name, as an iterable of batches (paper Eq. 6), the same at any batch size."""

import logging
import math

import torch

from ddgan_fast.diffusion import denoise, draw_noise, draw_start
from ddgan_fast.errors import InputError, ResourceError
from ddgan_fast.noise import as_seeds
from ddgan_fast.pictures import to_uint8
from ddgan_fast.precision import convolutions

CHUNK_PIXELS = 4096  # on a CPU the network always sees this many pixels: 4 images of 32x32, where a larger batch gains 10 %
log = logging.getLogger("ddgan_fast")


class Sampler:
    """A network and its schedule as functions of seeds, or of given noise. sampling.engine makes them."""

    measures_algorithms = False  # of cuDNN: the fastest is taken then, and may be another one in the next process

    def __init__(self, network, schedule, dtype, layout, allow_tf32=False):
        """network: as `diffusion.denoise` takes it, with `config` (config.Model), in eval mode.  schedule: on its device.

        dtype, layout: of the images that the network sees.  allow_tf32: whether float32 convolutions of a GPU may round their inputs to
        TF32.
        """
        self.network, self.schedule, self.dtype, self.layout, self.allow_tf32 = network, schedule, dtype, layout, allow_tf32
        self.device = schedule.posterior.device

    @torch.no_grad()
    def sample(self, seeds, as_uint8=False, edit=None):
        """The samples of `seeds` [b, C, H, W] or [b, 2], in one batch on a GPU, in chunks of a fixed size on a CPU.

        as_uint8: images [b, H, W, C].  edit: an edit.Edit of b images, which the samples start from.  CPU kernels round differently at
        different batch sizes; so every chunk has the same size there, the last one padded.
        """
        seeds = as_seeds(seeds, self.device)
        pixels = math.prod(self.network.config.sample_shape[1:])
        chunk = len(seeds) if self.device.type != "cpu" else max(1, CHUNK_PIXELS // pixels)
        rows = torch.arange(len(seeds) + -len(seeds) % chunk, device=self.device).clamp(max=len(seeds) - 1)
        parts = [self.draw(seeds[part], as_uint8, edit and edit.rows(part)) for part in rows.split(chunk)]
        return torch.cat(parts)[: len(seeds)]

    def draw(self, seeds, as_uint8=False, edit=None):
        """The samples of `seeds` [b], int64 on the device, in one batch; edit: of b images on the device."""
        x, z = draw_start(seeds, self.network.config, self.schedule.steps)
        return self.run(x, z, seeds=seeds, as_uint8=as_uint8, edit=edit)

    @torch.no_grad()
    def run(self, x, z, noise=None, seeds=None, as_uint8=False, edit=None):
        """diffusion.denoise on this device, in this dtype and layout; from an edit's image, with x as its noise, where there is one."""
        x = self.placed(x)
        noise = noise if noise is None else noise.to(x)
        network, first = self.network, None
        if edit is not None:
            network, x, first = edit.network(network), self.placed(edit.start(self.schedule, x)), edit.steps - 1
        with self.convolutions():
            samples = denoise(network, self.schedule, x, self.latents(z), noise, first, seeds, as_uint8)
        return samples if edit is None else edit.kept(samples)

    def latents(self, z):
        """z on this device, in the dtype that the network takes: float32 or wider where it binds them. None stays None."""
        wide = torch.promote_types(self.dtype, torch.float32) if hasattr(self.network, "bind") else self.dtype
        return z if z is None else z.to(self.device, wide)

    def placed(self, x):
        """x on this device, in the dtype and layout that the network sees."""
        x = x.to(self.device, self.dtype)
        return x.to(memory_format=self.layout) if x.dim() == 4 else x

    def convolutions(self):
        """The settings of cuDNN while this network runs."""
        return convolutions(self.allow_tf32, self.measures_algorithms)


class WholeSampler(Sampler):
    """A Sampler whose network is the whole loop: (x_T, z, noise) -> image, engines.networks.SamplerNetwork."""

    @torch.no_grad()
    def run(self, x, z, noise=None, seeds=None, as_uint8=False, edit=None):
        """As `Sampler.run`; the noise that seeds name is drawn before. Raises InputError for an edit: the loop has all T steps."""
        if edit is not None:
            raise InputError("this engine file holds all T steps, and an edit takes the last ones: export with --target step")
        if noise is None:
            noise = draw_noise(seeds, self.network.config, self.schedule.steps)
        with self.convolutions():
            samples = self.network(self.placed(x), self.latents(z), noise.to(self.device, self.dtype))
        return to_uint8(samples) if as_uint8 else samples


def batches(sampler, seeds, batch_size, as_uint8=False, edit=None):
    """Yield (seeds, samples) for `batch_size` seeds after the other; samples as `Sampler.sample` gives them, on its device.

    seeds: a sequence of whole numbers.  edit: an edit.Edit of as many images on the sampler's device, or None.  On a CPU a sample is
    bitwise the same at any batch size and in any company.  Where the memory does not hold a batch, it is halved and the work goes on;
    raises ResourceError where it does not hold one image.
    """
    start = 0
    while start < len(seeds):
        part = seeds[start : start + batch_size]
        try:
            rows = edit and edit.rows(slice(start, start + len(part)))
            samples = rows.unchanged(as_uint8) if rows and rows.steps == 0 else sampler.sample(part, as_uint8, rows)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            if len(part) == 1:
                text = f"out of memory with one image: {str(error).splitlines()[0]}"
                raise ResourceError(f"{text}; free memory, or take a lower precision or another device") from error
            batch_size = len(part) // 2
        else:
            yield part, samples
            start += len(part)
            continue
        log.warning("out of memory with %d images at once; going on with %d", len(part), batch_size)  # behind the except: frames are freed
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def out_of_memory(error):
    """Whether an exception of torch says that memory, of a GPU or of the host, ran out."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
