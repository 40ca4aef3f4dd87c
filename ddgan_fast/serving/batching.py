"""Many requests as few batches: since a seed names an image, whoever it is drawn with does not show."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from ddgan_fast.errors import DDGANError
from ddgan_fast.sampling.edit import Edit


class Work(NamedTuple):
    """What a request asks for, in numpy, which passes between processes as bytes."""

    seeds: list[int]
    steps: int  # of denoising: T without an image
    x0: np.ndarray | None = None  # the image to start from, float32 [C, H, W] in [-1, 1]
    mask: np.ndarray | None = None  # float32 [1, H, W] in [0, 1]


def work_of(seeds, steps, edit=None):
    """The Work of seeds and an Edit of one image, or None.  steps: T of the model."""
    if edit is None:
        return Work(list(seeds), steps)
    return Work(list(seeds), edit.steps, edit.x0[0].numpy(), None if edit.mask is None else edit.mask[0].numpy())


def answers(pipe, works, batch_size):
    """For each Work its images, uint8 [n, H, W, C] in the order of its seeds, or the DDGANError that it met.

    pipe: DDGANPipeline.  Works of as many steps, with a mask or without, are drawn together, at most batch_size images at once.
    """
    found, alike = [None] * len(works), {}
    for i, work in enumerate(works):
        alike.setdefault((work.steps, work.x0 is None, work.mask is None), []).append(i)
    for members in alike.values():
        together = [works[i] for i in members]
        try:
            images = _draw(pipe, together, batch_size)
        except DDGANError as error:
            images = [error] * len(together)
        for i, answer in zip(members, images, strict=True):
            found[i] = answer
    return found


def padded(count, most):
    """The size of the batch in which `count` images are drawn on a GPU: 1, 8, 64 ..., or `most`.

    A graph belongs to a size; with those that chance brings, there would be no end of new ones.
    """
    size = 1
    while size < count:
        size *= 8
    return max(count, min(size, most))


def _draw(pipe, works, batch_size):
    """The images of each of some alike works."""
    counts = [len(work.seeds) for work in works]
    seeds = [seed for work in works for seed in work.seeds]
    rows = torch.arange(len(works)).repeat_interleave(torch.tensor(counts))
    edit, few_graphs = None, pipe.device.type == "cuda"
    if few_graphs:
        missing = padded(len(seeds), batch_size) - len(seeds)
        seeds, rows = seeds + seeds[-1:] * missing, torch.cat((rows, rows[-1:].expand(missing)))
    if works[0].x0 is not None:
        edit = Edit(_stacked(works, "x0"), works[0].steps, None if works[0].mask is None else _stacked(works, "mask")).rows(rows)
        if few_graphs and edit.mask is None:  # a mask that lets all change gives the same bits
            edit = replace(edit, mask=torch.ones_like(edit.x0[:, :1]))
    images = torch.cat([part.cpu() for _, part in pipe.batches(seeds, batch_size, as_uint8=True, edit=edit)])
    return [part.numpy() for part in images[: sum(counts)].split(counts)]


def _stacked(works, name):
    return torch.from_numpy(np.stack([getattr(work, name) for work in works]))
