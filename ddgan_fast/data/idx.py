"""MNIST's idx files: the parser, Fashion-MNIST, and StackedMNIST (paper C.5) composed of them."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import pad

from ddgan_fast.data.images import InMemory, fit_pixels
from ddgan_fast.errors import DataError, InputError

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # where Debian's package puts it
APT_LINE = "apt-get install dataset-fashion-mnist"
IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
PERMUTATION_SEED = 0  # of StackedMNIST: every rank and every run compose the same set
_MOST_BYTES = 2**32


def find(folder, name):
    """The path of the idx file in the folder, in any usual spelling, or None."""
    spellings = (name, name.replace("-idx", ".idx"))
    paths = [folder / f"{spelling}{suffix}" for spelling in spellings for suffix in ("", ".gz")]
    return next((path for path in paths if path.is_file()), None)


def read_idx(path, dimensions):
    """The array of an idx file of bytes, uint8. Raises DataError for another kind, a truncated file or bytes too many."""
    magic = bytes([0, 0, 8, dimensions])
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            header = file.read(4 + 4 * dimensions)
            if len(header) < 4 + 4 * dimensions or header[:4] != magic:
                raise DataError(f"{path}: starts with '{header[:4].hex(' ')}'; {dimensions}-D idx files start with '{magic.hex(' ')}'")
            shape = struct.unpack(f">{dimensions}I", header[4:])
            size = math.prod(shape)
            promised = f"{path}: the header promises {list(shape)}, {size:,} bytes"
            if not 0 < size <= _MOST_BYTES:
                raise DataError(f"{promised}; it must be 1 to {_MOST_BYTES:,}")
            content = file.read(size + 1)  # one more shows a file that is too long, and bounds what a gzip bomb unpacks
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}); truncated, or not what its name says") from error
    if len(content) != size:
        held = "more" if len(content) > size else f"{len(content):,}"
        raise DataError(f"{promised}, and the file holds {held}; truncated, or written wrong")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).view(shape)


def read_images(folder, shape, part="train"):
    """The images of the folder as uint8 [N, C, R, R]. 28x28 is padded to 32x32, as the released code does, unless R is 28.

    part: train, or t10k for the test images.
    """
    name = IMAGES.replace("train", part)
    path = find(folder, name)
    if path is None:
        raise DataError(f"{folder}: no idx files here; looked for {name} or {name.replace('-idx', '.idx')}, with or without .gz")
    images = read_idx(path, 3)[:, None]
    if images.shape[2:] == (28, 28) and shape[1] != 28:
        images = pad(images, (2, 2, 2, 2))
    return fit_pixels(images, shape)


def read_labelled(folder, shape, part="train"):
    """(images uint8 [N, C, R, R], labels int64 [N], 0 to 9) of the folder; `part` as in `read_images`."""
    images = read_images(folder, shape, part)
    name = LABELS.replace("train", part)
    path = find(folder, name)
    if path is None:
        raise DataError(f"{folder}: no {name} (or {name.replace('-idx', '.idx')}, with or without .gz) beside the images")
    labels = read_idx(path, 1)
    if len(labels) != len(images) or labels.max() > 9:
        raise DataError(f"{path}: {len(labels):,} labels up to {labels.max()}; it must be one, 0 to 9, for each of {len(images):,} images")
    return images, labels.long()


def open_idx(folder, shape):
    """The images of any folder of idx files, brought to `shape`."""
    return InMemory(folder.resolve().name, read_images(folder, shape))


def open_fashion_mnist(folder, shape):
    """Fashion-MNIST's 60,000 training images. folder: None for the Debian package's."""
    if folder is None and find(FASHION_MNIST, IMAGES) is None:
        raise DataError(f"data set fashion-mnist: not in {FASHION_MNIST}; {APT_LINE}, or give fashion-mnist:DIR, its idx files")
    return InMemory("fashion-mnist", read_images(folder or FASHION_MNIST, shape))


def open_stackedmnist(folder, shape):
    """`StackedMNIST` of the folder's idx files, brought to `shape`. folder: None for Debian's Fashion-MNIST."""
    if shape[0] != 3:
        raise InputError(f"data set stackedmnist: image_channels = {shape[0]}; it stacks three digits: use 3, as --preset stackedmnist")
    if folder is None and find(FASHION_MNIST, IMAGES) is None:
        raise DataError(
            f"data set stackedmnist: give stackedmnist:DIR with the folder of MNIST's {IMAGES} and {LABELS}, "
            f"or {APT_LINE} to stack Fashion-MNIST (not in {FASHION_MNIST})"
        )
    return StackedMNIST(*read_labelled(folder or FASHION_MNIST, (1, *shape[1:])))


class StackedMNIST:
    """Three digits as the channels of one image, 1,000 classes; composed on access from the one tensor of digits.

    digits: uint8 [n, 1, R, R].  digit_labels: int64 [n].  It holds 2n images: two passes of three independent permutations.
    labels: int64 [2n], 100a + 10b + c of the digits in the three channels.
    """

    name = "stackedmnist"

    def __init__(self, digits, digit_labels):
        rng = np.random.default_rng(PERMUTATION_SEED)
        passes = [np.stack([rng.permutation(len(digits)) for _ in range(3)], axis=1) for _ in range(2)]
        self.digits = digits[:, 0]
        self.rows = torch.from_numpy(np.concatenate(passes))  # [2n, 3]: the digit in each channel
        self.labels = (digit_labels[self.rows] * torch.tensor([100, 10, 1])).sum(1)

    def __len__(self):
        return len(self.rows)

    def __getitems__(self, indices):
        """Images uint8 [B, 3, R, R]."""
        return self.digits[self.rows[torch.as_tensor(indices)]]
