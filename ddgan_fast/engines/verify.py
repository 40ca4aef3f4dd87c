"""Whether an engine draws what the network draws: on random inputs of each batch size, and on images that seeds name."""

import time

import torch

from ddgan_fast.diffusion import draw_noise, draw_start
from ddgan_fast.engines.export import Unrolled, make_graph
from ddgan_fast.engines.networks import SamplerNetwork, StepNetwork
from ddgan_fast.errors import CheckpointError
from ddgan_fast.noise import as_seeds
from ddgan_fast.precision import convolutions

ODD_SIZES = 1, 2, 3, 5
IMAGES = 16
MOST_AT_ONCE = 8  # images of the plain network
TIMED, REPETITIONS = 4, 3  # images of a timed call, and calls
LARGEST_ERROR = 1e-4  # in float32, of the largest value or of 1
LEAST_PSNR = {"bf16": 35.0, "fp16": 50.0}  # dB, of the same
MOST_PSNR = 200.0  # dB, of equal images: JSON has no infinity


@torch.no_grad()
@convolutions(allow_tf32=False, benchmark=False)
def verify(run, graph, generator, schedule, batches):
    """Compare an engine with the plain network; the report, a JSON object.

    run: {name: tensor} -> tensor.  graph: export.Graph of the engine.  generator, schedule: on one device, in float32.
    batches: sizes that the engine is meant for; ODD_SIZES are tried with them, up to the largest.
    Raises CheckpointError where an error is above the limit of the precision.
    """
    device, most = schedule.posterior.device, max(batches)
    plain = make_graph(generator, schedule, graph.target, batch_first=not any(graph.batch_axes.values()), plain=True)
    errors = {}
    for size in sorted({size for size in (*ODD_SIZES, *batches) if size <= most}):
        inputs = graph.examples(size, device)
        want = in_parts(plain.module, inputs, graph.batch_axes)
        errors[str(size)] = judge(run(inputs), want, graph.precision, f"random inputs, batch {size}")
    timed = graph.examples(min(TIMED, most), device)
    theirs, ours = (best_seconds(call, device) for call in (lambda: plain.module(**timed), lambda: run(timed)))
    speed = {"batch": min(TIMED, most), "plain_ms": round(1e3 * theirs, 3), "engine_ms": round(1e3 * ours, 3)}
    return {"random_inputs": errors, "images": compare_images(run, graph, generator, schedule, most), "speed": speed}


def compare_images(run, graph, generator, schedule, most):
    """{count, max_error, psnr, levels} of the images that the seeds below IMAGES name, at most so many at once; levels of 255."""
    model, steps, device = generator.config, schedule.steps, schedule.posterior.device
    seeds = as_seeds(range(IMAGES), device)
    x, z = draw_start(seeds, model, steps)
    noise = draw_noise(seeds, model, steps)
    images, axes = {"x_T": x, "z": z, "noise": noise}, {"x_T": 0, "z": 1, "noise": 1}
    want = in_parts(Unrolled(generator, torch.float32, schedule), images, axes)
    if graph.target == "sampler":
        engine = SamplerNetwork(run, model, graph.batch_axes)
    else:
        engine = Unrolled(StepNetwork(run, model), torch.float32, schedule)
    got = in_parts(engine, images, axes, most)
    levels = 127.5 * (got.clamp(-1, 1) - want.clamp(-1, 1)).abs().max().item()
    return {"count": IMAGES} | judge(got, want, graph.precision, "sampled images") | {"levels": round(levels, 3)}


def judge(got, want, precision, what):
    """{max_error, psnr} of a result. Raises CheckpointError where it is farther off than the precision allows."""
    if got.shape != want.shape:
        raise CheckpointError(f"parity failed on {what}: the engine gives {list(got.shape)}, the network {list(want.shape)}")
    got, want = got.double().cpu(), want.double().cpu()
    scale = max(1.0, want.abs().max().item())
    error = (got - want).abs().max().item() / scale
    psnr = min(-10 * ((got - want) / (2 * scale)).square().mean().log10().item(), MOST_PSNR)
    least = LEAST_PSNR.get(precision)
    if not (error <= LARGEST_ERROR if least is None else psnr >= least):
        limit = f"at most {LARGEST_ERROR:.0e}" if least is None else f"at least {least} dB"
        text = f"parity failed on {what}: largest error {error:.1e}, PSNR {psnr:.1f} dB; {precision} asks for {limit}"
        raise CheckpointError(
            f"{text}\nlayer by layer: ddgan export --format onnx --no-verify, then polygraphy run model.onnx --onnxrt --trt"
        )
    return {"max_error": float(f"{error:.2e}"), "psnr": round(psnr, 1)}


def in_parts(module, inputs, axes, most=MOST_AT_ONCE):
    """module(**inputs), `most` images at once; axes: of the batch in each input."""
    given = {name: value.split(most, axes[name]) for name, value in inputs.items() if value is not None}
    return torch.cat([module(**dict(zip(given, part, strict=True))) for part in zip(*given.values(), strict=True)])


def best_seconds(call, device):
    """The shortest of REPETITIONS calls, after one."""
    taken = []
    for _ in range(1 + REPETITIONS):
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - start)
    return min(taken[1:])
