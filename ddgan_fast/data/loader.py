"""Batches for training, in an order that is a pure function of (seed, step): a resumed run and any number of ranks see the same."""

import itertools
import logging
import os

import torch
from torch.utils.data import DataLoader

from ddgan_fast.data.images import InMemory
from ddgan_fast.data.order import Order
from ddgan_fast.errors import DDGANError, ResourceError

log = logging.getLogger(__name__)
SHARED_MEMORY = "/dev/shm"


class Loader:
    """Endless batches of one rank.

    dataset: InMemory, which then lies on the device, is shuffled and mirrored there; or what worker processes decode.
    global_batch: items per step over all ranks; `batch_size` of them come here.  Each epoch is a new permutation, its last
    incomplete batch left out: `steps_per_epoch` steps.
    """

    def __init__(self, dataset, global_batch, device, seed=0, rank=0, world=1, flip=False, workers=0):
        self.dataset = dataset
        self.order = Order(len(dataset), global_batch, seed, rank, world)
        self.batch_size, self.steps_per_epoch = self.order.batch_size, self.order.steps_per_epoch
        self.device = torch.device(device)
        self.flip = flip
        self.is_resident = isinstance(dataset, InMemory)
        self.workers = 0 if self.is_resident else workers
        if self.workers and not os.access(SHARED_MEMORY, os.W_OK):
            raise ResourceError(
                f"workers = {workers}: they hand their images over in {SHARED_MEMORY}, which cannot be written; give --workers 0"
            )

    def indices(self, step):
        """The items of a training step, over all ranks, as a list of their numbers in the data set."""
        return self.order.indices(step).tolist()

    def batches(self, start=0):
        """An endless generator from training step `start` on: float32 [B, C, H, W] in [-1, 1], or points [B, 2], on the device.

        The global random state of torch is neither read nor changed.
        """
        return self._resident(start) if self.is_resident else self._decoded(start)

    def _resident(self, start):
        """The whole set on the device: a step moves nothing there."""
        items, order = self.dataset.items.to(self.device), self.order
        first = start % self.steps_per_epoch
        for epoch in itertools.count(start // self.steps_per_epoch):
            indices = order.epoch(epoch)[first:, order.rows].to(self.device)
            steps = range(epoch * self.steps_per_epoch + first, (epoch + 1) * self.steps_per_epoch)
            coins = torch.stack([order.coins(step) for step in steps]).to(self.device) if self.flip else itertools.repeat(None)
            for step_indices, step_coins in zip(indices, coins, strict=False):
                yield prepared(items[step_indices], step_coins)
            first = 0

    def _decoded(self, start):
        fetched = DataLoader(
            _Fetch(self.dataset),
            batch_sampler=_Shares(self.order, start),
            num_workers=self.workers,
            collate_fn=_as_is,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # or DataLoader draws from the global one
        )
        for batch, coins in on_device(self._with_coins(fetched, start), self.device):
            if isinstance(batch, DDGANError):
                raise batch
            yield prepared(batch, coins)

    def _with_coins(self, batches, start):
        for step, batch in enumerate(batches, start):
            yield batch, self.order.coins(step) if self.flip else None


def prepared(batch, coins=None):
    """Images uint8 as float32 in [-1, 1], mirrored where coins [B] are true; points as they are."""
    if batch.dtype != torch.uint8:
        return batch
    if coins is not None:
        batch = torch.where(coins[:, None, None, None], batch.flip(-1), batch)
    return batch.float().div_(127.5).sub_(1)


def on_device(groups, device):
    """Tuples with their tensors on the device. On a GPU a stream of its own copies the next tuple while the current one is used."""
    if device.type != "cuda":
        yield from groups  # the loaders make CPU tensors
        return
    stream = torch.cuda.Stream(device)

    def copied(group):
        with torch.cuda.stream(stream):
            moved = [each.to(device, non_blocking=True) if isinstance(each, torch.Tensor) else each for each in group]
            return moved, stream.record_event()

    ahead = None
    for group in groups:
        current, ahead = ahead, copied(group)
        if current is None:
            continue
        yield _received(*current, device)
    if ahead is not None:
        yield _received(*ahead, device)


def _received(group, copied, device):
    """The tuple, to be used on the current stream."""
    using = torch.cuda.current_stream(device)
    using.wait_event(copied)
    for each in group:
        if isinstance(each, torch.Tensor):
            each.record_stream(using)
    return group


class _Shares:
    """The indices of each batch, from one training step on."""

    def __init__(self, order, start):
        self.order, self.start = order, start

    def __iter__(self):
        return map(self.order.share, itertools.count(self.start))


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
