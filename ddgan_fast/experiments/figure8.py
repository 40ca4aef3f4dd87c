"""Paper Figs. 8, 14, 15: images of the data diffused to x_t, and samples of p(x_0 | x_t), which differ in z alone.

Images, noise and latents are named by a seed, so a picture is a function of (model, data, seed, numbers of images and samples).
"""

import torch

from ddgan_fast import noise, ops
from ddgan_fast.diffusion import q_sample
from ddgan_fast.errors import InputError
from ddgan_fast.experiments.panels import panel
from ddgan_fast.noise import as_seeds
from ddgan_fast.pictures import to_uint8, write_png
from ddgan_fast.pipeline import parse_seeds
from ddgan_fast.precision import convolutions

MOST = 100  # images of a picture, and samples of each


def images_of(dataset, count, seed):
    """`count` images of the data set that the seed chooses: float32 [count, C, R, R] in [-1, 1]."""
    if not 1 <= count <= min(len(dataset), MOST):
        raise InputError(f"--num-images {count}: it must be 1 to {min(len(dataset), MOST)}; {dataset.name} holds {len(dataset):,}")
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))
    return dataset.__getitems__(order[:count].tolist()).float() / 127.5 - 1


def diffuse(schedule, x0, seed):
    """x_0 .. x_T of one image, [T + 1, C, R, R].  x0: [C, R, R].

    The noise in x_t is that of the seed's stream X_T at step t: in x_T it is what the seed starts an image from.
    """
    t = torch.arange(schedule.steps + 1, device=x0.device)
    seeds = as_seeds([seed], x0.device)
    drawn = torch.cat([ops.philox_normal(seeds, noise.X_T, step, x0.shape) for step in range(len(t))])
    return q_sample(schedule, x0.expand(len(t), *x0.shape), t, drawn)


@torch.no_grad()
@convolutions(allow_tf32=False, benchmark=False)
def clean_samples(pipe, noisy, seeds):
    """Samples of p(x_0 | x_t), one for each z: [n, k, C, R, R].

    noisy: x_1 .. x_k [k, C, R, R].  seeds: n of them; their stream Z at step t - 1 is the latent given x_t, None without a latent.
    Raises InputError for a model that draws x_{t-1} without x_0.
    """
    config, schedule, (n, k) = pipe.config, pipe.schedule, (len(seeds), len(noisy))
    if config.diffusion.prediction == "x_t":
        raise InputError(
            "prediction = x_t: this model draws x_{t-1} from x_t without an x_0 between; there is no p(x_0 | x_t) to draw from"
        )
    t = torch.arange(k, device=pipe.device)
    named = as_seeds(seeds, pipe.device)
    shape = (config.model.latent_dim,)
    z = torch.stack([ops.philox_normal(named, noise.Z, step, shape) for step in range(k)], 1).flatten(0, 1) if config.model.latent else None
    found = pipe.generator(noisy.repeat(n, 1, 1, 1), t.repeat(n), z).unflatten(0, (n, k))
    if config.diffusion.prediction == "noise":
        scale, deviation = (table[1 : k + 1, None, None, None] for table in (schedule.a_cum, schedule.sigma_cum))
        found = (noisy - deviation * found) / scale
    return found


def drawn(pipe, dataset, num_images, samples, seed, steps):
    """For each image (x_0 .. x_steps [steps + 1, ...], samples of p(x_0 | x_1) .. p(x_0 | x_steps) [samples, steps, ...])."""
    if not 1 <= samples <= MOST:
        raise InputError(f"--samples {samples}: it must be 1 to {MOST}")
    images = images_of(dataset, num_images, parse_seeds(seed)[0])
    seeds = parse_seeds(seed, num_images * samples)
    for i, x0 in enumerate(images.to(pipe.device)):
        noisy = diffuse(pipe.schedule, x0, seeds[i])[: steps + 1]
        yield noisy, clean_samples(pipe, noisy[1:], seeds[i * samples : (i + 1) * samples])


def draw_multimodality(pipe, dataset, path, num_images=4, samples=3, seed=0):
    """Fig. 8: a row for each image, x_0 and x_1 on the left, samples of p(x_0 | x_1) on the right."""
    rows = [
        [*_pixels(noisy), *_pixels(found[:, 0])] for noisy, found in drawn(pipe, dataset, num_images, samples, seed, steps=1)
    ]  # fmt: skip
    write_png(path, panel([rows], {0: "x_0", 1: "x_1", 2: "samples of p(x_0 | x_1)"}, apart=(2,)))


def draw_levels(pipe, dataset, path, num_images=4, samples=3, seed=0):
    """Figs. 14, 15: a block for each image, x_0 .. x_T above, samples of p(x_0 | x_t) below their x_t."""
    steps = pipe.schedule.steps
    blocks = [
        [_pixels(noisy), *([None, *_pixels(row)] for row in found)]
        for noisy, found in drawn(pipe, dataset, num_images, samples, seed, steps)
    ]
    write_png(path, panel(blocks, {t: f"x_{t}" for t in range(steps + 1)}, apart=(1,)))


def _pixels(images):
    return list(to_uint8(images).cpu().numpy())
