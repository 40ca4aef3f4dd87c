"""How training grows with ranks: `python -m benchmarks.scaling` measures one and two CPU ranks and predicts 8 and 64 GPUs.

Weak scaling: each rank has the same share of a batch that grows with the ranks. Measured: whole training steps under torchrun, one thread a
rank, gloo, and the two sums of gradients alone. Predicted: the sums alone, from their bytes and a bandwidth, behind the step of one GPU;
nothing overlaps in our loop, so efficiency = step / (step + sums). The step is that of results/gpu-*/train.csv where a GPU has run it, else
the one that the performance model of this project expects of an H200 (its row says so).
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import time

import torch

from benchmarks.harness import RESULTS, write_rows
from ddgan_fast.config import override, preset
from ddgan_fast.distributed import barrier, rank_and_world, sum_over_ranks, together
from ddgan_fast.training.state import TrainState
from ddgan_fast.training.trainer import Trainer

PREDICTED = {"cifar10": (128, 27.0), "celebahq256": (32, 156.0)}  # images a GPU, ms of a step: performance model, one H200, bf16
GPUS_A_NODE, NODE_GB_PER_S, NETWORK_GB_PER_S = 8, 380.0, 50.0  # bus bandwidth in a node of H200; 400 Gb/s a GPU between nodes


def worker(name, share, steps):
    """Print, on the first rank, {step_ms, sum_ms, sum_mb} of training steps of `share` images a rank on synthetic data."""
    torch.set_num_threads(1)
    rank, world = rank_and_world()
    with together(torch.device("cpu"), 600):
        state = TrainState(override(preset(name), {"batch_size": share * world, "r1_every": 1_000_000}))
        trainer = Trainer(state, 1_000)
        images = torch.rand(share, *state.config.model.sample_shape) * 2 - 1
        state.step = 1  # R1 is in none of the steps
        found = {"step_ms": _median(lambda: trainer.step(images), steps), "sum_ms": 0.0}
        buffers = [torch.zeros_like(flat.buffer) for flat in (state.optim_d, state.optim_g)]
        if world > 1:
            found["sum_ms"] = _median(lambda: [sum_over_ranks(buffer) for buffer in buffers], 5)
        found["sum_mb"] = sum(buffer.nbytes for buffer in buffers) / 1e6
    if rank == 0:
        print(json.dumps(found))


def _median(call, times):
    """Median milliseconds of calls that all ranks begin together, behind one that is not counted."""
    taken = []
    for _ in range(times + 1):
        barrier()
        start = time.perf_counter()
        call()
        barrier()
        taken.append(1e3 * (time.perf_counter() - start))
    return statistics.median(taken[1:])


def measured(name, world, share, steps):
    """The row of a measurement in processes of its own."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world), "-m", "benchmarks.scaling"]
    command += ["--worker", "--preset", name, "--share", str(share), "--steps", str(steps)]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    return row(name, f"measured, {world} CPU rank(s)", world, share, found["step_ms"], found["sum_ms"], found["sum_mb"])


def row(name, kind, ranks, share, step_ms, sum_ms, sum_mb):
    """step_ms: of one step with everything in it."""
    return {
        "preset": name, "kind": kind, "ranks": ranks, "images_a_rank": share, "step_ms": round(step_ms, 1), "sum_ms": round(sum_ms, 2),
        "sum_mb": round(sum_mb, 1), "images_per_s": round(1e3 * ranks * share / step_ms, 2),
    }  # fmt: skip


def predicted(name, ranks, sum_mb):
    """The row of so many GPUs: the step of one, and a ring's 2 (n - 1) / n of the bytes over the slowest link."""
    share, step_ms, source = _gpu_step(name)
    bandwidth = NODE_GB_PER_S if ranks <= GPUS_A_NODE else NETWORK_GB_PER_S
    sum_ms = 2 * (ranks - 1) / ranks * sum_mb / bandwidth
    return row(name, f"predicted, {source}", ranks, share, step_ms + sum_ms, sum_ms, sum_mb)


def _gpu_step(name):
    share, step_ms = PREDICTED[name]
    for path in sorted(RESULTS.glob("gpu-*/train.csv")):
        for found in csv.DictReader(path.open(encoding="utf-8")):
            if (found["preset"], int(found["batch"]), found["technique"]) == (name, share, "CUDA graphs"):
                return share, float(found["ms"]), f"step measured on {found['device']}"
    return share, step_ms, "step of the performance model for an H200"


def main(name, share, steps):
    rows = [measured(name, world, share, steps) for world in (1, 2)]
    rows += [predicted(name, ranks, rows[0]["sum_mb"]) for ranks in (1, 8, 64)]
    for found in rows:  # against the first row of its kind
        alone = next(other for other in rows if other["kind"].partition(",")[0] == found["kind"].partition(",")[0])
        found["efficiency"] = round(found["images_per_s"] / found["ranks"] / alone["images_per_s"], 3)
    write_rows("scaling", torch.device("cpu"), rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--preset", default="cifar10", choices=PREDICTED)
    parser.add_argument("--share", type=int, default=4, help="images of each rank")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--worker", action="store_true", help="one rank of a measurement, under torchrun")
    args = parser.parse_args()
    (worker if args.worker else main)(args.preset, args.share, args.steps)
