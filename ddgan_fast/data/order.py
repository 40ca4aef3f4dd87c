"""Which items a training step takes, and which of them are mirrored: a pure function of (seed, step), whatever loads them."""

import hashlib

import torch


class Order:
    """A new permutation of `count` items each epoch, its last incomplete batch left out, shared out over ranks.

    global_batch: items of a step over all ranks; each takes an equal share of it.
    """

    def __init__(self, count, global_batch, seed=0, rank=0, world=1):
        self.count, self.global_batch, self.seed = count, global_batch, seed
        self.batch_size = global_batch // world
        self.steps_per_epoch = count // global_batch
        self.rows = slice(rank * self.batch_size, (rank + 1) * self.batch_size)  # of the global batch
        self.last = None, None  # epoch and its permutation

    def epoch(self, epoch):
        """The steps of an epoch, int64 [steps_per_epoch, global_batch]."""
        if self.last[0] != epoch:
            items = torch.randperm(self.count, generator=generator_of(self.seed, "epoch", epoch))
            self.last = epoch, items[: self.steps_per_epoch * self.global_batch].view(-1, self.global_batch)
        return self.last[1]

    def indices(self, step):
        """The items of a training step over all ranks, int64 [global_batch]."""
        epoch, place = divmod(step, self.steps_per_epoch)
        return self.epoch(epoch)[place]

    def share(self, step):
        """The items that this rank takes, a list."""
        return self.indices(step)[self.rows].tolist()

    def coins(self, step):
        """Which of this rank's items are mirrored, bool [batch_size]."""
        return torch.randint(2, (self.global_batch,), generator=generator_of(self.seed, "flip", step))[self.rows].bool()


def generator_of(*parts):
    """A generator seeded by a hash of the parts."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
