"""Paper Table 1, the time column: DDGAN and the diffusion models it is compared with, sampling a batch in one run on one device.

What is timed, and how: ddgan_fast/experiments/sampler_times.py; DDGAN too runs in float32, operation by operation, with fresh weights.
`nfe` and `steps_timed` count network evaluations, `measured_ms` is the median time of those timed, `seconds_per_batch` that of all.

`python -m benchmarks.table1 [--device cpu|cuda] [--preset cifar10] [--batch-size 100]` writes results/<device>/table1.csv.
"""

import argparse

import torch

from benchmarks.harness import write_rows
from ddgan_fast import DDGANPipeline
from ddgan_fast.config import PRESETS
from ddgan_fast.experiments.sampler_times import batch_of, measure


def main(device, name, batch):
    pipe = DDGANPipeline.from_preset(name).to(device)
    batch = batch or batch_of(pipe)
    ddgan = f"DDGAN, T={pipe.config.diffusion.steps}"
    times = measure({ddgan: pipe}, batch)
    rows = [
        {
            "preset": name,
            "sampler": sampler,
            "nfe": timed.nfe,
            "batch": batch,
            "steps_timed": timed.timed,
            "measured_ms": round(1e3 * timed.part_seconds, 1),
            "seconds_per_batch": round(timed.seconds, 3),
            "times_ddgan": round(timed.seconds / times[ddgan].seconds, 1),
        }
        for sampler, timed in times.items()
    ]
    write_rows("table1", device, rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    images = [name for name, config in PRESETS.items() if config.model.network == "unet"]
    parser.add_argument("--preset", choices=images, default="cifar10")
    parser.add_argument("--batch-size", type=int, help="images of the batch; by default 100 on a GPU, on a CPU 4 of 32x32 pixels")
    args = parser.parse_args()
    main(args.device, args.preset, args.batch_size)
