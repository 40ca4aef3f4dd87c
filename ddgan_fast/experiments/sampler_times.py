"""Seconds of a batch by DDGAN and by the samplers of paper Table 1, which take turns on one device.

The other samplers run DDGAN's own backbone without latent (paper C.4), not the networks of their papers, in float32, operation by
operation. Weights are fresh: time does not depend on them. A sampler is timed on a part of its steps, which are all alike.
"""

import math
import statistics
import time
from functools import partial
from typing import NamedTuple

import torch

from ddgan_fast.config import override
from ddgan_fast.experiments.samplers import SAMPLERS, TRAINED_STEPS
from ddgan_fast.models import build_generator, memory_format
from ddgan_fast.pipeline import BATCH, DDGANPipeline
from ddgan_fast.precision import convolutions
from ddgan_fast.sampling.generate import CHUNK_PIXELS

PARTS = {"cuda": (1, 20), "cpu": (5, 100)}  # one in so many steps is timed, of samplers under 1000 evaluations and of longer ones
LONG = 1000
ROUNDS = 3


class Timed(NamedTuple):
    """nfe: network evaluations per sample.  timed: those that `part_seconds`, a median, are the time of.  seconds: of all."""

    nfe: int
    timed: int
    part_seconds: float

    @property
    def seconds(self):
        return self.part_seconds * self.nfe / self.timed


def batch_of(pipe):
    """The paper's 100 images; on a CPU as many as the pipeline gives the network at once, 4 of 32x32."""
    return BATCH if pipe.device.type != "cpu" else max(1, CHUNK_PIXELS // math.prod(pipe.config.model.sample_shape[1:]))


def measure(pipes, batch):
    """{name: Timed} of DDGANPipelines {name: pipe}, as they are compiled, and of SAMPLERS on the backbone of the first one.

    pipes: of images, on one device.  batch: images per call.
    """
    first = next(iter(pipes.values()))
    device, shape, network = first.device, (batch, *first.config.model.sample_shape), epsilon_network(first.config, first.device)
    evaluations = {name: (pipe.config.diffusion.steps,) * 2 for name, pipe in pipes.items()}  # of a batch, and those timed
    calls = {name: partial(pipe, num_images=batch, output_type="pt", batch_size=batch) for name, pipe in pipes.items()}
    for call in calls.values():
        call()  # the first evaluations of a network are slow: everything starts up
    for name, (sampler, nfe) in SAMPLERS.items():
        timed = nfe // PARTS[device.type][nfe >= LONG]
        evaluations[name] = nfe, timed
        calls[name] = partial(draw, sampler, network, shape, timed, device)
    draw(SAMPLERS["DDPM"][0], network, shape, 2, device)
    taken = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            taken[name].append(_seconds(call, device))
    return {name: Timed(*evaluations[name], statistics.median(seconds)) for name, seconds in taken.items()}


def epsilon_network(config, device):
    """network(x, t) -> epsilon as the samplers call it: the config's generator without latent, t in (0, 1] as a trained step's index."""
    plain = override(config, {"latent": False})
    generator = DDGANPipeline(build_generator(plain.model), plain).to(device).generator
    return lambda x, t: generator(x, (TRAINED_STEPS * t).round().long())


def draw(sampler, network, shape, nfe, device):
    """Samples from noise drawn here, as a call of the pipeline draws its own."""
    x = torch.randn(shape, device=device)
    with convolutions(allow_tf32=False, benchmark=False):
        return sampler(network, x.to(memory_format=memory_format(device)), nfe)


def _seconds(call, device):
    synchronize = partial(torch.cuda.synchronize, device) if device.type == "cuda" else torch.cpu.synchronize
    synchronize()
    start = time.perf_counter()
    call()
    synchronize()
    return time.perf_counter() - start
