"""npz: an array of images uint8 [N, H, W, C], named `images` (as `ddgan sample` writes) or `arr_0` (as ADM does)."""

import tokenize
import zipfile

import numpy as np
import torch

from ddgan_fast.data.formats.zip import BROKEN, check_member, is_zip
from ddgan_fast.data.images import InMemory, fit_pixels
from ddgan_fast.errors import DataError

NAMES = "images", "arr_0"
WANTED = f"an npz with {' or '.join(NAMES)} uint8 [N, H, W, C]"


def open_npz(path, shape):
    """The images of the file, brought to `shape`. Raises DataError for a broken file or another layout."""
    try:
        with zipfile.ZipFile(path) as members:
            for member in members.infolist():
                check_member(member, f"{path}:{member.filename}")
        with np.load(path, allow_pickle=False) as arrays:
            name = next((name for name in NAMES if name in arrays), None)
            if name is None:
                raise DataError(f"{path}: no array {' or '.join(NAMES)}, it has {', '.join(arrays) or 'none'}; looked for {WANTED}")
            images = arrays[name]
    except (*BROKEN, MemoryError, TypeError, SyntaxError, tokenize.TokenError) as error:  # from MemoryError on: of a header
        raise DataError(f"{path}: cannot be read ({error}); truncated, or not {WANTED}") from error
    if not isinstance(images, np.ndarray):  # numpy returns a member without its header as bytes
        raise DataError(f"{path}: '{name}' is no array; looked for {WANTED}")
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3) or not images.size:
        raise DataError(f"{path}: '{name}' is {images.dtype} {list(images.shape)}; looked for {WANTED}, C = 1 or 3")
    return InMemory(path.stem, fit_pixels(torch.from_numpy(images).permute(0, 3, 1, 2), shape))


def is_npz(path):
    """Whether the file is one by its name and its first bytes."""
    return path.suffix == ".npz" and is_zip(path)
