"""Image files as bytes, from whoever keeps them: checked before they are decoded, and decoded on access or all at opening."""

import io
import logging
import math
import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError

from ddgan_fast.data.images import InMemory, fit_image
from ddgan_fast.errors import DataError

log = logging.getLogger(__name__)
EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
WANTED = f"images ({' '.join(extension[1:] for extension in EXTENSIONS)})"
MOST_PIXELS = 64_000_000  # of one image, checked before it is decoded
MOST_BYTES = 50_000_000  # of one image file
_FORMATS = ["PNG", "JPEG", "WEBP", "BMP"]
_TURNS = dict(  # of EXIF's orientations
    enumerate(("FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90"), 2)
)
# what Pillow raises
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, OverflowError, AssertionError, struct.error, zlib.error)
_CHUNK = 64  # images that a thread takes at once
_TRIES = 100  # images in a row that may be bad before a set counts as broken


def use_image(item, label, use):
    """use(PIL image) of one still image of bearable size, by its header.

    item: bytes of a PNG, JPEG, WebP or BMP file, or raw pixels uint8 [H, W] or [H, W, C].  label: how an error names it.
    Raises DataError for anything else, or where `use` cannot decode it.
    """
    if isinstance(item, np.ndarray):
        return use(Image.fromarray(item))
    if not item:
        raise DataError(f"{label}: empty; delete it, or put the image there")
    if len(item) > MOST_BYTES:
        raise DataError(f"{label}: {len(item):,} bytes, above the limit of {MOST_BYTES:,}; save it smaller first")
    try:
        with Image.open(io.BytesIO(item), formats=_FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise _too_large(label, f"{image.width} x {image.height}")
            if getattr(image, "is_animated", False) and image.format != "MPO":  # MPO: a photo and its previews
                raise DataError(f"{label}: an animated image of {image.n_frames} frames; save the frame to train on as a still image")
            return use(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(label, error) from error
    except UnidentifiedImageError as error:
        raise DataError(f"{label}: its content is no PNG, JPEG, WebP or BMP; delete it, or replace it by a whole image") from error
    except _BROKEN as error:
        raise DataError(f"{label}: broken or truncated image ({error}); delete it, or replace it by a whole one") from error


def _too_large(label, size):
    return DataError(f"{label}: {size} pixels, above the limit of {MOST_PIXELS // 10**6} megapixels; make it smaller first")


def is_image(content):
    """Whether the bytes start as a PNG, JPEG, WebP or BMP file does."""
    if content.startswith(b"BM"):
        return content[6:10] == bytes(4)  # reserved: two letters alone may also be the first of raw pixels
    return content.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")) or (content[:4] == b"RIFF" and content[8:12] == b"WEBP")


def upright(image):
    """The PIL image turned as its EXIF says; Pillow's own function also writes the EXIF anew, and fails where a tag is odd."""
    turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    return image.transpose(Image.Transpose[turn]) if turn else image


def decode(item, label, shape):
    """An item as `use_image` takes it, upright as its EXIF says and brought to shape (C, R, R): uint8. Errors as there."""
    return use_image(item, label, lambda image: fit_image(upright(image), shape))


class Images:
    """A data set whose images are decoded on access.

    source: has `name`, `len()`, `read(index)` -> what `use_image` takes, and `label(index)`, its name for people.  It can be pickled, and
    used by several threads at once.
    shape: (C, R, R) of each item.  on_bad_image: error, or skip, which names a bad one in a warning and takes the next in its place.
    max_images: how many of the source's first images belong to the set; 0 for all.
    """

    def __init__(self, source, shape, on_bad_image="error", max_images=0):
        self.source, self.name, self.shape = source, source.name, shape
        self.skips = on_bad_image == "skip"
        self.count = min(len(source), max_images or len(source))
        self.bad = set()  # indices that are to be skipped

    def __len__(self):
        return self.count

    def __getitems__(self, indices):
        """Images uint8 [B, C, R, R]. Raises DataError naming a bad one, or with skip where 100 in a row are bad."""
        return torch.stack([self.good(index, self.decode) for index in indices])

    def decode(self, index):
        """One image uint8 [C, R, R]. Raises DataError naming a bad one."""
        return decode(self.source.read(index), self.source.label(index), self.shape)

    def files(self):
        """Yield what the source holds of each image, not decoded. Raises DataError for one that cannot be read; with skip it is b""."""
        for index in range(self.count):
            try:
                yield self.source.read(index)
            except DataError:
                if not self.skips:
                    raise
                yield b""

    def good(self, index, act):
        """act(index), or where that image is bad and may be skipped, of the next good one."""
        for candidate in (each % self.count for each in range(index, index + _TRIES)):
            if candidate in self.bad:
                continue
            try:
                return act(candidate)
            except DataError as error:
                if not self.skips:
                    raise
                self.skip(candidate, error)
        raise DataError(f"{self.name}: {_TRIES} images in a row are bad, from {self.source.label(index)} on; `ddgan data check` lists all")

    def skip(self, index, error):
        """Name a bad image, once in each process."""
        self.bad.add(index)
        log.warning("left out: %s", error)

    def in_memory(self):
        """All images decoded, on all cores, as one InMemory. Errors, and what is in the place of a bad image, as of `__getitems__`."""
        pixels = torch.empty(self.count, *self.shape, dtype=torch.uint8)

        def chunk(first):
            for index in range(first, min(first + _CHUNK, self.count)):
                try:
                    pixels[index] = self.decode(index)
                except DataError as error:
                    if not self.skips:
                        raise
                    self.skip(index, error)

        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # Pillow decodes outside the interpreter's lock
            list(pool.map(chunk, range(0, self.count, _CHUNK)))
        for index in sorted(self.bad):
            pixels[index] = self.good(index, pixels.__getitem__)
        return InMemory(self.name, pixels)

    @property
    def decoded_bytes(self):
        """Bytes of all images at their shape."""
        return self.count * math.prod(self.shape)
