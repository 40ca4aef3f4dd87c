"""The loops that benchmarks/train.py compares, one by one, and the bytes that autograd keeps in one."""

import math
from dataclasses import replace
from functools import partial

import torch

from benchmarks.plain_trainer import Loop, PlainTrainer
from ddgan_fast.bench import randomise
from ddgan_fast.config import override
from ddgan_fast.ops import backend
from ddgan_fast.precision import convolutions
from ddgan_fast.training.state import TrainState
from ddgan_fast.training.trainer import Trainer, runner_for


class Plain:
    """A PlainTrainer in the benchmark."""

    def __init__(self, config, device, loop):
        self.trainer = PlainTrainer(fresh_state(config, device), config.train.iterations, loop)
        self.networks = self.trainer.generator, self.trainer.discriminator
        self.step = self.trainer.step

    def losses(self):
        """D loss, R1 (0 without) and G loss of the last step."""
        return [0.0 if value is None else value.item() for value in (self.trainer.d_loss, self.trainer.r1, self.trainer.g_loss)]

    @property
    def count(self):
        """Steps made."""
        return self.trainer.count

    def draw_freely(self):
        """From here on noise comes as a user draws it, unless the ops make it."""
        self.trainer.named = self.trainer.loop.kernels


class Ours:
    """A Trainer in the benchmark."""

    def __init__(self, config, device, precision, engine):
        state = fresh_state(override(config, {"precision": precision, "engine": engine}), device)
        self.runner = runner_for(state.config, device)
        self.trainer = Trainer(state, config.train.iterations, self.runner)
        self.networks = state.generator, state.discriminator
        self.run, self.runner.run = self.runner.run, self._run
        self.after_d = None

    def _run(self, name, part):
        self.run(name, part)
        if name == "D update":
            self.after_d()

    def step(self, images, after_d):
        self.after_d = after_d
        self.trainer.step(images)

    def losses(self):
        """As Plain.losses."""
        found = self.trainer.metrics()
        return [found[name] or 0.0 for name in ("d_loss", "r1", "g_loss")]

    @property
    def count(self):
        """Steps made."""
        return self.trainer.state.step

    def draw_freely(self):
        """Its noise is what a user gets."""


def numbers(loop):
    """The losses of a loop's last step, and the norms of D's and G's gradients."""
    norms = [torch.nn.utils.get_total_norm([p.grad for p in network.parameters()]).item() for network in reversed(loop.networks)]
    return loop.losses() + norms


def fresh_state(config, device):
    """A TrainState whose networks have no branch that vanishes, and whose logits are about 1; the same weights for a seed."""
    state = TrainState(config, device)
    for network in (state.generator, state.discriminator):
        randomise(network)
    steps, discriminator = config.diffusion.steps, state.discriminator
    x = torch.stack([torch.linspace(-1, 1, math.prod(config.model.sample_shape)).sin()] * steps).unflatten(1, config.model.sample_shape)
    with torch.no_grad(), convolutions(allow_tf32=False, benchmark=False), backend.force("reference"):
        # logits of 20 would leave one loss 0, and the gradients of another: a wrong kernel would not be seen
        logits = discriminator(x.to(device), torch.arange(steps, device=device), x.flip(1, 2).to(device))
        discriminator.head.weight /= logits.abs().max()
    return state


def techniques(gpu, with_rival=False):
    """[(technique, precision, function of (config, device) that builds it)], each on top of those before."""
    loop = Loop()
    found = [("plain, float32", loop)]
    if gpu:
        loop = replace(loop, precision="tf32")
        found.append(("TF32 convolutions", loop))
    changes = {"D step without G's backward pass": "freeze_g", "real and fake in one batch": "one_batch"}
    changes |= {"channels_last": "channels_last"} if gpu else {}
    for name, change in (changes | {"our kernels: " + ("Triton and CUDA" if gpu else "C++"): "kernels"}).items():
        loop = replace(loop, **{change: True})
        found.append((name, loop))
    rows = [(name, loop.precision, partial(Plain, loop=loop)) for name, loop in found]
    ours = [("our trainer: fused Adam, average in one call", loop.precision, "eager")]
    if gpu:
        ours += [("bfloat16", "bf16", "eager"), ("CUDA graphs", "bf16", "graph")]
    rows += [(name, precision, partial(Ours, precision=precision, engine=engine)) for name, precision, engine in ours]
    if with_rival:
        rival = replace(loop, precision="bf16" if gpu else "fp32", kernels=False, fused=True, compiled=True)
        rows.append((f"rival: torch.compile of the plain loop with all before our kernels, {rival.precision}", rival.precision,
                     partial(Plain, loop=rival)))  # fmt: skip
    return rows


class Kept:
    """Bytes that autograd keeps now, and the most at once, in tensors that are not among `others`."""

    def __init__(self, others=()):
        self.others = {tensor.untyped_storage().data_ptr() for tensor in others}
        self.users, self.now, self.most = {}, 0, 0

    def count(self):
        """A context in which what autograd saves is counted until it is freed."""
        return torch.autograd.graph.saved_tensors_hooks(partial(_Saved, self), lambda saved: saved.tensor)

    def change(self, tensor, by):
        place = tensor.untyped_storage().data_ptr()
        if place in self.others:
            return
        before = self.users.get(place, 0)
        self.users[place] = before + by
        if 0 in (before, before + by):  # its first user, or its last
            self.now += by * tensor.untyped_storage().nbytes()
            self.most = max(self.most, self.now)


class _Saved:
    """A tensor that autograd keeps."""

    def __init__(self, kept, tensor):
        self.kept, self.tensor = kept, tensor
        kept.change(tensor, 1)

    def __del__(self):
        self.kept.change(self.tensor, -1)
