"""What an edit costs beside plain sampling: T steps take k, and the rest of the call should not show (paper Sec. 5.3, Fig. 9).

`python -m benchmarks.edit [--presets cifar10,celebahq256] [--device cpu|cuda]` writes results/<device>/edit.csv, a row for each k: a whole
call, from one PIL image to one PIL image, on the engine that auto picks; calls take turns. Weights are random, of full size.
"""

import argparse
import statistics
from functools import partial

import numpy as np
import torch
from PIL import Image

from benchmarks.harness import spread, timings, write_rows
from benchmarks.sample import make_pipe

PAPER = {"celebahq256": 0.16}  # seconds of an edit in the paper; of SDEdit 181
ROUNDS = 15


def rows(name, device):
    """The rows of a preset."""
    pipe = make_pipe(name, device).compile()
    steps, side = pipe.config.diffusion.steps, pipe.config.model.resolution
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8))
    calls = {None: partial(pipe, num_images=1)} | {k: partial(pipe.edit, photo, k / steps) for k in range(steps + 1)}
    taken = {k: [] for k in calls}
    for call in calls.values():
        timings(call, device, repeats=1)
    for _ in range(ROUNDS):
        for k, call in calls.items():
            taken[k].append(timings(call, device, warmup=0, repeats=1)[0])
    whole = statistics.median(taken.pop(None))
    for k, times in taken.items():
        ms, low, high = spread(times)
        row = {"preset": name, "nfe": k, "of_steps": steps, "ms": ms, "ms_p20": low, "ms_p80": high, "sampling_ms": whole}
        row |= {"share_ms": whole * k / steps, "overhead_ms": ms - whole * k / steps}
        yield {key: round(value, 2) if isinstance(value, float) else value for key, value in row.items()} | {"paper_s": PAPER.get(name, "")}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--presets", default="demo,cifar10,celebahq256")
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    args = parser.parse_args()
    write_rows("edit", args.device, (row for name in args.presets.split(",") for row in rows(name, args.device)))
