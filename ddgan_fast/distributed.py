"""The processes of one torchrun: which is this one, and waiting for the others."""

import os
from datetime import timedelta

from ddgan_fast.errors import InputError

PATIENCE = timedelta(days=7)  # ranks may be hours apart: one goes on with what a killed run left, another is slower


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
        try:
            dist.init_process_group("gloo", timeout=PATIENCE)
        except ValueError as error:
            raise InputError(f"WORLD_SIZE is set, and the other ranks cannot be found: {error}; start with torchrun") from error
    dist.barrier()
