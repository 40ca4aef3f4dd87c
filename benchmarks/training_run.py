"""A real training on this device, whose curve and samples show what is learnt: `python -m benchmarks.training_run`.

Trains the preset `demo` (scikit-learn's handwritten digits) and writes results/<device>/training-run.csv and .png. The curve is the
Frechet distance of Gaussians fitted to the pixels of samples and data (Dowson & Landau 1982: FID without a network; 0 where mean and
covariance are the same); beside it the picture has the same 16 seeds at each point.
"""

import argparse
import time

import numpy as np
import torch
from PIL import Image, ImageDraw

from benchmarks.harness import Rows, results_folder
from ddgan_fast.config import override, preset
from ddgan_fast.data import open_loader
from ddgan_fast.pictures import to_uint8, write_png
from ddgan_fast.pipeline import DDGANPipeline
from ddgan_fast.training.state import TrainState
from ddgan_fast.training.trainer import Trainer

SAMPLES, SHOWN, EVERY = 1797, 16, 250  # as many samples as there are digits
WIDTH, HEIGHT, MARGIN = 560, 420, 40


def frechet(a, b):
    """|mean a - mean b|^2 + tr(A + B - 2 (A B)^(1/2)) of rows [N, D], in float64."""
    (mean_a, cov_a), (mean_b, cov_b) = ((x.mean(dim=0), x.T.cov()) for x in (a.double(), b.double()))
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    return ((mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross).item()


def curve(points):
    """The picture [HEIGHT, WIDTH, 3] of (step, distance) points, distance on a logarithmic scale."""
    picture = Image.new("RGB", (WIDTH, HEIGHT), "white")
    pen = ImageDraw.Draw(picture)
    steps, logs = (np.array(values, dtype=float) for values in zip(*((step, np.log10(value)) for step, value in points), strict=True))
    low, high = np.floor(10 * logs.min()) / 10, np.ceil(10 * logs.max()) / 10
    x = MARGIN + (WIDTH - 2 * MARGIN) * steps / steps.max()
    y = HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * (logs - low) / (high - low)
    pen.line([(MARGIN, MARGIN), (MARGIN, HEIGHT - MARGIN), (WIDTH - MARGIN, HEIGHT - MARGIN)], fill="gray")
    pen.line(list(zip(x, y, strict=True)), fill="black", width=2)
    for (step, value), left, top in zip(points, x, y, strict=True):
        pen.text((left - 8, HEIGHT - MARGIN + 6), str(step), fill="gray")
        pen.text((left + 4, top - 14), f"{value:.2f}", fill="black")
    pen.text((MARGIN, 12), "Frechet distance of pixels, samples to data, by training step (logarithmic)", fill="black")
    return np.asarray(picture)


def strip(rows):
    """Rows of samples [16, C, H, W], one row a point, 4 times as large, on white: [H', W', 3]."""
    lines = [np.concatenate([np.pad(image, ((1, 1), (1, 1), (0, 0)), constant_values=96) for image in row], axis=1) for row in rows]
    picture = np.concatenate(lines).repeat(4, axis=0).repeat(4, axis=1)
    return np.broadcast_to(picture, (*picture.shape[:2], 3))


def main(device, iterations):
    config = override(preset("demo"), {"iterations": iterations})
    state, loader = TrainState(config, device), open_loader(config, device)
    trainer, batches = Trainer(state, loader.steps_per_epoch), loader.batches()
    data = loader.dataset.__getitems__(list(range(len(loader.dataset)))).flatten(1) / 127.5 - 1
    rows, points, shown, seconds = Rows("training-run", device, results_folder(device)), [], [], 0.0
    while True:
        samples = DDGANPipeline(state.ema.module, config)(num_images=SAMPLES, output_type="pt").images * 2 - 1
        points.append((state.step, frechet(samples.flatten(1).cpu(), data)))
        shown.append(to_uint8(samples[:SHOWN]).cpu().numpy())
        found = trainer.metrics() if state.step else dict.fromkeys(("d_loss", "g_loss", "r1"))
        row = {"step": state.step, "images_seen": state.step * config.train.batch_size, "frechet_pixels": round(points[-1][1], 3)}
        row |= {name: None if found[name] is None else round(found[name], 4) for name in ("d_loss", "g_loss", "r1")}
        rows.add(row | {"train_seconds": round(seconds)})
        print(row, flush=True)
        if state.step == iterations:
            break
        start = time.perf_counter()
        for _ in range(min(EVERY, iterations - state.step)):
            trainer.step(next(batches))
        seconds += time.perf_counter() - start
    left, right = curve(points), strip(shown)
    height = max(len(left), len(right))
    padded = [np.pad(part, ((0, height - len(part)), (0, 16), (0, 0)), constant_values=255) for part in (left, right)]
    write_png(results_folder(device) / "training-run.png", np.concatenate(padded, axis=1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--iterations", type=int, default=2500)
    args = parser.parse_args()
    main(torch.device(args.device), args.iterations)
