"""`DDGANPipeline`, the public face: a generator with its schedule, called with seeds, answers with images."""

import operator
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ddgan_fast import config as configs
from ddgan_fast.checkpoint.model import load_model, save_model
from ddgan_fast.checkpoint.released import convert
from ddgan_fast.data.given import as_mask, as_x0
from ddgan_fast.diffusion import Schedule, draw_start
from ddgan_fast.engines.opening import open_engine
from ddgan_fast.errors import InputError
from ddgan_fast.models import build_generator, memory_format
from ddgan_fast.noise import MAX_SEED, as_seeds
from ddgan_fast.pictures import to_pil, to_uint8
from ddgan_fast.sampling import engine as engines
from ddgan_fast.sampling import generate
from ddgan_fast.sampling.edit import Edit, steps_of

OUTPUT_TYPES = "pil", "np", "pt", "uint8"
MOST_IMAGES = 100_000_000
BATCH = 100  # samples per batch of a call, as in the paper's timing


@dataclass(frozen=True)
class Output:
    """What a call of the pipeline returns."""

    images: Any
    """pil: list of PIL images; np: float32 [N, H, W, C] in [0, 1]; pt: float32 [N, C, H, W] in [0, 1]; uint8: numpy [N, H, W, C].
    Points: float32 [N, 2] in data units, numpy for np, a tensor for pt."""
    seeds: list[int]
    nfe: int
    """Network evaluations per sample: T, of an edit k."""
    seconds: float
    """Wall time of noise, network and posterior steps, device work included."""


def parse_seeds(seeds, num_images=None, most=MOST_IMAGES):
    """Seeds as a range or list.

    seeds: "0-63" (inclusive), "3,5,9", one number s (s .. s + num_images - 1, one image by default), or a sequence, whose
    length num_images must be if given.  Raises InputError for anything else, for none, for more than `most`, and for a seed outside 0 to
    2^63 - 1.
    """
    try:
        if isinstance(seeds, str):
            parts = [part.split("-") if "-" in part else (part, part) for part in seeds.split(",")]
            ranges = [range(int(first), int(last) + 1) for first, last in parts]
        elif hasattr(seeds, "__index__"):
            ranges = [range(operator.index(seeds), operator.index(seeds) + (1 if num_images is None else num_images))]
        else:
            ranges = [seeds] if isinstance(seeds, range) else [range(seed, seed + 1) for seed in map(operator.index, seeds)]
    except (TypeError, ValueError) as error:
        raise InputError(f"seeds {seeds!r}: give a range as 0-63, a list as 3,5,9, or whole numbers") from error
    counts = [part.stop - part.start for part in ranges]  # len() refuses huge ones
    if not ranges or min(counts) < 1 or num_images not in (None, sum(counts)):
        raise InputError(f"seeds {seeds!r}, num_images {num_images}: num_images must be 1 or more and fit the seeds, a range ascending")
    if min(part.start for part in ranges) < 0 or max(part.stop for part in ranges) > MAX_SEED + 1:
        raise InputError(f"seeds {seeds!r}, num_images {num_images}: a seed must be 0 to {MAX_SEED} (2^63 - 1)")
    if sum(counts) > most:
        raise InputError(f"seeds {seeds!r}, num_images {num_images}: {sum(counts):,} images; {most:,} is the most of one call")
    found = ranges[0] if len(ranges) == 1 else [seed for part in ranges for seed in part]
    return found


def edit_of(config, image, strength, mask=None):
    """The sampling.edit.Edit of one image, on the CPU. Arguments and errors as of `DDGANPipeline.edit`; it needs the config alone."""
    shape, prediction = config.model.sample_shape, config.diffusion.prediction
    if len(shape) != 3:
        raise InputError("this model draws 2-D points; an edit needs one of images")
    if mask is not None and prediction != "x0":
        raise InputError(f"a mask needs a model that predicts x0; this one predicts {prediction}")
    steps = steps_of(strength, config.diffusion.steps)
    return Edit(as_x0(image, shape), steps, None if mask is None else as_mask(mask, image, shape))


