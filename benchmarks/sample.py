"""Sampling on this device: latency and throughput of the engines, and a waterfall from the plain network to the last technique.

`python -m benchmarks.sample [--device cpu|cuda] [--seconds 600] [--only engines|waterfall] [--rival]` writes
results/<device>/sample.csv, a row per preset, engine, precision and batch, and results/<device>/waterfall.csv, a row per technique on top
of those before it.

A call draws x_T, z and noise, evaluates the network T times and ends with uint8 images (protocol `images`); `paper-protocol` has x_T drawn
before and ends with floats, as follow-up papers time it. Weights are random, of full size. "plain" is the network as released code runs it:
plain torch operations in float32 and NCHW, FIR filters by zero insertion and one convolution per channel and image, noise by torch.randn.
All calls of a case take turns (ddgan_fast/bench.py). Errors are those of ddgan_fast.bench.Truth.
"""

import argparse
import statistics
import time
from contextlib import ExitStack
from functools import partial
from unittest import mock

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness import meta_networks, write_rows
from ddgan_fast import DDGANPipeline
from ddgan_fast.bench import Truth, latency, milliseconds, randomise, speed
from ddgan_fast.diffusion import draw_start
from ddgan_fast.models.inference import optimize_for_sampling, transformations_for
from ddgan_fast.noise import as_seeds
from ddgan_fast.ops import backend, fir
from ddgan_fast.pictures import to_uint8
from ddgan_fast.precision import PRECISIONS
from ddgan_fast.sampling import engine as engines
from ddgan_fast.sampling.generate import Sampler
from ddgan_fast.sampling.graph import GraphSampler

REPETITIONS = {"cuda": 300, "cpu": 7}
CASES = {  # (preset, batch, precisions), most important first
    "cuda": [
        ("cifar10", 100, ("bf16", "fp16", "tf32", "fp32")), ("cifar10", 1, ("bf16",)), ("lsun-church256", 1, ("bf16",)),
        ("lsun-church256", 16, ("bf16",)), ("cifar10", 512, ("bf16",)), ("celebahq256", 1, ("bf16",)), ("celebahq256", 16, ("bf16",)),
        ("cifar10", 16, ("bf16",)),
    ],
    "cpu": [("cifar10", 4, ("fp32",)), ("cifar10", 1, ("fp32",)), ("celebahq256", 1, ("fp32",)), ("cifar10", 16, ("fp32",))],
}  # fmt: skip
NAMES = {"cuda": ("eager", "folded", "graph"), "cpu": ("eager", "folded")}
WATERFALL = {"cuda": [("cifar10", 100), ("cifar10", 1), ("lsun-church256", 1)], "cpu": [("cifar10", 4)]}


class Within(Sampler):
    """A Sampler whose network and posterior steps run inside context managers."""

    def __init__(self, sampler, *contexts):
        super().__init__(sampler.network, sampler.schedule, sampler.dtype, sampler.layout, sampler.allow_tf32)
        self.contexts = contexts

    def convolutions(self):
        stack = ExitStack()
        for context in (super().convolutions, *self.contexts):
            stack.enter_context(context())
        return stack


def zero_stuffed(x, up=1, down=1, pad=(0, 0), gain=1.0):
    """The FIR filter as released code runs it: zeros between pixels, one convolution per channel and image, then every second pixel."""
    batch, channels, height, width = x.shape
    x = F.pad(x.reshape(-1, 1, height, 1, width, 1), (0, up - 1, 0, 0, 0, up - 1)).reshape(-1, 1, height * up, width * up)
    x = F.conv2d(F.pad(x, (*pad, *pad)), gain * fir.taps(x))[:, :, ::down, ::down]
    return x.reshape(batch, channels, *x.shape[2:])


def plain_fir():
    """The FIR ops by `zero_stuffed`, on the reference backend."""
    forms = (fir.UP, {"up": 2, "pad": (2, 1), "gain": 4.0}), (fir.DOWN, {"down": 2, "pad": (1, 1)}), (fir.BLUR, {"pad": (2, 2)})
    stack = ExitStack()
    for table, options in forms:
        stack.enter_context(mock.patch.dict(table, reference=(backend.always, partial(zero_stuffed, **options))))
    return stack


