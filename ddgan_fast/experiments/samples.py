"""Paper Figs. 5, 7, 11-13: a grid of samples; and a film strip, x_T .. x_0 of a few seeds with the x_0 that the generator saw in each."""

import torch

from ddgan_fast.diffusion import denoise, draw_start
from ddgan_fast.errors import InputError
from ddgan_fast.experiments.panels import panel
from ddgan_fast.noise import as_seeds
from ddgan_fast.pictures import grid, to_uint8, write_png
from ddgan_fast.precision import convolutions

MOST, MOST_FILM = 4096, 100


def draw_grid(pipe, seeds, path, batch_size=100, watch=lambda count: None):
    """Write the samples of `seeds` as one picture, row by row.  watch: told the number of images of each batch."""
    if len(seeds) > MOST:
        raise InputError(f"{len(seeds):,} images in one picture; {MOST:,} is the most")
    images = []
    for part, batch in pipe.batches(seeds, batch_size, as_uint8=True):
        images.append(batch.cpu())
        watch(len(part))
    write_png(path, grid(torch.cat(images).numpy()))


@torch.no_grad()
@convolutions(allow_tf32=False, benchmark=False)
def film(pipe, seed):
    """(x_T .. x_0 [T + 1, C, R, R], what the generator put out on the way [T, C, R, R]) of one sample."""
    seen = []

    def generator(x, t, z):
        put_out = pipe.generator(x, t, z)
        seen.append((x[0], put_out[0]))
        return put_out

    seeds = as_seeds([seed], pipe.device)
    x, z = draw_start(seeds, pipe.config.model, pipe.schedule.steps)
    last = denoise(generator, pipe.schedule, x, z, seeds=seeds)
    noisy, put_out = zip(*seen, strict=True)
    return torch.stack((*noisy, last[0])), torch.stack(put_out)


def draw_films(pipe, seeds, path):
    """Write for each seed x_T .. x_0, and below each x_t what the generator drew from it: x_0, unless the model predicts something else."""
    if len(seeds) > MOST_FILM:
        raise InputError(f"--film {len(seeds)}: {MOST_FILM} is the most")
    strips = (film(pipe, seed) for seed in seeds)
    blocks = [[list(to_uint8(images).cpu().numpy()) for images in strip] for strip in strips]
    write_png(path, panel(blocks, {column: f"x_{pipe.schedule.steps - column}" for column in range(pipe.schedule.steps + 1)}))
