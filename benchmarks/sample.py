"""Time to sample a batch, the whole call that `ddgan sample` makes: noise, T network evaluations, posterior steps.

`python -m benchmarks.sample [--device cpu|cuda]` writes results/<device>/sample.csv. Weights are fresh: time does not depend on them.
"""

import argparse
from functools import partial

import torch

from benchmarks.harness import timings, write_rows
from ddgan_fast import DDGANPipeline

CASES = {  # preset: batches. On a CPU a few images tell the rate; the GPU's are the paper's 100 images and one 256-pixel image
    "cpu": {"cifar10": (1, 4, 16), "celebahq256": (1,)},
    "cuda": {"cifar10": (1, 100), "celebahq256": (1, 16)},
}


def main(device):
    torch.backends.cudnn.allow_tf32 = False  # rows say float32
    rows = []
    for preset, batches in CASES[device.type].items():
        pipe = DDGANPipeline.from_preset(preset).to(device)
        for batch in batches:
            call = partial(pipe, num_images=batch, output_type="pt")
            median, p20, p80 = timings(call, device, repeats=3 if device.type == "cpu" else 30)
            rows.append(
                {
                    "preset": preset,
                    "batch": batch,
                    "nfe": pipe.config.diffusion.steps,
                    "dtype": "float32",
                    "engine": "eager",
                    "ms": round(median, 1),
                    "ms_p20": round(p20, 1),
                    "ms_p80": round(p80, 1),
                    "images_per_s": round(1e3 * batch / median, 2),
                }  # fmt: skip
            )
    write_rows("sample", device, rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    main(torch.device(parser.parse_args().device))
