"""Batches for training, in an order that is a pure function of (seed, step): a resumed run and any number of ranks see the same."""

import hashlib
import os

import torch
from torch.utils.data import DataLoader

from ddgan_fast.data.datasets import open_dataset
from ddgan_fast.data.folder import Folder
from ddgan_fast.errors import DataError, DDGANError, InputError, ResourceError

SHARED_MEMORY = "/dev/shm"


def open_loader(config, device, rank=0, world=1):
    """The loader of a config's training data.

    config: config.Config; reads model, and data, batch_size, flip, workers and seed of train.  device: where batches go.
    rank, world: this process and how many share a step.
    Raises what `open_dataset` raises, InputError for a batch size that `world` does not divide, DataError for less data than one batch.
    """
    train = config.train
    if not 0 <= rank < world:
        raise InputError(f"rank = {rank}: it must be 0 to {world - 1} with {world} processes")
    if train.batch_size % world:
        raise InputError(f"batch_size = {train.batch_size}: it must be a multiple of the {world} processes that share it")
    if train.flip and config.model.network == "mlp":
        raise InputError("flip = True: it mirrors images, and the network draws 2-D points; leave it out")
    dataset = open_dataset(train.data, config.model, train.seed)
    if len(dataset) < train.batch_size:
        fewer = f"{len(dataset)} items are fewer than one batch of {train.batch_size}"
        raise DataError(f"data {train.data!r}: {fewer}; batch_size must be {len(dataset)} or less")
    return Loader(dataset, train.batch_size, device, train.seed, rank, world, train.flip, train.workers)


class Loader:
    """Endless batches of one rank.

    global_batch: items per step over all ranks; `batch_size` of them come here.  Each epoch is a new permutation, its last
    incomplete batch left out: `steps_per_epoch` steps.
    """

    def __init__(self, dataset, global_batch, device, seed=0, rank=0, world=1, flip=False, workers=0):
        self.dataset = dataset
        self.global_batch = global_batch
        self.batch_size = global_batch // world
        self.steps_per_epoch = len(dataset) // global_batch
        self.device = torch.device(device)
        self.seed = seed
        self.rows = slice(rank * self.batch_size, (rank + 1) * self.batch_size)  # of the global batch
        self.flip = flip
        self.workers = workers if isinstance(dataset, Folder) else 0  # a set in memory has nothing to decode
        if self.workers and not os.access(SHARED_MEMORY, os.W_OK):
            raise ResourceError(
                f"workers = {workers}: they hand their images over in {SHARED_MEMORY}, which cannot be written; give --workers 0"
            )

    def indices(self, step):
        """The items of a training step, over all ranks, as a list of their numbers in the data set."""
        epoch, place = divmod(step, self.steps_per_epoch)
        return self.order(epoch)[place * self.global_batch : (place + 1) * self.global_batch].tolist()

    def order(self, epoch):
        """The permutation of the items in an epoch, int64."""
        return torch.randperm(len(self.dataset), generator=_generator(self.seed, "epoch", epoch))

    def batches(self, start=0):
        """An endless generator from training step `start` on: float32 [B, C, H, W] in [-1, 1], or points [B, 2], on the device.

        The global random state of torch is neither read nor changed.
        """
        fetched = DataLoader(
            _Fetch(self.dataset),
            batch_sampler=_Order(self, start),
            num_workers=self.workers,
            collate_fn=_as_is,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # or DataLoader draws from the global one
        )
        for step, batch in enumerate(fetched, start):
            if isinstance(batch, DDGANError):
                raise batch
            yield self._prepare(batch.to(self.device, non_blocking=True), step)

    def _prepare(self, batch, step):
        if batch.dtype != torch.uint8:
            return batch
        if self.flip:
            coins = torch.randint(2, (self.global_batch,), generator=_generator(self.seed, "flip", step))[self.rows]
            batch = torch.where(coins.bool().to(self.device, non_blocking=True)[:, None, None, None], batch.flip(-1), batch)
        return batch.float() / 127.5 - 1


class _Order:
    """The indices of each batch, from one training step on."""

    def __init__(self, loader, start):
        self.loader, self.start = loader, start

    def __iter__(self):
        loader, first = self.loader, self.start % self.loader.steps_per_epoch
        epoch = self.start // loader.steps_per_epoch
        while True:
            order = loader.order(epoch)
            for step in range(first, loader.steps_per_epoch):
                yield order[step * loader.global_batch :][loader.rows].tolist()
            epoch, first = epoch + 1, 0


class _Fetch:
    """The data set with our errors returned: raised in a worker process, they would reach the user wrapped in its traceback."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __getitems__(self, indices):
        try:
            return self.dataset.__getitems__(indices)
        except DDGANError as error:
            return error


def _as_is(batch):
    return batch


def _generator(*parts):
    """A generator seeded by a hash of the parts."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
