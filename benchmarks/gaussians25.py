"""Paper Fig. 6 and C.5: mode coverage on the 25 Gaussians.

`python -m benchmarks.gaussians25 --steps 4` trains a model of T = 4 steps on this device and writes
results/<device>/gaussians25-T4.csv and .png (left the data, right the samples, as densities); `--steps 1` the same for T = 1.
It saves on the way under --out, and goes on from there where it was stopped.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.harness import results_folder, write_rows
from ddgan_fast.checkpoint.folder import prune
from ddgan_fast.config import override, preset
from ddgan_fast.data import open_loader
from ddgan_fast.data.toy import SCALE, SIGMA, modes25
from ddgan_fast.evaluation.points import score
from ddgan_fast.pictures import density, write_png
from ddgan_fast.pipeline import DDGANPipeline
from ddgan_fast.training.run import locked, open_run
from ddgan_fast.training.trainer import Trainer

SAMPLES = 10_000
# On top of the preset, for the time of a CPU: twice the paper's rate, which R1 in every step makes safe. Once the modes stand, less R1
# makes the borders between them narrow. They narrow by the step: 256 points a step lead as far as 384 in two thirds of the time.
SETTINGS = {
    "iterations": 140_000, "batch_size": 256, "lr_g": 2e-4, "lr_d": 2e-4, "checkpoint_every": 2000, "keep": 1, "log_every": 1000,
}  # fmt: skip
LATER_GAMMAS = {0.13: 0.02, 0.2: 0.005, 0.4: 0.001}  # from this part of the steps on, this much R1


def coverage(points):
    """evaluation.points.Score of points [N, 2]."""
    return score(points, modes25(), SIGMA / SCALE)


def gamma_at(step, settings):
    """The weight of R1 in a step of a training with these config.Train."""
    later = [gamma for part, gamma in LATER_GAMMAS.items() if step >= round(part * settings.iterations)]
    return later[-1] if later else settings.r1_gamma


def train(config, device, out):
    """(pipeline with the averaged weights, mean milliseconds of the steps made here); prints a line every 1000 steps."""
    settings, checkpoints = config.train, out / "checkpoints"
    with locked(out):
        state, loader = open_run(out, config, {}, device, resume=checkpoints.is_dir()), open_loader(config, device)
        trainer, batches = Trainer(state, loader.steps_per_epoch), loader.batches(state.step)
        first, start = state.step, time.perf_counter()
        while state.step < settings.iterations:
            state.config = override(config, {"r1_gamma": gamma_at(state.step, settings)})
            trainer.step(next(batches))
            if state.step % settings.log_every == 0:
                found = coverage(trainer.preview())
                losses = " ".join(f"{loss:.3f}" for loss in trainer.metrics()["d_loss_t"])
                print(f"step {state.step}: {found.modes} modes, {found.high_quality:.1%} within 3 sigma, D loss per t {losses}", flush=True)
            if state.step % settings.checkpoint_every == 0 or state.step == settings.iterations:
                state.config = config
                prune(state.save(checkpoints), settings.keep)
        seconds = time.perf_counter() - start
    return DDGANPipeline(state.ema.module, config), 1e3 * seconds / max(state.step - first, 1)


def main(device, steps, seed, iterations, out):
    config = override(preset("gaussians25"), SETTINGS | {"steps": steps, "seed": seed, "iterations": iterations})
    pipe, ms = train(config, device, out or Path(f"runs/gaussians25-T{steps}"))
    points = pipe(num_images=SAMPLES, output_type="pt").images.cpu()
    found = coverage(points)
    settings = config.train
    row = {
        "steps": steps, "iterations": iterations, "batch_size": settings.batch_size, "lr_g": settings.lr_g, "lr_d": settings.lr_d,
        "r1_gamma": settings.r1_gamma, "r1_every": settings.r1_every, "seed": seed, "samples": SAMPLES, "modes": found.modes,
        "within_3_sigma": round(found.high_quality, 4), "ms_per_step": round(ms, 1),
    }  # fmt: skip
    write_rows(f"gaussians25-T{steps}", device, [row])  # before the picture, which would make the commit read as changed
    data = open_loader(config, "cpu").dataset.items[:SAMPLES]
    picture = np.concatenate([density(data.numpy()), density(points.numpy())], axis=1)
    write_png(results_folder(device) / f"gaussians25-T{steps}.png", picture)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--iterations", type=int, default=SETTINGS["iterations"])
    parser.add_argument("--out", type=Path, help="folder of the run, by default runs/gaussians25-T<steps>")
    args = parser.parse_args()
    main(torch.device(args.device), args.steps, args.seed, args.iterations, args.out)
