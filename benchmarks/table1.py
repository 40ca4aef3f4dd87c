"""Paper Table 1, the time column: DDGAN and the diffusion models it is compared with, sampling a batch in one run on one device.

The other samplers run DDGAN's own backbone without latent (paper C.4), not the networks of their papers; all run in float32, operation by
operation. Weights are fresh: time does not depend on them. A sampler is timed on a part of its steps, which are all alike: `nfe` and
`steps_timed` count network evaluations, `measured_ms` is the median time of those timed, `seconds_per_batch` that of all. The samplers
take turns.

`python -m benchmarks.table1 [--device cpu|cuda] [--preset cifar10] [--batch-size 100]` writes results/<device>/table1.csv.
"""

import argparse
import statistics
from functools import partial

import torch

from benchmarks.harness import timings, write_rows
from ddgan_fast import DDGANPipeline
from ddgan_fast.config import PRESETS, override, preset
from ddgan_fast.experiments.samplers import SAMPLERS, TRAINED_STEPS
from ddgan_fast.models import build_generator, memory_format

BATCH = {"cuda": 100, "cpu": 4}  # the paper's; as many 32x32 images as the pipeline gives the network at once on a CPU
PARTS = {"cuda": (1, 20), "cpu": (5, 100)}  # one in so many steps is timed, of samplers under 1000 evaluations and of longer ones
LONG = 1000
ROUNDS = 3


def epsilon_network(config, device):
    """network(x, t) -> epsilon as the samplers call it: the preset's generator without latent, t in (0, 1] as a trained step's index."""
    plain = override(config, {"latent": False})
    generator = DDGANPipeline(build_generator(plain.model), plain).to(device).generator
    return lambda x, t: generator(x, (TRAINED_STEPS * t).round().long())


def draw(sampler, network, shape, nfe, device):
    """Samples from noise drawn here, as a call of the pipeline draws its own."""
    x = torch.randn(shape, device=device)
    return sampler(network, x.to(memory_format=memory_format(device)), nfe)


def main(device, name, batch):
    torch.backends.cudnn.allow_tf32 = False  # rows say float32
    config = preset(name)
    steps, shape = config.diffusion.steps, (batch, *config.model.sample_shape)
    ddgan, network = f"DDGAN, T={steps}", epsilon_network(config, device)
    pipe = DDGANPipeline.from_preset(name).to(device)
    evaluations = {ddgan: (steps, steps)}  # of a batch, and those timed
    calls = {ddgan: partial(pipe, num_images=batch, output_type="pt", batch_size=batch)}
    for sampler, (function, nfe) in SAMPLERS.items():
        timed = nfe // PARTS[device.type][nfe >= LONG]
        evaluations[sampler] = nfe, timed
        calls[sampler] = partial(draw, function, network, shape, timed, device)
    calls[ddgan]()
    draw(SAMPLERS["DDPM"][0], network, shape, 2, device)  # the first evaluations of a network are slow: everything starts up
    times = {sampler: [] for sampler in calls}
    for _ in range(ROUNDS):
        for sampler, call in calls.items():
            times[sampler].append(timings(call, device, warmup=0, repeats=1)[0])
    rows = []
    for sampler, (nfe, timed) in evaluations.items():
        ms = statistics.median(times[sampler])
        seconds = ms * nfe / timed / 1e3
        rows.append(
            {
                "preset": name,
                "sampler": sampler,
                "nfe": nfe,
                "batch": batch,
                "steps_timed": timed,
                "measured_ms": round(ms, 1),
                "seconds_per_batch": round(seconds, 3),
                "times_ddgan": round(1e3 * seconds / statistics.median(times[ddgan]), 1),
            }
        )
    write_rows("table1", device, rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    images = [name for name, config in PRESETS.items() if config.model.network == "unet"]
    parser.add_argument("--preset", choices=images, default="cifar10")
    parser.add_argument("--batch-size", type=int, help="images of the batch; by default 100 on a GPU, 4 on a CPU")
    args = parser.parse_args()
    main(args.device, args.preset, BATCH[args.device.type] if args.batch_size is None else args.batch_size)
