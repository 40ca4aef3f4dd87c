"""The loader of a config's training data: what is resident, decoded by torch's workers or DALI, or streamed."""

import logging

import torch

from ddgan_fast.data import dali
from ddgan_fast.data.dali import DaliLoader
from ddgan_fast.data.datasets import NAMES, check_model, existing, open_dataset
from ddgan_fast.data.formats import shards
from ddgan_fast.data.images import InMemory
from ddgan_fast.data.loader import Loader
from ddgan_fast.data.stream import Stream
from ddgan_fast.errors import DataError, InputError, MissingError

log = logging.getLogger(__name__)


def open_loader(config, device, rank=0, world=1):
    """The loader of a config's training data.

    config: config.Config; reads model, and of train batch_size, flip, seed and what is about data.  device: where batches go.
    rank, world: this process and how many share a step.
    Returns an object with `batches(start)`, `steps_per_epoch`, `indices(step)` and `batch_size`.
    Raises what `open_dataset` raises, InputError for a batch size that `world` does not divide or a loader that cannot read this set,
    DataError for less data than one batch, MissingError for DALI that is not installed.
    """
    train, device = config.train, torch.device(device)
    if not 0 <= rank < world:
        raise InputError(f"rank = {rank}: it must be 0 to {world - 1} with {world} processes")
    if train.batch_size % world:
        raise InputError(f"batch_size = {train.batch_size}: it must be a multiple of the {world} processes that share it")
    if train.flip and config.model.network == "mlp":
        raise InputError("flip = True: it mirrors images, and the network draws 2-D points; leave it out")
    if listed := _streamed(config):
        loader, kind, why = Stream(listed, config, device, rank, world), "stream", f"{len(listed)} tar shards, one after the other"
    else:
        # DALI decodes what a set in memory has decoded already
        resident_gb = 0.0 if train.loader == "dali" else train.resident_gb
        dataset = open_dataset(train.data, config.model, train.seed, resident_gb, train.on_bad_image, train.max_images)
        if len(dataset) < train.batch_size:
            fewer = f"{len(dataset)} items are fewer than one batch of {train.batch_size}"
            raise DataError(f"data {train.data!r}: {fewer}; batch_size must be {len(dataset)} or less")
        kind, why = _choose(train, dataset, device)
        make = DaliLoader if kind == "dali" else Loader
        loader = make(dataset, train.batch_size, device, train.seed, rank, world, train.flip, train.workers)
    if rank == 0:
        log.info("data %s: %s loader: %s", train.data, kind, why)
    return loader


def _streamed(config):
    """The shards to stream, or None for data that is read in any order."""
    train = config.train
    if not train.shuffle_buffer:
        return None
    listed = None if train.data.partition(":")[0] in ("", *NAMES) else shards.read(existing(train.data))
    if not listed:
        raise InputError(f"shuffle_buffer = {train.shuffle_buffer}: it mixes tar shards, and {train.data!r} is none; leave it out")
    check_model(train.data, False, config.model)
    for name, value, right in (("loader", train.loader == "dali", "torch"), ("max_images", train.max_images, 0)):
        if value:
            raise InputError(f"shuffle_buffer = {train.shuffle_buffer}: a stream takes no {name} = {getattr(train, name)}; give {right}")
    return listed


def _choose(train, dataset, device):
    """(kind, why) of the loader. Raises MissingError or InputError where DALI was asked for and cannot serve."""
    if isinstance(dataset, InMemory):
        if train.loader == "dali":
            raise InputError(f"loader = 'dali': {train.data!r} is kept decoded and leaves it nothing to do; give --loader torch")
        return "torch", f"{len(dataset):,} items lie on the device"
    missing = dali.refuses()
    if train.loader == "dali":
        if missing:
            raise MissingError(f"loader = 'dali': {missing}")
        return "dali", "it was asked for"
    if train.loader == "torch":
        return "torch", f"{train.workers} workers, as asked for"
    if device.type != "cuda":
        return "torch", f"{train.workers} workers; on a CPU the network is what takes the time"
    return ("torch", f"{train.workers} workers; {missing}") if missing else ("dali", "it decodes on the GPU")