def on_reference():
    return backend.force("reference")


def plain_call(sampler, batch):
    """Draw by torch.randn, as released code does."""
    model, steps = sampler.network.config, sampler.schedule.steps
    draw = partial(torch.randn, device=sampler.device)
    z = draw(steps, batch, model.latent_dim) if model.latent else None
    return to_uint8(sampler.run(draw(batch, *model.sample_shape), z, draw(steps, batch, *model.sample_shape)))


def paper_protocol(sampler, batch):
    """The call of protocol paper-protocol: x_T is there, the samples stay floats."""
    seeds = as_seeds(range(batch), sampler.device)
    x, _ = draw_start(seeds, sampler.network.config, sampler.schedule.steps)

    def run():
        _, z = draw_start(seeds, sampler.network.config, sampler.schedule.steps)
        return sampler.run(x, z, seeds=seeds)

    return sampler.capture(run)[0] if isinstance(sampler, GraphSampler) else run


def techniques(pipe):
    """[(technique, Sampler, whether it draws as released code does)], each on top of those before."""
    generator, schedule, gpu = pipe.generator, pipe.schedule, pipe.device.type == "cuda"
    build = partial(engines.build, "eager", generator, schedule)
    half = torch.bfloat16 if gpu else torch.float32
    yield "plain, float32", Within(build("fp32"), on_reference, plain_fir), True
    if gpu:
        yield "TF32 convolutions", Within(build("tf32"), on_reference, plain_fir), True
    yield "FIR as depthwise convolutions", Within(build("tf32" if gpu else "fp32"), on_reference), True
    if gpu:
        yield "bfloat16", Within(build("bf16"), on_reference), True

    def folded(*transformations, kind=Sampler):
        form = optimize_for_sampling(generator, schedule, half, transformations=transformations)
        return kind(form, schedule, half, torch.channels_last)

    yield "channels_last", Within(folded(), on_reference), True
    yield "our kernels: " + ("Triton and CUDA" if gpu else "C++"), folded(), False
    transformations = transformations_for(pipe.device, half)
    for count, transformation in enumerate(transformations, 1):
        yield transformation.__name__, folded(*transformations[:count]), False
    if gpu:
        yield "one graph of all steps", folded(*transformations, kind=GraphSampler), False


def rival(pipe):
    """What a torch user gets without us: max-autotune on the plain network in bfloat16 and channels_last, with CUDA graphs."""
    sampler = engines.build("eager", pipe.generator, pipe.schedule, "bf16")
    config = sampler.network.config
    sampler.network = torch.compile(sampler.network, mode="max-autotune", dynamic=False)
    sampler.network.config = config
    within = Within(sampler, on_reference)
    within.measures_algorithms = True
    return within


def peak_tflops(device, precision):
    """Of a large matrix product, the best of some, in 10^12 operations a second."""
    side = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(side, side, dtype=PRECISIONS[precision], device=device) for _ in range(2))
    matmul = torch.backends.cuda.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, "tf32" if precision == "tf32" else "ieee"
    best = min(latency({"product": lambda: a @ b}, device, 10)["product"])
    matmul.fp32_precision = before
    return 2 * side**3 / best / 1e12


def gflop(preset, steps):
    """Of one image: T evaluations of the plain network."""
    generator, inputs = meta_networks(preset, 1)[0]
    with FlopCounterMode(display=False) as counter, backend.force("reference"), torch.no_grad():
        generator(*inputs)
    return steps * counter.get_total_flops() / 1e9


def make_pipe(preset, device):
    pipe = DDGANPipeline.from_preset(preset)
    randomise(pipe.generator)
    return pipe.to(device)


def timed(calls, device, seconds):
    """latency() of the calls, with as many repetitions as fit into the seconds, REPETITIONS at most."""
    start = time.perf_counter()
    for call in calls.values():
        call()  # compiled, captured, paged in
    once = time.perf_counter()
    for call in calls.values():
        call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    turn = time.perf_counter() - once
    fit = int(max(seconds - (once - start), 0) / turn) - 2
    return latency(calls, device, min(max(fit, 3), REPETITIONS[device.type]))


