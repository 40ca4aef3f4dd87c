"""`train.data` made into a data set: the registry of names, and how a path is recognised."""

import os
from pathlib import Path

from ddgan_fast.config import suggest
from ddgan_fast.data import cifar10, folder, idx
from ddgan_fast.data.cifar10 import open_cifar10
from ddgan_fast.data.emoji import open_emoji
from ddgan_fast.data.folder import open_images
from ddgan_fast.data.idx import open_fashion_mnist, open_idx, open_stackedmnist
from ddgan_fast.data.toy import open_digits, open_gaussians25
from ddgan_fast.errors import DataError, InputError

LOOKED_FOR = f"CIFAR-10 ({cifar10.WANTED}), idx files ({idx.IMAGES}, also .gz) or {folder.WANTED}, these also in subfolders"

NAMES = {  # name: (what its path is, or None where it takes none; what opens it from the path, the shape of an item and the seed)
    "gaussians25": (None, lambda path, shape, seed: open_gaussians25(seed)),
    "digits": (None, lambda path, shape, seed: open_digits(shape)),
    "fashion-mnist": ("DIR", lambda path, shape, seed: open_fashion_mnist(path, shape)),
    "emoji": ("FILE", lambda path, shape, seed: open_emoji(path, shape)),
    "cifar10": ("DIR", lambda path, shape, seed: open_cifar10(path, shape)),
    "stackedmnist": ("DIR", lambda path, shape, seed: open_stackedmnist(path, shape)),
}


def open_dataset(source, model, seed=0):
    """The data set that `train.data` names, its items shaped as the model's samples.

    source: NAME, NAME:PATH or PATH; names first, so a folder called as a set is given as ./NAME.  model: config.Model.
    seed: of sets that are made at random (gaussians25).
    Returns an object with `name`, `len()` and `__getitems__(indices)` -> uint8 [B, C, R, R], or float32 [B, 2] for points.
    Raises InputError where model and data do not fit, DataError for data that is missing or broken, MissingError for a missing package.
    """
    source = str(source)
    name, colon, path = source.partition(":")
    if not source:
        raise InputError(f"no training data: give --data with a name ({', '.join(NAMES)}) or the path of a folder of images")
    folder_path = None if name in NAMES else _existing_folder(source)
    _check_model(source, name == "gaussians25", model)
    if folder_path:
        return _open_folder(folder_path, model.sample_shape)
    argument, opener = NAMES[name]
    if colon and not (path and argument):
        right = f"{name}:{argument}, or {name} alone" if argument else f"{name} alone, it takes no path"
        raise InputError(f"data {source!r}: it must be {right}")
    return opener(Path(path).expanduser() if path else None, model.sample_shape, seed)


def _check_model(source, has_points, model):
    """Raises InputError unless the network draws what the set holds."""
    if has_points and model.network != "mlp":
        raise InputError(f"data {source!r}: it holds 2-D points and network = {model.network!r} draws images; use --preset gaussians25")
    if not has_points and model.network != "unet":
        raise InputError(f"data {source!r}: it holds images and network = {model.network!r} draws points; use an image preset: cifar10")
    if not has_points and model.image_channels not in (1, 3):
        raise InputError(f"data {source!r}: image_channels = {model.image_channels}; images can be read as gray (1) or RGB (3)")


def _existing_folder(source):
    """The path of a folder. Raises DataError where there is none, with the nearest name for what may be a mistyped one."""
    path = Path(source).expanduser()
    if not path.exists():
        name = source.partition(":")[0]
        if os.sep not in name:
            raise DataError(f"data {source!r}: no path of this name, and not a set ({', '.join(NAMES)}){suggest(name, NAMES)}")
        raise DataError(f"{path}: no such path; it must be a folder with {LOOKED_FOR}")
    if not path.is_dir():
        raise DataError(f"{path}: a file; it must be a folder with {LOOKED_FOR}")
    return path


def _open_folder(path, shape):
    """What lies in the folder: CIFAR-10 batches, idx files or images, tried in this order."""
    if cifar10.find(path):
        return open_cifar10(path, shape)
    if idx.find(path, idx.IMAGES):
        return open_idx(path, shape)
    images = folder.find(path)
    if not images:
        raise DataError(f"{path}: nothing to train on; looked for {LOOKED_FOR}")
    return open_images(path.resolve().name, images, shape)
