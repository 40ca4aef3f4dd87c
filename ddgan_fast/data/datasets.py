"""`train.data` made into a data set: the registry of names, and how a path is recognised."""

import os
from pathlib import Path

from ddgan_fast.config import suggest
from ddgan_fast.data import cifar10, idx
from ddgan_fast.data.cifar10 import open_cifar10
from ddgan_fast.data.decode import WANTED, Images
from ddgan_fast.data.emoji import open_emoji
from ddgan_fast.data.formats import folder, lmdb, npz, parquet, shards, tar
from ddgan_fast.data.formats import zip as zip_format
from ddgan_fast.data.idx import open_fashion_mnist, open_idx, open_stackedmnist
from ddgan_fast.data.images import InMemory
from ddgan_fast.data.toy import open_digits, open_gaussians25
from ddgan_fast.errors import DataError, InputError

LOOKED_FOR = (
    f"CIFAR-10 ({cifar10.WANTED}), idx files ({idx.IMAGES}, also .gz), LMDB ({lmdb.FILE}, of LSUN or CelebA-HQ), Parquet with a column "
    f"'{parquet.COLUMN}', tar shards or {WANTED}, also in subfolders; or a file: zip, npz, LMDB, Parquet, tar, or a list of shards "
    "(.txt, .json)"
)
NAMES = {  # name: (what its path is, or None where it takes none; what opens it from the path, the shape of an item and the seed)
    "gaussians25": (None, lambda path, shape, seed: open_gaussians25(seed)),
    "digits": (None, lambda path, shape, seed: open_digits(shape)),
    "fashion-mnist": ("DIR", lambda path, shape, seed: open_fashion_mnist(path, shape)),
    "emoji": ("FILE", lambda path, shape, seed: open_emoji(path, shape)),
    "cifar10": ("DIR", lambda path, shape, seed: open_cifar10(path, shape)),
    "stackedmnist": ("DIR", lambda path, shape, seed: open_stackedmnist(path, shape)),
}


def open_dataset(source, model, seed=0, resident_gb=1.0, on_bad_image="error", max_images=0):
    """The data set that `train.data` names, its items shaped as the model's samples.

    source: NAME, NAME:PATH or PATH; names first, so a folder called as a set is given as ./NAME.  model: config.Model.
    seed: of sets that are made at random (gaussians25).  resident_gb: GiB of uint8 up to which images are decoded at opening.
    on_bad_image: error, or skip.  max_images: the set ends behind so many of the first ones; 0 for all.
    Returns `InMemory`, or `Images` that are decoded on access: both with `name`, `len()` and `__getitems__(indices)` -> uint8
    [B, C, R, R], or float32 [B, 2] for points.
    Raises InputError where model and data do not fit, DataError for data that is missing or broken, MissingError for a missing package.
    """
    source = str(source)
    name, colon, path = source.partition(":")
    if not source:
        raise InputError(f"no training data: give --data with a name ({', '.join(NAMES)}) or the path of a folder or file of images")
    found = None if name in NAMES else existing(source)
    check_model(source, name == "gaussians25", model)
    if found:
        return _open_path(found, model.sample_shape, resident_gb, on_bad_image, max_images)
    argument, opener = NAMES[name]
    if colon and not (path and argument):
        right = f"{name}:{argument}, or {name} alone" if argument else f"{name} alone, it takes no path"
        raise InputError(f"data {source!r}: it must be {right}")
    return _first(opener(Path(path).expanduser() if path else None, model.sample_shape, seed), max_images)


def check_model(source, has_points, model):
    """Raises InputError unless the network draws what the set holds."""
    if has_points and model.network != "mlp":
        raise InputError(f"data {source!r}: it holds 2-D points and network = {model.network!r} draws images; use --preset gaussians25")
    if not has_points and model.network != "unet":
        raise InputError(f"data {source!r}: it holds images and network = {model.network!r} draws points; use an image preset: cifar10")
    if not has_points and model.image_channels not in (1, 3):
        raise InputError(f"data {source!r}: image_channels = {model.image_channels}; images can be read as gray (1) or RGB (3)")


def existing(source):
    """The path. Raises DataError where there is none, with the nearest name for what may be a mistyped one, or it cannot be read."""
    path = Path(source).expanduser()
    if not os.path.exists(path):  # pathlib's raises for a name that is too long
        name = source.partition(":")[0]
        if os.sep not in name:
            raise DataError(f"data {source!r}: no path of this name, and not a set ({', '.join(NAMES)}){suggest(name, NAMES)}")
        raise DataError(f"{path}: no such path; looked for {LOOKED_FOR}")
    if not path.is_dir():
        folder.check_file(path)
    return path


def _first(dataset, max_images):
    return InMemory(dataset.name, dataset.items[:max_images]) if 0 < max_images < len(dataset) else dataset


def _open_path(path, shape, resident_gb, on_bad_image, max_images):
    if path.is_dir() and cifar10.find(path):
        return _first(open_cifar10(path, shape), max_images)
    if path.is_dir() and idx.find(path, idx.IMAGES):
        return _first(open_idx(path, shape), max_images)
    if path.is_file() and npz.is_npz(path):
        return _first(npz.open_npz(path, shape), max_images)
    images = Images(_source(path, on_bad_image == "skip"), shape, on_bad_image, max_images)
    return images.in_memory() if images.decoded_bytes <= resident_gb * 2**30 else images


def _source(path, skips):
    """The source of images that a folder or a file holds, by looking into it."""
    name = path.resolve().name
    if path.is_dir():
        if environment := lmdb.find(path):
            return lmdb.Lmdb(environment)
        if files := parquet.find(path):
            return parquet.Parquet(name, files)
        if files := shards.find(path):
            return tar.Tar(name, files)
        if files := folder.find(path, skips):
            return folder.Folder(name, files)
        raise DataError(f"{path}: nothing to train on; looked for {LOOKED_FOR}")
    if parquet.is_parquet(path):
        return parquet.Parquet(name, [path])
    if zip_format.is_zip(path):
        return zip_format.Zip(path)
    if lmdb.is_lmdb(path):
        return lmdb.Lmdb(path)
    if listed := shards.read(path):
        return tar.Tar(name, shards.local(listed))
    raise DataError(f"{path}: a file of another kind; looked for {LOOKED_FOR}")
