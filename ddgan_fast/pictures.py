"""Samples as pictures: uint8 images, grids of them, density pictures of 2-D points; files appear whole or not at all."""

import os
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image


@contextmanager
def whole_file(path):
    """A temporary path beside `path` to write to; it takes the name of `path` at the end of the block, or is removed on an error."""
    path = Path(path)
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def to_uint8(x):
    """[B, C, H, W] in [-1, 1] -> uint8 [B, H, W, C] on the same device: clamped, then rounded half away from zero; such uint8 as it is."""
    if x.dtype == torch.uint8:
        return x
    scaled = ((x.float() + 1) * 127.5).clamp(0, 255)
    return (scaled + 0.5).floor().to(torch.uint8).permute(0, 2, 3, 1)


def to_pil(image):
    """uint8 numpy [H, W, 1 or 3] -> PIL image."""
    return Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)


def grid(images, least_side=512):
    """uint8 numpy [N, H, W, C] -> one picture [H', W', C], row by row, a gray line between images, enlarged to about `least_side`."""
    columns = int(np.ceil(np.sqrt(len(images))))
    rows = -(-len(images) // columns)
    _, height, width, channels = images.shape
    height, width = height + 1, width + 1
    cells = np.full((rows * columns, height, width, channels), 96, np.uint8)
    cells[: len(images), :-1, :-1] = images
    picture = cells.reshape(rows, columns, height, width, channels).swapaxes(1, 2).reshape(rows * height, columns * width, channels)
    scale = max(1, least_side // (columns * width))
    return picture.repeat(scale, axis=0).repeat(scale, axis=1)


def density(points, side=512, reach=2.0):
    """Picture [side, side, 1] of points [N, 2] in [-reach, reach]^2: darker where there are more; y points up."""
    counts, _, _ = np.histogram2d(-points[:, 1], points[:, 0], bins=side, range=[[-reach, reach]] * 2)
    ink = np.log1p(counts) / np.log1p(max(counts.max(), 1))
    return (255 * (1 - ink**0.5)).astype(np.uint8)[:, :, None]


def picture_of(samples):
    """The picture of a batch: a grid of images [B, C, H, W], or the density of points [B, 2].  numpy uint8 [H', W', C]."""
    if samples.dim() == 2:
        return density(samples.cpu().numpy())
    return grid(to_uint8(samples).cpu().numpy())


def write_png(path, image):
    """Write uint8 numpy [H, W, 1 or 3] as PNG."""
    with whole_file(path) as temporary:
        to_pil(image).save(temporary, format="PNG")
