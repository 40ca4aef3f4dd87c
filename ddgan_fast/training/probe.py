"""What a training would be, before it begins (`ddgan train --dry-run`): settings, parameters, memory, hours."""

import time

import torch
import yaml

from ddgan_fast.config import to_dict
from ddgan_fast.distributed import rank_and_world, sum_over_ranks
from ddgan_fast.models import build_discriminator, build_generator
from ddgan_fast.precision import PRECISIONS
from ddgan_fast.training.losses import d_loss, g_loss
from ddgan_fast.training.one_shot import arranged
from ddgan_fast.training.records import peak_memory_mb
from ddgan_fast.training.state import TrainState
from ddgan_fast.training.trainer import D_HALF, G_HALF, Trainer, draw, part_size, step_words

PROBE_STEPS, PROBE_SECONDS, WARM_UP = 20, 60.0, 3
COPIES = 5, 4  # of the weights of G and D: themselves, gradients, two moments, and G's average
MB = 2**20


def report(config, loader, device):
    """Yield lines about the training of a config on a device, with a loader of its data; the last ones after a probe of real steps."""
    train, (_, world) = config.train, rank_and_world()
    yield yaml.safe_dump(to_dict(config), sort_keys=False, default_flow_style=None).rstrip()
    with torch.device("meta"):
        networks = build_generator(config.model), build_discriminator(config.model)
    yield "parameters: {:,} of G, {:,} of D".format(*map(_count, networks))
    kept = state_bytes(networks)
    size = part_size(train, world * train.accumulate, config.model.network)
    activations = activation_bytes(config, networks, size)
    yield (
        f"memory: about {(kept + activations) / MB:,.0f} MB a device, of them {kept / MB:,.0f} MB weights, gradients, moments and average, "
        f"and {activations / MB:,.0f} MB activations kept for the backward pass of {size} images"
    )
    yield f"iterations: {train.iterations:,} of {train.batch_size} images on {world} rank(s), {loader.steps_per_epoch:,} a pass"
    seconds, steps = probe(config, loader, device)
    yield (
        f"expected: {train.iterations * seconds / 3600:,.1f} h at {train.batch_size / seconds:,.1f} img/s ({1e3 * seconds:,.1f} ms a step, "
        f"mean of {steps}); peak memory {peak_memory_mb(device):,.0f} MB"
    )


def _count(network):
    return sum(p.numel() for p in network.parameters())


def state_bytes(networks):
    """Bytes of what stays from step to step, for (generator, discriminator): float32 in every precision."""
    return sum(4 * copies * _count(network) for copies, network in zip(COPIES, networks, strict=True))


def activation_bytes(config, networks, size):
    """Bytes that autograd keeps in the half of a step that needs more, for a part of `size` images; counted on the meta device.

    Of the plain torch operations in float32; in half precision, half of that.
    """
    generator, discriminator = networks
    model = config.model
    generator.checkpoint_activations = config.train.checkpoint_activations
    weights = {p.untyped_storage()._cdata for network in networks for p in network.parameters()}
    arrangement, schedule = arranged(config, networks)
    schedule = schedule.to("meta")
    with torch.device("meta"):
        images = torch.empty(size, *model.sample_shape)
        seeds, t, _ = step_words(0, 0, torch.arange(size), schedule.steps)
    found = []
    for half, loss in ((D_HALF, d_loss), (G_HALF, g_loss)):
        discriminator.requires_grad_(half == D_HALF)
        storages = {}

        def keep(tensor, storages=storages):
            storage = tensor.untyped_storage()
            storages[storage._cdata] = storage  # held, so that no other takes its address
            return tensor

        options = {"r1_gamma": config.train.r1_gamma} if half == D_HALF else {}
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            held = loss(*arrangement, schedule, images, draw(model, half, seeds, t), **options)
        found.append(sum(storage.nbytes() for key, storage in storages.items() if key not in weights))
        del held
    return max(found) * PRECISIONS[config.train.precision].itemsize // 4


def probe(config, loader, device):
    """(mean seconds of a training step, how many were timed): of 20 steps behind others, or of those that a minute holds, one at least."""
    state = TrainState(config, device)
    trainer, batches = Trainer(state, loader.steps_per_epoch), loader.batches()

    def seconds_of(steps):
        start = time.perf_counter()
        for _ in range(steps):
            trainer.step(next(batches))
        trainer.metrics()  # waits for the device
        return time.perf_counter() - start

    seconds_of(1)  # kernels are compiled
    once = torch.tensor(seconds_of(1), device=device)
    sum_over_ranks(once)
    once = once.item() / trainer.world  # the same on all ranks, which must make the same steps
    seconds_of(min(WARM_UP, int(PROBE_SECONDS / 4 / once)))
    steps = max(1, min(PROBE_STEPS, int(PROBE_SECONDS / once)))
    return seconds_of(steps) / steps, steps