class DDGANPipeline:
    """A generator, its schedule and its config; `pipe(num_images=16, seed=0).images` draws.

    Made by `from_pretrained`, `from_preset` or `from_original`; `to` and `compile` return the pipeline itself.
    """

    def __init__(self, generator, config):
        """generator: models.build_generator(config.model) with its weights; config: config.Config."""
        self.generator = generator.eval().requires_grad_(False)
        self.config = config
        self.schedule = Schedule.of(config.diffusion).to(self.device)
        self.engine, self.precision, self.engine_file, self._sampler = "eager", None, None, None

    @classmethod
    def from_pretrained(cls, path):
        """From a model folder or a training run (its newest EMA). Raises CheckpointError where there is none or it is damaged."""
        return cls(*load_model(path))

    @classmethod
    def from_preset(cls, name):
        """Fresh weights of a preset, from torch's global RNG. Raises InputError for an unknown name."""
        config = _preset(name)
        return cls(build_generator(config.model), config)

    @classmethod
    def from_original(cls, path, preset=None, options=None, raw=False):
        """From a released netG_*.pth or content.pth; arguments as checkpoint.released.convert, with the preset's name."""
        return cls(*convert(path, _preset(preset) if preset else None, options, raw))

    @property
    def device(self):
        """Where the weights are."""
        return next(self.generator.parameters()).device

    def to(self, *args, **kwargs):
        """Move or cast the generator, as torch's `Module.to`. Noise is drawn in float32 and cast."""
        self.generator.to(*args, **kwargs)
        self.generator.to(memory_format=memory_format(self.device))
        self.schedule = self.schedule.to(self.device)
        self._sampler = None
        return self

    def compile(self, engine="auto", precision=None, engine_file=None):
        """Choose how the network runs; the generator itself stays as it is, and a later change of its weights needs another call.

        engine: "auto" (the fastest here), "eager" (where a pipeline starts), "folded", "compile" or "graph"; `ddgan env` says which are
        there.  precision: "fp32", "tf32", "bf16" or "fp16" for networks and images, None for the generator's dtype.
        engine_file: a folder of `ddgan export`, which runs in place of the network, in the precision it was exported in; engine is then
        "auto", "onnx", "openvino", "tensorrt", "torch-tensorrt" or "aot". Plans and .pt2 files are code: name only folders that you trust.
        Raises InputError for an unknown name, MissingError for what is not there, CheckpointError for a folder that does not fit the model.
        """
        if engine_file is None:
            self._sampler = engines.build(engine, self.generator, self.schedule, precision)
        else:
            self._sampler, precision = self._from_file(engine_file, engine, precision)
        self.engine, self.precision, self.engine_file = engine, precision, engine_file
        return self

    def _from_file(self, folder, engine, precision):
        """(Sampler of an engine in a folder, its precision)."""
        network, manifest = open_engine(folder, engine, precision, self.generator, self.config, self.schedule)
        kind = engines.sampler_of(manifest["format"], manifest["target"], self.device)
        return kind(network, self.schedule, torch.float32, torch.contiguous_format), manifest["precision"]

    @property
    def runs(self):
        """What draws, in words: an engine, for "auto" the one that it stands for here, or "file" and the folder of ddgan export."""
        if self.engine_file is not None:
            return f"file {Path(self.engine_file).name}"
        return engines.choose(self.device, self.config.model.network)[0] if self.engine == "auto" else self.engine

    @property
    def sampler(self):
        """The sampling.generate.Sampler of the chosen engine."""
        if self._sampler is None:
            self.compile(self.engine, self.precision, self.engine_file)
        return self._sampler

    def batches(self, seeds, batch_size=BATCH, as_uint8=False, edit=None):
        """Yield (seeds, samples) batch by batch, so that memory stays bounded; samples float [b, C, H, W] in [-1, 1] or [b, 2].

        seeds: as in `parse_seeds`.  as_uint8: images as uint8 [b, H, W, C], which the last step writes itself.  edit: what `start_from`
        gives, or a sampling.edit.Edit of an image for each seed.
        A sample depends on its seed, and on the image that it starts from, alone: on a CPU bitwise, at any batch size.
        """
        if batch_size < 1:
            raise InputError(f"batch_size = {batch_size}: it must be 1 or more")
        seeds = parse_seeds(seeds)
        if edit is not None:
            forgotten = edit.steps == self.config.diffusion.steps and edit.mask is None
            edit = None if forgotten else edit.to(self.device).spread(len(seeds))  # moved first: what spreads is a view
        return generate.batches(self.sampler, seeds, batch_size, as_uint8, edit)

    def start_from(self, image, strength=0.5, mask=None):
        """The sampling.edit.Edit of an image, for `batches`. Arguments and errors as of `edit`."""
        return edit_of(self.config, image, strength, mask)

    def edit(self, image, strength=0.5, mask=None, num_images=None, seed=0, *, seeds=None, output_type=None, batch_size=BATCH):
        """Variants of an image: diffused to step k = floor(strength T + 0.5) and denoised from there (SDEdit; paper Sec. 5.3); an Output.

        image: a PIL image or uint8 [H, W], [H, W, 1 or 3] array of any size, of which the model gets the middle square, resized; or a
        float tensor [C, H, W] in [0, 1] of the model's shape.  strength: 0 (k = 0, the image as it is) to 1 (k = T, the image is
        forgotten: the pictures of plain sampling).  mask: of the image's size, white (255, True, 1) where it may change, black where it
        stays to the bit, gray between; a PIL image, or array or tensor [H, W].  With strength 1 that is inpainting.
        num_images, seed, seeds, output_type, batch_size: as in a call; equal seeds give equal variants.
        NFE is k.  Raises InputError for wrong arguments, for a model of points, and for a mask where the model does not predict x0.
        """
        edit, output_type = self.start_from(image, strength, mask), self._output_type(output_type)
        seeds = parse_seeds(seed if seeds is None else seeds, num_images)
        return self._timed(lambda as_uint8: self._joined(seeds, batch_size, as_uint8, edit), seeds, output_type, edit.steps)

    @torch.no_grad()
    def __call__(self, num_images=None, seed=0, *, seeds=None, latents=None, generator=None, output_type=None, batch_size=BATCH):
        """Draw samples; an Output.

        num_images, seed: the images that seeds seed .. seed + num_images - 1 name; or seeds: "0-63", "3,5" or a sequence.
        latents: x_T [N, C, H, W] standard normal instead of the seeds' own.  generator: a torch.Generator that draws x_T (unless
        latents are given), z and the posterior noise, for parity with other code; the result then depends on the batch.
        output_type: "pil" (default), "np", "pt" or "uint8"; points have "np" (default) and "pt".  Raises InputError for wrong arguments.
        """
        shape, output_type = self.config.model.sample_shape, self._output_type(output_type)
        if latents is not None and tuple(latents.shape[1:]) != shape:
            raise InputError(f"latents have shape {list(latents.shape)}; they must be [N, {', '.join(map(str, shape))}]")
        if num_images is None and latents is not None:
            num_images = len(latents)
        found = parse_seeds(seed if seeds is None else seeds, num_images)
        if latents is not None and len(latents) != len(found):
            raise InputError(f"{len(latents)} latents for {len(found)} images; give one for each")

        def draw(as_uint8):
            if generator is None and latents is None:
                return self._joined(found, batch_size, as_uint8)
            return self._denoise(found, latents, generator)

        return self._timed(draw, found, output_type, self.config.diffusion.steps)

    def _output_type(self, name):
        """The output type of that name, by default the first. Raises InputError where the model does not have it."""
        allowed = OUTPUT_TYPES if len(self.config.model.sample_shape) == 3 else ("np", "pt")
        if name not in (None, *allowed):
            raise InputError(f"output_type {name!r}: it must be one of {', '.join(allowed)}")
        return name or allowed[0]

    def _joined(self, seeds, batch_size, as_uint8, edit=None):
        """All of `batches` in one tensor."""
        return torch.cat([part for _, part in self.batches(seeds, batch_size, as_uint8, edit)])

    @staticmethod
    def _timed(draw, seeds, output_type, nfe):
        """The Output of draw(as_uint8) -> samples."""
        start = time.perf_counter()
        samples = draw(output_type in ("pil", "uint8"))
        if samples.is_cuda:
            torch.cuda.synchronize(samples.device)
        seconds = time.perf_counter() - start
        return Output(_as(samples, output_type), list(seeds), nfe, seconds)

    def _denoise(self, seeds, latents, generator):
        """One batch from given latents or a torch.Generator; what neither gives comes from the seeds."""
        model, steps = self.config.model, self.config.diffusion.steps
        if generator is None:
            seeds = as_seeds(seeds, self.device)
            _, z = draw_start(seeds, model, steps)
            return self.sampler.run(latents, z, seeds=seeds)
        draw = partial(torch.randn, generator=generator, device=generator.device)
        x = draw(len(seeds), *model.sample_shape) if latents is None else None
        drawn = [(draw(len(seeds), model.latent_dim), draw(len(seeds), *model.sample_shape)) for _ in range(steps)][::-1]
        z, noise = map(torch.stack, zip(*drawn, strict=True))
        return self.sampler.run(x if latents is None else latents, z, noise)

    def save_pretrained(self, path):
        """Write a model folder (config.json, model.safetensors, README.md); an older model there is replaced."""
        save_model(path, self.generator, self.config)


def _preset(name):
    try:
        return configs.preset(name)
    except ValueError as error:
        raise InputError(str(error)) from None


def _as(samples, output_type):
    """Samples in [-1, 1] as the output type asks; points as they are."""
    if samples.dim() == 2:
        return samples.float() if output_type == "pt" else samples.float().cpu().numpy()
    if output_type == "pt":
        return ((samples.float() + 1) / 2).clamp(0, 1)
    if output_type == "np":
        return ((samples.float() + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()
    images = to_uint8(samples).cpu().numpy()
    return images if output_type == "uint8" else [to_pil(image) for image in images]
