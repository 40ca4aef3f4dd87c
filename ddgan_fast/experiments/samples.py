"""Paper Figs. 5, 7, 11-13: a grid of samples; and a film strip, x_T .. x_0 of a few seeds with the x_0 that the generator saw in each."""

import torch

from ddgan_fast.errors import InputError
from ddgan_fast.experiments.panels import panel
from ddgan_fast.pictures import grid, to_uint8, write_png
from ddgan_fast.sampling.film import film

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


def draw_films(pipe, seeds, path):
    """Write for each seed x_T .. x_0, and below each x_t what the generator drew from it: x_0, unless the model predicts something else."""
    if len(seeds) > MOST_FILM:
        raise InputError(f"--film {len(seeds)}: {MOST_FILM} is the most")
    strips = (film(pipe.generator, pipe.schedule, seed) for seed in seeds)
    blocks = [[list(to_uint8(images).cpu().numpy()) for images in strip] for strip in strips]
    write_png(path, panel(blocks, {column: f"x_{pipe.schedule.steps - column}" for column in range(pipe.schedule.steps + 1)}))
