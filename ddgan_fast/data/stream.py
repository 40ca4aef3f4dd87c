"""Tar shards read one after the other, for sets that lie on other machines or on disks that are slow to seek.

Ranks take different shards. A shuffle buffer mixes what it holds, so memory is bounded by it and not by the set. The order is a pure
function of (seed, epoch, rank): every shard has a known number of images, so which image comes when is drawn before anything is read,
and a resumed run reads the shards again that its next images, or those still held, lie in.
"""

import http.client
import itertools
import logging
import tarfile
import time
import urllib.error
import urllib.request
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from ddgan_fast.data.decode import decode
from ddgan_fast.data.formats.shards import Shard
from ddgan_fast.data.formats.tar import Unreadable, images
from ddgan_fast.data.loader import on_device, prepared
from ddgan_fast.data.order import generator_of
from ddgan_fast.errors import DataError, InputError

log = logging.getLogger(__name__)
TRIES, WAIT_S, TIMEOUT_S = 5, 1.0, 60.0  # of a remote shard: attempts without a new image, the first wait between two, silence of a server
PASSING = (408, 425, 429)  # answers 4xx of a server that are worth another attempt; the others stay as they are
AHEAD = 2  # batches that are decoded while one is used


class Stream:
    """Endless batches of one rank, as of `Loader`.

    shards: formats.shards.Shard; local ones without a count are scanned.  config: config.Config; train.shuffle_buffer is how many images
    are mixed, train.workers how many threads decode.
    An epoch has as many steps as the rank with the fewest images can fill: shards of one size waste nothing.
    """

    def __init__(self, shards, config, device, rank=0, world=1):
        train, self.shape = config.train, config.model.sample_shape
        self.device, self.rank, self.world = torch.device(device), rank, world
        self.seed, self.flip, self.buffer = train.seed, train.flip, train.shuffle_buffer
        self.global_batch, self.batch_size = train.batch_size, train.batch_size // world
        self.threads, self.skips = max(1, train.workers), train.on_bad_image == "skip"
        self.shards = [shard if shard.images else Shard(shard.place, _count(shard.place)) for shard in shards]
        self.per_rank = len(self.shards) // world
        if not self.per_rank:
            raise InputError(f"{len(self.shards)} shards cannot be shared by {world} processes; pack the set into more of them")
        fewest = sum(sorted(shard.images for shard in self.shards)[: self.per_rank])
        self.steps_per_epoch = fewest // self.batch_size
        if not self.steps_per_epoch:
            fewer = f"a rank's share of {fewest} images is less than its {self.batch_size} of a batch"
            raise DataError(f"data {train.data!r}: {fewer} of {train.batch_size}; give a smaller batch_size")

    def order(self, epoch, rank):
        """(shards, their images, order) of a rank: its shards in turn; the number of all images before each; int64 positions in that
        sequence, in the order in which they are used: none comes more than the shuffle buffer before its turn."""
        generator = generator_of(self.seed, "shards", epoch)
        mine = torch.randperm(len(self.shards), generator=generator)[rank :: self.world][: self.per_rank].tolist()
        starts = np.cumsum([0] + [self.shards[i].images for i in mine])
        return mine, starts, _mixed(int(starts[-1]), self.buffer, generator_of(self.seed, "buffer", epoch, rank))

    def indices(self, step):
        """The images of a training step over all ranks: their numbers in the set, shard after shard."""
        epoch, place = divmod(step, self.steps_per_epoch)
        before = np.cumsum([0] + [shard.images for shard in self.shards])
        found = []
        for rank in range(self.world):
            mine, starts, order = self.order(epoch, rank)
            for position in order[place * self.batch_size : (place + 1) * self.batch_size]:
                which = int(np.searchsorted(starts, position, side="right")) - 1
                found.append(int(before[mine[which]] + position - starts[which]))
        return found

    def batches(self, start=0):
        """An endless generator from training step `start` on: float32 [B, C, H, W] in [-1, 1] on the device.

        Raises DataError for a shard that cannot be read, and for a bad image; with skip, where all images of a batch are bad.
        """
        for batch, coins in on_device(self._decoded(start), self.device):
            if isinstance(batch, DataError):
                raise batch
            yield prepared(batch, coins)

    def _decoded(self, start):
        """Yield (uint8 batch, coins) of each step, decoded ahead by threads: Pillow decodes outside the interpreter's lock.

        In the place of a step that cannot be had, (DataError, None).
        """
        waiting, named = deque(), set()
        with ThreadPoolExecutor(self.threads) as pool:
            try:
                for step, items in enumerate(self._items(start), start):
                    waiting.append((step, [pool.submit(_decoded_or_error, *item, self.shape) for item in items]))
                    if len(waiting) > AHEAD:
                        yield self._batch(*waiting.popleft(), named)
            except DataError as error:  # of a shard: handed on, not raised, or the batches before it would be lost
                yield from (self._batch(*batch, named) for batch in waiting)
                yield error, None

    def _batch(self, step, futures, named):
        results = [future.result() for future in futures]
        bad = [result for result in results if isinstance(result, DataError)]
        if bad and (not self.skips or len(bad) == len(results)):
            return bad[0], None
        for error in bad:
            if str(error) not in named:
                named.add(str(error))
                log.warning("left out: %s", error)
        for place, result in enumerate(results):  # the next good image of the batch, in a circle
            if isinstance(result, DataError):
                results[place] = next(r for r in results[place:] + results[:place] if not isinstance(r, DataError))
        coins = torch.randint(2, (self.batch_size,), generator=generator_of(self.seed, "flip", step, self.rank)).bool()
        batch = torch.stack(results)
        return batch.pin_memory() if self.device.type == "cuda" else batch, coins if self.flip else None

    def _items(self, start):
        """Yield the [(image file, label)] of each step from `start` on."""
        first = start % self.steps_per_epoch * self.batch_size
        for epoch in itertools.count(start // self.steps_per_epoch):
            mine, starts, order = self.order(epoch, self.rank)
            coming = order[first : self.steps_per_epoch * self.batch_size]
            wanted = np.zeros(len(order), bool)
            wanted[coming] = True
            read, held, batch = self._read(mine, starts, wanted), {}, []
            for position in map(int, coming):  # one at a time: a list of them all would outweigh the buffer
                while position not in held:
                    found, item = next(read)
                    held[found] = item
                batch.append(held.pop(position))
                if len(batch) == self.batch_size:
                    yield batch
                    batch = []
            if wanted[-1]:
                next(read, None)  # the end of the last shard, where its images are counted
            first = 0

    def _read(self, mine, starts, wanted):
        """Yield (position, (image file, label)) of the shards in turn, where `wanted` [positions] is true."""
        for which, number in enumerate(mine):
            if wanted[starts[which] : starts[which + 1]].any():
                for position, item in enumerate(read_shard(self.shards[number]), int(starts[which])):
                    if wanted[position]:
                        yield position, item


def _mixed(count, buffer, generator):
    """The order in which a shuffle buffer gives `count` items out: int64 [count]."""
    slots = torch.randint(2**62, (count,), generator=generator).numpy()
    held, order = list(range(min(buffer, count))), np.empty(count, np.int64)
    for place in range(count):
        left = min(buffer, count - place)
        slot = int(slots[place]) % left
        order[place] = held[slot]
        following = place + buffer
        held[slot] = following if following < count else held[left - 1]
    return order


def _decoded_or_error(content, label, shape):
    try:
        return decode(content, label, shape)
    except DataError as error:
        return error


def _count(path):
    try:
        with open(path, "rb") as file:
            return sum(1 for _ in images(file, path, "r:"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def read_shard(shard):
    """Yield (image file, label) of a shard's images; a remote one is asked for again where its connection breaks, and goes on there.

    Raises DataError for a shard that cannot be read, or holds another number of images than its list says.
    """
    given, tries = 0, 0
    while True:
        before = given
        try:
            for number, item in enumerate(_members(shard)):
                if number >= given:
                    given += 1
                    if given > shard.images:
                        break
                    yield item
            break
        except Unreadable as error:
            tries = 1 if given > before else tries + 1
            if not shard.is_remote or tries == TRIES:
                raise
            wait = WAIT_S * 2 ** (tries - 1)
            log.warning("%s; trying again in %g s", error, wait)
            time.sleep(wait)
    if given != shard.images:
        held = "more" if given > shard.images else str(given)
        raise DataError(f"{shard.place}: {held} images in it, and its list says {shard.images}; list the shards anew")


def _members(shard):
    """Yield (image file, label) of one pass over a shard. Raises Unreadable where another attempt may help, DataError where not."""
    try:
        with urllib.request.urlopen(shard.place, timeout=TIMEOUT_S) if shard.is_remote else open(shard.place, "rb") as file:
            for tar, member in images(file, shard.place, "r|"):
                label = f"{shard.place}:{member.name}"
                yield tar.extractfile(member).read(), label
    except tarfile.TarError as error:
        raise Unreadable(f"{label}: truncated: the shard ends inside of it ({error})") from error
    except (http.client.HTTPException, OSError, ValueError) as error:
        text = f"{shard.place}: cannot be read ({error})"
        refused = isinstance(error, urllib.error.HTTPError) and 400 <= error.code < 500 and error.code not in PASSING
        if refused or isinstance(error, (ValueError, http.client.InvalidURL)):  # ValueError: of an address that is none
            raise DataError(text) from error
        raise Unreadable(text) from error