def columns(seconds, batch):
    return speed(seconds, batch) | {"ms_p99": milliseconds(seconds, 99), "repetitions": len(seconds)}


def error_columns(errors):
    return dict(zip(("max_error", "image_error"), (f"{error:.1e}" for error in errors), strict=True))


def engine_rows(device, seconds):
    """Rows of sample.csv."""
    peaks, per_case = {}, seconds / len(CASES[device.type])
    for preset, batch, precisions in CASES[device.type]:
        pipe = make_pipe(preset, device)
        truth, steps = Truth(pipe.generator, pipe.schedule, range(2)), pipe.schedule.steps
        work = gflop(preset, steps)
        keys = [(name, precision) for precision in precisions for name in NAMES[device.type]]
        builds = {(name, p): partial(engines.build, name, pipe.generator, pipe.schedule, p) for name, p in keys}
        memory = {key: peak_mb(build, batch) for key, build in builds.items()}
        samplers = {key: build() for key, build in builds.items()}
        calls = {(*key, "images"): partial(sampler.sample, range(batch), True) for key, sampler in samplers.items()}
        if device.type == "cuda":
            calls |= {(*key, "paper-protocol"): paper_protocol(samplers[key], batch) for key in samplers if key[0] == "graph"}
        errors = {key: truth.errors(sampler) for key, sampler in samplers.items()}
        for (name, precision, protocol), taken in timed(calls, device, per_case).items():
            if precision not in peaks:
                peaks[precision] = peak_tflops(device, precision)
            found = columns(taken, batch)
            tflops = work * found["images_per_s"] / 1e3
            case = {"preset": preset, "engine": name, "precision": precision, "protocol": protocol, "batch": batch, "nfe": steps}
            rate = {"tflops": round(tflops, 3), "percent_of_matmul_peak": round(100 * tflops / peaks[precision], 1)}
            yield case | found | rate | {"peak_mb": memory[name, precision]} | error_columns(errors[name, precision])


def peak_mb(build, batch):
    """MB of GPU memory that an engine reserves to draw a batch, beside the plain network; on a CPU it is not counted."""
    if not torch.cuda.is_available():
        return ""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_reserved()
    build().sample(range(batch), True)
    return round((torch.cuda.max_memory_reserved() - before) / 1e6)


def waterfall_rows(device, seconds, with_rival):
    """Rows of waterfall.csv."""
    for preset, batch in WATERFALL[device.type]:
        pipe = make_pipe(preset, device)
        truth = Truth(pipe.generator, pipe.schedule, range(2))
        found = list(techniques(pipe))
        if with_rival:
            found.append(("rival: torch.compile max-autotune, bfloat16, channels_last", rival(pipe), True))
        calls = {
            name: partial(plain_call, sampler, batch) if plain else partial(sampler.sample, range(batch), True)
            for name, sampler, plain in found
        }
        errors = {name: truth.errors(sampler) for name, sampler, _ in found}
        taken = timed(calls, device, seconds / len(WATERFALL[device.type]))
        slowest = statistics.median(taken[found[0][0]])
        for name in calls:
            times = {"times_plain": round(slowest / statistics.median(taken[name]), 3)}
            case = {"preset": preset, "batch": batch, "technique": name}
            yield case | columns(taken[name], batch) | times | error_columns(errors[name])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    parser.add_argument("--seconds", type=float, default=600, help="of timed calls, about")
    parser.add_argument("--only", choices=("engines", "waterfall"))
    parser.add_argument("--rival", action="store_true", help="also torch.compile max-autotune on the plain network; minutes of compiling")
    args = parser.parse_args()
    part_seconds = args.seconds / (1 if args.only else 2)
    if args.only != "waterfall":
        write_rows("sample", args.device, engine_rows(args.device, part_seconds))
    if args.only != "engines":
        write_rows("waterfall", args.device, waterfall_rows(args.device, part_seconds, args.rival))
