"""The processes of one torchrun: which is this one, sums over all of them, and which of them no longer answers."""

import os
import secrets
import time
from contextlib import contextmanager
from datetime import timedelta

from ddgan_fast.errors import InputError, ResourceError

PATIENCE = timedelta(days=7)  # of a barrier: ranks may be hours apart, one goes on with what a killed run left, another is slower
MEETING = timedelta(minutes=5)  # in which ranks that are started must find each other
ROLL_CALL = 10.0  # seconds in which a rank must say that it is there


def rank_and_world():
    """(rank, number of ranks) from RANK and WORLD_SIZE, which torchrun sets; (0, 1) without them."""
    try:
        rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    except ValueError as error:
        raise InputError(f"RANK and WORLD_SIZE must be whole numbers, as torchrun sets them: {error}") from error
    if not 0 <= rank < world:
        raise InputError(f"RANK = {rank}, WORLD_SIZE = {world}: a rank is 0 to WORLD_SIZE - 1; start with torchrun")
    return rank, world


def barrier():
    """Wait until every rank has come here; nothing for one alone."""
    if rank_and_world()[1] == 1:
        return
    import torch.distributed as dist

    if not dist.is_initialized():
        _join("gloo", PATIENCE, PATIENCE)
    with _collective():
        dist.barrier()


def _store():
    """The store through which torchrun lets the ranks find each other."""
    import torch.distributed as dist

    try:
        return next(dist.rendezvous("env://", timeout=MEETING))[0]
    except (ValueError, RuntimeError) as error:
        raise InputError(f"WORLD_SIZE is set, and the other ranks cannot be found: {error}; start with torchrun") from error


def _join(backend, patience, meeting=MEETING):
    """Make the process group; (torchrun's store, the part of it that the ranks of this start have).

    patience: of what the group does.  meeting: the longest time between the first rank that comes here and the last.
    """
    import torch.distributed as dist

    rank, world = rank_and_world()
    store = _store()
    try:
        here = dist.PrefixStore(f"ddgan/{_number_of_start(store, rank, world, meeting)}", store)
        dist.init_process_group(backend, store=here, rank=rank, world_size=world, timeout=patience)
    except RuntimeError as error:
        raise ResourceError(f"rank {rank}: the {world} ranks do not come together: {str(error).splitlines()[0]}") from error
    return store, here


def _number_of_start(store, rank, world, meeting):
    """A random number that the ranks of this start have, and those that torchrun started before do not: its store outlives them.

    The first rank draws it, and answers whoever asks by a number of its own; counts of restarts differ between nodes.
    """
    mine = secrets.token_hex(8)
    if rank > 0:
        store.append("ddgan/asked", f"{mine} ")
        store.wait([f"ddgan/answer/{mine}"], meeting)
        number = store.get(f"ddgan/answer/{mine}").decode()
        store.set(f"ddgan/{number}/heard/{rank}", "1")
        return number
    heard, until, answered = [f"ddgan/{mine}/heard/{other}" for other in range(1, world)], time.monotonic() + meeting.total_seconds(), set()
    while not store.check(heard):
        if time.monotonic() > until:
            raise RuntimeError(f"no word from all of them in {meeting.total_seconds():.0f} s")
        asked = set(store.get("ddgan/asked").decode().split()) if store.check(["ddgan/asked"]) else set()
        for other in asked - answered:  # the dead are answered too, and do not mind
            store.set(f"ddgan/answer/{other}", mine)
        answered |= asked
        time.sleep(0.01)
    return mine


class Launch:
    """What outlives the processes of one torchrun: whether some that it started before have opened their run."""

    def __init__(self, store=None):
        self.store = store

    def has_opened(self):
        """Whether `opened` was called, by these processes or by those before them."""
        return self.store is not None and self.store.check(["ddgan/opened"])

    def opened(self):
        """Remember that the run is open: whoever is started again goes on with it."""
        if self.store is not None:
            self.store.set("ddgan/opened", "1")


@contextmanager
def together(device, seconds):
    """Inside the block, which gets a Launch, all ranks form a process group: NCCL on a GPU, gloo on a CPU; nothing for one alone.

    With gloo a rank that does not answer for so many seconds, or is gone, ends the others: ResourceError with its number.  With NCCL
    torch's own watchdog ends the processes then.
    """
    rank, world = rank_and_world()
    if world == 1:
        yield Launch(_store() if "TORCHELASTIC_RUN_ID" in os.environ else None)
        return
    import torch.distributed as dist

    store, here = _join("nccl" if device.type == "cuda" else "gloo", timedelta(seconds=seconds))
    try:
        yield Launch(store)
    except _LostError as error:
        gone = _gone(here, rank, world)
        if not gone:
            raise
        ranks = f"rank{'s' if len(gone) > 1 else ''} {', '.join(map(str, gone))} of {world}"
        raise ResourceError(
            f"rank {rank}: {ranks} died or hangs ({str(error).splitlines()[0]}); continue from the last checkpoint with --resume"
        ) from error
    finally:
        dist.destroy_process_group()


def _gone(store, rank, world):
    """The ranks that do not say that they are there."""
    gone, until = [], time.monotonic() + ROLL_CALL
    try:
        store.set(f"there/{rank}", "1")
        for other in range(world):
            while not store.check([f"there/{other}"]) and time.monotonic() < until:
                time.sleep(0.05)
            if not store.check([f"there/{other}"]):
                gone.append(other)
    except RuntimeError:  # the store is gone, and it lives in rank 0 or in torchrun's agent
        gone.append(0)
    return gone


class _LostError(RuntimeError):
    """A collective failed."""


@contextmanager
def _collective():
    """torch.distributed, for one collective: by what torch raises in it, and nothing else, `together` knows that a rank is gone."""
    import torch.distributed as dist

    try:
        yield dist
    except RuntimeError as error:
        raise _LostError(str(error)) from error


def sum_over_ranks(tensor):
    """Replace a tensor by its sum over all ranks, in place; nothing for one alone."""
    if rank_and_world()[1] > 1:
        with _collective() as dist:
            dist.all_reduce(tensor)


def told_by_first(mine):
    """What the first rank has for `mine`, any object; `mine` itself for one alone."""
    told = [mine]
    if rank_and_world()[1] > 1:
        with _collective() as dist:
            dist.broadcast_object_list(told)
    return told[0]


def told_by_all(mine):
    """[what rank r has for `mine`, any object]."""
    world = rank_and_world()[1]
    parts = [mine] * world
    if world > 1:
        with _collective() as dist:
            dist.all_gather_object(parts, mine)
    return parts
