"""Every image of a set looked at: which are bad, and what the good ones are like. `ddgan data check` and `ddgan data stats`."""

import os
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ddgan_fast.config import Model
from ddgan_fast.data.datasets import open_dataset
from ddgan_fast.data.decode import Images, upright, use_image
from ddgan_fast.data.formats import folder
from ddgan_fast.data.images import fit_image
from ddgan_fast.errors import DataError, InputError

LEAST, MOST = 8, 8000  # pixels a side: what the smallest discriminator takes, and what `decode.MOST_PIXELS` allows
_CHUNK = 64  # images that a thread takes at once


class Pixels:
    """The source, as `Images` takes it, of a set whose format is one array: `dataset` keeps it at the shape that it was opened for."""

    def __init__(self, dataset):
        self.name, self.dataset = dataset.name, dataset

    def __len__(self):
        return len(self.dataset)

    def label(self, index):
        return f"{self.name}: image {index}"

    def read(self, index):
        """uint8 [R, R] of a gray image, [R, R, 3] of another."""
        return self.dataset.__getitems__([index])[0].permute(1, 2, 0).squeeze(2).numpy()


def open_images(source, shape, on_bad_image="error", max_images=0):
    """Any set of images as `Images`, not decoded at opening unless its format is one array.

    source, on_bad_image, max_images: as `open_dataset` takes them, and its errors.  shape: (C, R, R) that the images are brought to.
    Raises InputError for a set of points and a shape out of bounds.
    """
    channels, size, _ = shape
    if str(source).partition(":")[0] == "gaussians25":
        raise InputError(f"data {source!r}: it holds 2-D points; give a set of images")
    if not LEAST <= size <= MOST:
        raise InputError(f"resolution = {size}: it must be {LEAST} to {MOST}")
    model = Model(resolution=size, image_channels=channels, channel_mult=(1,))
    dataset = open_dataset(source, model, resident_gb=0, on_bad_image=on_bad_image, max_images=max_images)
    return dataset if isinstance(dataset, Images) else Images(Pixels(dataset), shape)


@dataclass
class Survey:
    """What the items of a set are, the bad ones counted and left out of the rest.

    bytes: of the image files.  sizes: of (width, height), upright.  histogram: int64 [C, 256] of the pixels at the shape of the survey.
    is_array: the format is one array that opening decodes, so that nothing is known of bytes, sizes and modes.
    """

    histogram: np.ndarray
    is_array: bool = False
    items: int = 0
    bad: int = 0
    bytes: int = 0
    formats: Counter = field(default_factory=Counter)
    sizes: Counter = field(default_factory=Counter)
    modes: Counter = field(default_factory=Counter)

    @property
    def mean_and_std(self):
        """Mean and standard deviation of each channel, the pixels in [-1, 1]: two lists of float."""
        levels = np.arange(256) / 127.5 - 1
        share = self.histogram / self.histogram.sum(1, keepdims=True)
        mean = share @ levels
        std = np.sqrt((share * (levels - mean[:, None]) ** 2).sum(1))
        return mean.tolist(), std.tolist()

    def sides(self):
        """{"width": {"min", "median", "max"}, "height": ...}."""
        found = {}
        for axis, name in enumerate(("width", "height")):
            sides = np.array([size[axis] for size in self.sizes])
            order = sides.argsort()
            below = np.cumsum(np.array(list(self.sizes.values()))[order])
            middle = order[np.searchsorted(below, (below[-1] + 1) // 2)]
            found[name] = {"min": int(sides.min()), "median": int(sides[middle]), "max": int(sides.max())}
        return found


def survey(source, shape=(3, 32, 32), on_bad=lambda error: None, watch=lambda results, total: results):
    """The `Survey` of a set, each image decoded as training at `shape` does, on all cores, in bounded memory.

    on_bad: called with the DataError of each bad item, in order: the files of a folder that are no images, then images.
    watch: (results, total) -> the same results; for a progress bar.
    Raises what `open_images` raises.
    """
    with _no_warnings_of_strays():
        images = open_images(source, shape, on_bad_image="skip")
    found = Survey(np.zeros((shape[0], 256), np.int64), isinstance(images.source, Pixels))
    for error in folder.strays(Path(source).expanduser()) if isinstance(images.source, folder.Folder) else ():
        found.items, found.bad = found.items + 1, found.bad + 1
        on_bad(error)
    for seen in watch(_looked_at(images), len(images)):
        found.items += 1
        if isinstance(seen, DataError):
            found.bad += 1
            on_bad(seen)
            continue
        kind, size, mode, count, histogram = seen
        found.histogram += histogram
        if found.is_array:
            found.formats["array"] += 1
            continue
        found.bytes += count
        found.formats[kind] += 1
        found.sizes[size] += 1
        found.modes[mode] += 1
    return found


def _looked_at(images):
    """Yield what `_look` returns for each image, in order; no more chunks are under way than the threads need."""
    threads, waiting = os.cpu_count() or 1, deque()

    def chunk(first):
        return [_look(images, index) for index in range(first, min(first + _CHUNK, len(images)))]

    with ThreadPoolExecutor(threads) as pool:  # Pillow decodes outside the interpreter's lock
        for first in range(0, len(images), _CHUNK):
            waiting.append(pool.submit(chunk, first))
            if len(waiting) > 2 * threads:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def _look(images, index):
    """(format, (width, height), mode, bytes, histogram [C, 256]) of an image, or the DataError of a bad one."""

    def measured(image):
        turned = upright(image)
        pixels = fit_image(turned, images.shape).flatten(1).numpy()
        return image.format or "raw", turned.size, image.mode, np.stack([np.bincount(row, minlength=256) for row in pixels])

    try:
        item = images.source.read(index)
        kind, size, mode, histogram = use_image(item, images.source.label(index), measured)
    except DataError as error:
        return error
    return kind, size, mode, item.nbytes if isinstance(item, np.ndarray) else len(item), histogram


@contextmanager
def _no_warnings_of_strays():
    """A survey lists the files that are no images itself."""

    def none(record):
        return False

    folder.log.addFilter(none)
    try:
        yield
    finally:
        folder.log.removeFilter(none)
