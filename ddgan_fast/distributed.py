"""The processes of one torchrun: which is this one, sums over all of them, and which of them no longer answers."""

import os
from contextlib import contextmanager
from datetime import timedelta

from ddgan_fast.errors import InputError, ResourceError

PATIENCE = timedelta(days=7)  # of a barrier: ranks may be hours apart, one goes on with what a killed run left, another is slower
ROLL_CALL = timedelta(seconds=10)  # in which a rank must say that it is there


def rank_and_world():
    """(rank, number of ranks) from RANK and WORLD_SIZE, which torchrun sets; (0, 1) without them."""
    try:
        rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    except ValueError as error:
        raise InputError(f"RANK and WORLD_SIZE must be whole numbers, as torchrun sets them: {error}") from error
    if not 0 <= rank < world:
        raise InputError(f"RANK = {rank}, WORLD_SIZE = {world}: a rank is 0 to WORLD_SIZE - 1; start with torchrun")
    return rank, world


def restarts():
    """How often torchrun has started these processes again after one of them had died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


def barrier():
    """Wait until every rank has come here; nothing for one alone."""
    if rank_and_world()[1] == 1:
        return
    import torch.distributed as dist

    if not dist.is_initialized():
        _join("gloo", PATIENCE)
    dist.barrier()


def _join(backend, patience):
    """Make the process group; the store through which the ranks found each other."""
    import torch.distributed as dist

    try:
        store, rank, world = next(dist.rendezvous("env://", timeout=timedelta(minutes=5)))
    except (ValueError, RuntimeError) as error:
        raise InputError(f"WORLD_SIZE is set, and the other ranks cannot be found: {error}; start with torchrun") from error
    store = dist.PrefixStore(f"ddgan/{restarts()}", store)  # torchrun's outlives the processes, with the addresses of those before
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=patience)
    return store


@contextmanager
def together(device, seconds):
    """Inside the block all ranks form a process group: NCCL on a GPU, gloo on a CPU; nothing for one alone.

    A rank that does not answer for so many seconds, or is gone, ends the others: ResourceError with its number.
    """
    rank, world = rank_and_world()
    if world == 1:
        yield
        return
    import torch.distributed as dist

    store = _join("nccl" if device.type == "cuda" else "gloo", timedelta(seconds=seconds))
    try:
        yield
    except RuntimeError as error:  # what torch raises where a collective fails
        gone = _gone(store, rank, world)
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
    from torch.distributed import DistStoreError

    gone = []
    try:
        store.set(f"there/{rank}", "1")
        for other in range(world):
            try:
                store.wait([f"there/{other}"], ROLL_CALL)
            except DistStoreError:
                gone.append(other)
    except RuntimeError:  # the store is gone, and it lives in rank 0 or in torchrun's agent
        gone.append(0)
    return gone


def sum_over_ranks(tensor):
    """Replace a tensor by its sum over all ranks, in place; nothing for one alone."""
    if rank_and_world()[1] == 1:
        return
    import torch.distributed as dist

    dist.all_reduce(tensor)
