"""Paper Fig. 6 and C.5: mode coverage on the 25 Gaussians, T = 4 beside T = 1 with the same budget.

`python -m benchmarks.gaussians25` trains both (about half an hour on 2 cores) and writes results/<device>/gaussians25.csv and .png:
the data, T = 1 and T = 4, as densities.
"""

import argparse
import time

import numpy as np
import torch

from benchmarks.harness import results_folder, write_rows
from ddgan_fast.config import override, preset
from ddgan_fast.data import open_loader
from ddgan_fast.data.toy import SCALE, SIGMA
from ddgan_fast.pictures import density, write_png
from ddgan_fast.pipeline import DDGANPipeline
from ddgan_fast.training.state import TrainState
from ddgan_fast.training.trainer import Trainer

SAMPLES = 10_000


def coverage(points):
    """(modes, share): modes that hold at least a tenth of their fair share of points within 3 sigma, and the share of points within.

    points: float [N, 2] in data units.
    """
    axis = torch.tensor([-4.0, -2.0, 0.0, 2.0, 4.0]) / SCALE
    distance, mode = torch.cdist(points, torch.cartesian_prod(axis, axis)).min(dim=1)
    near = distance < 3 * SIGMA / SCALE
    counts = torch.bincount(mode[near], minlength=25)
    return int((counts >= len(points) / 250).sum()), near.float().mean().item()


def train(config, device):
    """(pipeline with the averaged weights, seconds of training)."""
    state, loader = TrainState(config, device), open_loader(config, device)
    trainer, batches = Trainer(state, loader.steps_per_epoch), loader.batches()
    start = time.perf_counter()
    while state.step < config.train.iterations:
        trainer.step(next(batches))
        if state.step % 1000 == 0:
            pipe = DDGANPipeline(state.ema.module, config)
            modes, share = coverage(pipe(num_images=SAMPLES, output_type="pt").images.cpu())
            print(
                f"T={config.diffusion.steps} step {state.step}: {modes} modes, {share:.1%} within 3 sigma, {trainer.metrics()}", flush=True
            )
            state.ema.module.requires_grad_(True)
    return DDGANPipeline(state.ema.module, config), time.perf_counter() - start


def main(device, iterations, seed, all_steps):
    start = preset("gaussians25")
    rows, pictures = [], [density(open_loader(start, "cpu").dataset.items[:SAMPLES].numpy())]
    for steps in all_steps:
        config = override(start, {"steps": steps, "iterations": iterations, "seed": seed})
        pipe, seconds = train(config, device)
        points = pipe(num_images=SAMPLES, output_type="pt").images.cpu()
        modes, share = coverage(points)
        train_settings = config.train
        rows.append(
            {
                "steps": steps,
                "iterations": iterations,
                "batch_size": train_settings.batch_size,
                "lr_g": train_settings.lr_g,
                "lr_d": train_settings.lr_d,
                "seed": seed,
                "samples": SAMPLES,
                "modes": modes,
                "within_3_sigma": round(share, 4),
                "train_seconds": round(seconds),
            }  # fmt: skip
        )
        pictures.append(density(points.numpy()))
    write_png(results_folder(device) / "gaussians25.png", np.concatenate(pictures, axis=1))
    write_rows("gaussians25", device, rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--iterations", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 4])
    args = parser.parse_args()
    main(torch.device(args.device), args.iterations, args.seed, args.steps)
