"""Latency and throughput of engines on this device, with the error of each beside it (`ddgan bench`).

A call is what a user waits for: x_T, latents, noise, T network evaluations, posterior steps and uint8 images. Engines take turns, so that
what else the machine does meets all of them.
"""

import time
from functools import partial

import numpy as np
import torch

from ddgan_fast.diffusion import bound, denoise, draw_start
from ddgan_fast.errors import InputError
from ddgan_fast.models.layers import init_uniform
from ddgan_fast.sampling import engine as engines

WARM_UP = {"cuda": 10, "cpu": 1}


def randomise(generator, seed=0):
    """Give every layer weights of full size, so that no branch of the network vanishes as in a fresh one; the same ones for a seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for module in generator.modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.Linear) and module.weight.std() < 1e-3:
                init_uniform(module)


def latency(calls, device, iterations):
    """{name: seconds of each call} of {name: function without arguments}, which take turns after WARM_UP calls each.

    On a GPU, seconds between events around the call on a device that was idle.
    """
    once = partial(_gpu_seconds, device) if device.type == "cuda" else _host_seconds
    for call in calls.values():
        for _ in range(WARM_UP[device.type]):
            call()
    taken = {name: [] for name in calls}
    for _ in range(iterations):
        for name, call in calls.items():
            taken[name].append(once(call))
    return taken


def _host_seconds(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _gpu_seconds(device, call):
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    with torch.cuda.device(device):
        torch.cuda.synchronize()
        begin.record()
        call()
        end.record()
        end.synchronize()
    return begin.elapsed_time(end) / 1e3


def speed(seconds, batch):
    """{ms_p50, ms_p90, images_per_s} of the seconds that calls took for a batch; p90 is the nearest rank."""
    median = float(np.median(seconds))
    return {"ms_p50": round(1e3 * median, 3), "ms_p90": milliseconds(seconds, 90), "images_per_s": round(batch / median, 2)}


def milliseconds(seconds, percent):
    """What so many percent of the seconds do not exceed, by the nearest rank."""
    return round(1e3 * float(np.percentile(seconds, percent, method="inverted_cdf")), 3)


class Truth:
    """What the plain network in float32 draws, and each of its evaluations on the way; `errors` compares a Sampler with it."""

    @torch.no_grad()
    def __init__(self, generator, schedule, seeds):
        """generator: on its device; it runs in float32."""
        self.sampler = engines.build("eager", generator, schedule, "fp32")
        self.seeds, self.calls = torch.tensor(list(seeds), device=self.sampler.device), []
        x, self.z = draw_start(self.seeds, generator.config, schedule.steps)

        def recording(x_t, t, z):
            self.calls.append((x_t, int(t[0]), self.sampler.network(x_t, t, z)))
            return self.calls[-1][2]

        with self.sampler.convolutions():
            self.images = denoise(recording, schedule, self.sampler.placed(x), self.z, seeds=self.seeds)

    @torch.no_grad()
    def errors(self, sampler):
        """(largest |got - want| / |want| of a network evaluation, in Euclidean norms; mean |difference| of the images in 255ths)."""
        evaluate, worst = bound(sampler.network, sampler.latents(self.z)), 0.0
        for x_t, t, want in self.calls:
            with sampler.convolutions():
                got = evaluate(sampler.placed(x_t), t)
            worst = max(worst, ((got.float() - want).norm() / want.norm()).item())
        images = sampler.sample(self.seeds.tolist())
        return worst, 127.5 * (images.float().clamp(-1, 1) - self.images.clamp(-1, 1)).abs().mean().item()


def measure(pipe, names, batch_sizes, iterations, precision="fp32", progress=lambda text: None):
    """Rows {engine, runs, precision, batch, nfe, ms_p50, ms_p90, images_per_s, max_error, image_error} of engines of a DDGANPipeline.

    names: of sampling.engine.ENGINES, or "auto"; `runs` is the engine that it stands for.  max_error, image_error: as `Truth.errors`.
    Raises InputError for a network of points, and as sampling.engine.build.
    """
    if len(pipe.config.model.sample_shape) != 3:
        raise InputError(f"bench: {pipe.config.name} draws 2-D points; give a model of images")
    truth = Truth(pipe.generator, pipe.schedule, range(2))
    samplers, errors = {}, {}
    for name in names:
        progress(f"building engine {name}")
        samplers[name] = engines.build(name, pipe.generator, pipe.schedule, precision)
        errors[name] = truth.errors(samplers[name])
    rows = []
    for batch in batch_sizes:
        progress(f"batch {batch}")
        calls = {name: partial(sampler.sample, range(batch), as_uint8=True) for name, sampler in samplers.items()}
        for name, seconds in latency(calls, pipe.device, iterations).items():
            error, image_error = errors[name]
            chosen = engines.choose(pipe.device, pipe.config.model.network)[0] if name == "auto" else name
            case = {"engine": name, "runs": chosen, "precision": precision, "batch": batch, "nfe": pipe.config.diffusion.steps}
            rows.append(case | speed(seconds, batch) | {"max_error": float(f"{error:.2e}"), "image_error": float(f"{image_error:.2e}")})
    return rows
