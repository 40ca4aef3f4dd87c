"""What the tests of several ranks run: `python two_ranks.py CASE OUT` with the variables of torchrun, one process a rank."""

import json
import os
import signal
import sys
from pathlib import Path

import torch

from ddgan_fast import distributed
from ddgan_fast.config import override, preset
from ddgan_fast.data import open_loader
from ddgan_fast.training.state import TrainState
from ddgan_fast.training.trainer import Trainer


def settings(**changes):
    """Five steps of `tiny`, the third with R1."""
    return override(preset("tiny"), {"batch_size": 16, "r1_every": 2, "r1_gamma": 0.5, "iterations": 5} | changes)


def train(config, steps=5):
    """The float64 state after so many steps of this rank, and the Trainer."""
    rank, world = distributed.rank_and_world()
    state, loader = TrainState(config), open_loader(config, "cpu", rank, world)
    for network in (state.generator, state.discriminator, state.ema.module):
        network.double()
    trainer = Trainer(state, loader.steps_per_epoch)
    batches = loader.batches()
    for _ in range(steps):
        trainer.step(next(batches))
    return state, trainer


def weights(state):
    """One tensor of all weights and averages."""
    networks = state.generator, state.discriminator, state.ema.module
    return torch.cat([p.detach().flatten() for network in networks for p in network.parameters()])


def equal(out):
    """Weights, metrics, and what the ranks sent each other."""
    import torch.distributed as dist

    sent, reduce = [], dist.all_reduce

    def counted(tensor, *arguments, **options):
        sent.append(tensor.numel())
        return reduce(tensor, *arguments, **options)

    dist.all_reduce = counted
    state, trainer = train(settings())
    torch.save(weights(state), out / f"weights-{trainer.rank}.pt")
    (out / f"found-{trainer.rank}.json").write_text(json.dumps({"metrics": trainer.metrics(), "sent": sent}))


def dies(out):
    """The second rank is killed in the middle."""
    rank, _ = distributed.rank_and_world()
    train(settings(), 2)
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    train(settings(), 2)


def breaks(out):
    """The second rank meets an error of its own, which torch raises as RuntimeError too."""
    train(settings(), 2)
    if distributed.rank_and_world()[0] == 1:
        torch.zeros(2) @ torch.zeros(3)
    train(settings(), 2)


def hangs(out):
    """The second rank stops answering."""
    rank, _ = distributed.rank_and_world()
    train(settings(), 2)
    if rank == 1:
        signal.pause()
    train(settings(), 2)


if __name__ == "__main__":
    torch.set_num_threads(1)
    patience = 4 if sys.argv[1] == "hangs" else 60
    try:
        with distributed.together(torch.device("cpu"), patience):
            {"equal": equal, "dies": dies, "breaks": breaks, "hangs": hangs}[sys.argv[1]](Path(sys.argv[2]))
    except distributed.ResourceError as error:
        sys.exit(str(error))
