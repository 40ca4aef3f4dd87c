"""Features of the set that generated images are compared with, computed once and kept in a file."""

import hashlib
import logging
import os
from pathlib import Path

import numpy as np
import torch

from ddgan_fast.distributed import rank_and_world, told_by_first
from ddgan_fast.errors import CheckpointError
from ddgan_fast.evaluation.metrics import Statistics
from ddgan_fast.evaluation.scoring import Collected, collect
from ddgan_fast.pictures import whole_file

log = logging.getLogger("ddgan_fast")
VERSION = 1  # of what is in the file, and of how images are brought to a resolution
DECODED = 4096  # images whose pixels are hashed, where decoding all would take long
BATCH = 100


def default_cache():
    """The folder of this user's caches."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ddgan_fast"


def reference_features(dataset, judges, manifold_images, cache, watch=lambda count: None):
    """Collected of all images of a data set, from a file where they have been looked at before.

    dataset: with len() and __getitems__(indices) -> uint8 [B, C, H, W], and files() as data.decode.Images where that decodes; it is
    looked at in a random order, always the same, so that the first manifold_images are of all its parts.  cache: a folder.  The file's
    name is a hash of the judges' networks and weights, of VERSION, and of the pixels of all images; where decoding them would take long,
    of all files and of the pixels of up to 4,096 evenly spaced ones, which another decoder changes.  A damaged file is made again.  Where
    the folder cannot be written, a warning says so.
    watch: told the number of images of each batch that is looked at.
    """
    rank, world = rank_and_world()
    found, path = None, None
    if rank == 0:  # alone: a folder that two ranks see differently must not set them to different work
        path = Path(cache) / f"reference-{_key(dataset, judges, manifold_images)}.npz"
        found = _known(path, len(dataset))
    found = told_by_first(found)
    if found is not None:
        return found
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0)).tolist()
    found = collect(_batches(dataset, order[rank::world], watch), judges, manifold_images)
    if rank == 0:
        _write(path, found)
    return found


def _batches(dataset, indices, watch=lambda count: None):
    for start in range(0, len(indices), BATCH):
        part = list(indices[start : start + BATCH])
        yield dataset.__getitems__(part).permute(0, 2, 3, 1)
        watch(len(part))


def _known(path, count):
    """Collected in a file, None where there is none or it is damaged."""
    if not path.exists():
        return None
    try:
        return _read(path, count)
    except CheckpointError as error:
        log.warning("%s; computing it again", error)
        return None


def _key(dataset, judges, manifold_images):
    digest = hashlib.sha256(f"{VERSION} {len(dataset)} {judges.identity} {manifold_images}".encode())
    step = 1
    if hasattr(dataset, "files"):
        step = -(-len(dataset) // DECODED)
        for item in dataset.files():
            digest.update(f"{len(item)} ".encode())
            digest.update(item)
    for batch in _batches(dataset, range(0, len(dataset), step)):
        digest.update(f"{tuple(batch.shape)}".encode() + batch.contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


def _read(path, count):
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = dict(arrays)
        manifold = torch.from_numpy(found.pop("manifold"))
        statistics = Statistics.from_dict(found)
        if statistics.count != count:
            raise ValueError(f"of {statistics.count} images, and there are {count}")
        return Collected(statistics, manifold, None)
    except Exception as error:  # numpy and zipfile raise of many kinds for a damaged file
        raise CheckpointError(f"{path}: cannot be read: {error}") from error


def _write(path, found):
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, manifold=found.manifold.numpy(), **found.statistics.to_dict())
    except OSError as error:
        log.warning("%s: cannot be written (%s); the features are not kept", path, error)
