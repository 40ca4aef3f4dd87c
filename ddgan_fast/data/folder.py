"""A folder of images, at any depth: found, checked, and decoded at opening or, when too large for that, on access."""

import math
import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from ddgan_fast.data.images import InMemory, fit_image
from ddgan_fast.errors import DataError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
WANTED = f"images ({' '.join(extension[1:] for extension in EXTENSIONS)})"
MOST_PIXELS = 64_000_000  # of one file, checked before it is decoded
MOST_BYTES = 2**30  # of a set that is decoded at opening
_FORMATS = ["PNG", "JPEG", "WEBP", "BMP"]
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error)  # what Pillow raises
_CHUNK = 64  # images that a thread takes at once


def open_images(name, paths, shape):
    """The image files as one set, brought to `shape`: `InMemory` up to 1 GiB, else `Folder`.

    Raises DataError for any file that is not a whole still image; above 1 GiB only headers are read now, and a file whose pixels are
    broken is named when it is met.
    """
    dataset = Folder(name, paths, shape)
    if len(paths) * math.prod(shape) > MOST_BYTES:
        _in_threads(paths, lambda i: _opened(paths[i], lambda image: None))
        return dataset
    pixels = torch.empty(len(paths), *shape, dtype=torch.uint8)
    _in_threads(paths, lambda i: pixels[i].copy_(dataset.decode(i)))
    return InMemory(name, pixels)


def find(folder):
    """Sorted paths of the images in the folder and below. Hidden names are passed over; any other file raises DataError."""
    found, seen = [], set()
    for place, subfolders, names in os.walk(folder, followlinks=True, onerror=_unreadable):
        real = os.path.realpath(place)
        subfolders[:] = [] if real in seen else sorted(name for name in subfolders if not name.startswith("."))
        found += [] if real in seen else [os.path.join(place, name) for name in names if not name.startswith(".")]
        seen.add(real)  # a link to a parent ends here
    for path in sorted(found):
        if not path.lower().endswith(EXTENSIONS):
            raise DataError(f"{path}: not one of the {WANTED} that can be read; move it out of the folder, or convert it to PNG")
    return sorted(found)


def _unreadable(error):
    raise DataError(f"{error.filename}: cannot be listed ({error.strerror}); give a folder that may be read")


class Folder:
    """Images decoded on access.

    paths: of image files.  shape: (C, R, R) of each item.
    """

    def __init__(self, name, paths, shape):
        self.name = name
        self.paths = paths
        self.shape = shape

    def __len__(self):
        return len(self.paths)

    def __getitems__(self, indices):
        """Images uint8 [B, C, R, R]. Raises DataError naming a broken file."""
        return torch.stack([self.decode(i) for i in indices])

    def decode(self, index):
        """One image uint8 [C, R, R], upright as its EXIF says."""
        return _opened(self.paths[index], lambda image: fit_image(ImageOps.exif_transpose(image), self.shape))


def _opened(path, use):
    """use(image) of a still image of bearable size, by its header. Raises DataError for any other file, or where `use` cannot decode it."""
    try:
        if not os.path.isfile(path) or not os.path.getsize(path):
            raise DataError(f"{path}: empty or not a regular file; delete it, or put the image there")
        with Image.open(path, formats=_FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise _too_large(path, f"{image.width} x {image.height}")
            if getattr(image, "is_animated", False) and image.format != "MPO":  # MPO: a photo and its previews
                raise DataError(f"{path}: an animated image of {image.n_frames} frames; save the frame to train on as a still image")
            return use(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(path, error) from error
    except UnidentifiedImageError as error:
        raise DataError(f"{path}: its content is no PNG, JPEG, WebP or BMP; delete it, or replace it by a whole image") from error
    except _BROKEN as error:
        raise DataError(f"{path}: broken or truncated image ({error}); delete it, or replace it by a whole one") from error


def _too_large(path, size):
    return DataError(f"{path}: {size} pixels, above the limit of {MOST_PIXELS // 10**6} megapixels; make it smaller first")


def _in_threads(paths, act):
    """act(index) for each path, on all cores: Pillow decodes outside the interpreter's lock. Raises the first path's error."""

    def chunk(first):
        for i in range(first, min(first + _CHUNK, len(paths))):
            act(i)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        list(pool.map(chunk, range(0, len(paths), _CHUNK)))
