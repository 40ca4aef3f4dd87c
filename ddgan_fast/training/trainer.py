"""One training iteration after the other (paper C.2; behaviour of the released code): D step, G step, averaged weights."""

import math

import torch
import torch.nn.functional as F

from ddgan_fast import noise
from ddgan_fast.diffusion import Schedule, denoise, draw_start
from ddgan_fast.distributed import rank_and_world, sum_over_ranks
from ddgan_fast.errors import InputError, MissingError
from ddgan_fast.models import memory_format
from ddgan_fast.ops import philox_normal
from ddgan_fast.precision import autocast, convolutions
from ddgan_fast.training.graphs import Eager, Graphs
from ddgan_fast.training.losses import Draws, Named, d_loss, g_loss
from ddgan_fast.training.one_shot import arranged

STEP, D_HALF, G_HALF = 31, 32, 40  # noise streams: of a step's own seeds, the first of each of its halves; sampling has 0 to 2, data 16
PREVIEW_IMAGES, PREVIEW_POINTS = 64, 10_000


def step_words(seed, step, positions, steps):
    """What the noise of a training step is made from, a function of (seed, step, position in the global batch): int64 [3, B].

    seed: of the training.  positions: int64 [B].  Rows: a seed of its own for each image of this step; t of the D half, t of the G half,
    in 0..steps-1.
    """
    low, high, t_d, t_g = noise.words((positions << 32) + seed, STEP, step, 4).unbind(1)
    return torch.stack(((high << 32 | low) & noise.MAX_SEED, t_d * steps >> 32, t_g * steps >> 32))


def draw(model, half, seeds, t):
    """The random numbers of one half of a training step.

    seeds, t: [B] int64, from `step_words`; half: D_HALF or G_HALF.  Returns losses.Draws on the seeds' device, the noises by name.
    """
    z = philox_normal(seeds, half + 3, 0, (model.latent_dim,)) if model.latent else None
    return Draws(t, None, None, z, None, Named(seeds, tp1=half + 1, t=half + 2, posterior=half + 4))


def learning_rate(base, floor, epoch, epochs):
    """Cosine decay from `base` in epoch 0 to `floor` in the last of `epochs`, constant within an epoch (Loshchilov & Hutter 2016)."""
    progress = epoch / (epochs - 1) if epochs > 1 else 0.0
    return floor + (base - floor) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2


def runner_for(config, device):
    """The graphs.Eager or Graphs of the config's engine on a device. Raises MissingError where it has no graphs and they are asked for."""
    reason = _graphs_refuse(config, device)
    if config.train.engine == "graph" and reason:
        raise MissingError(f"engine 'graph': {reason}; take --engine eager or auto")
    return Eager() if config.train.engine == "eager" or reason else Graphs(device)


def _graphs_refuse(config, device):
    if device.type != "cuda":
        return "it needs a CUDA device"
    if config.train.optimizer == "apex":
        return "apex's step asks the host whether gradients are finite"
    if config.model.dropout and config.train.checkpoint_activations:
        return "dropout in activations that are computed twice needs the state of the random generator"
    return None


class Trainer:
    """One training step after the other on a TrainState, on this rank's share of each batch."""

    def __init__(self, state, steps_per_epoch, runner=None):
        """steps_per_epoch: training steps in which the data are seen once; the learning rate changes as often.

        runner: a graphs.Eager, else what the config's engine says.  Raises InputError for a batch that ranks and parts cannot share.
        """
        self.state, self.steps_per_epoch = state, steps_per_epoch
        train, model = state.config.train, state.config.model
        weight = next(state.generator.parameters())
        self.device = weight.device
        networks = [autocast(network, train.precision, self.device) for network in (state.generator, state.discriminator)]
        self.networks, schedule = arranged(state.config, networks)
        self.schedule = schedule.to(self.device)  # of the losses; sampling has the config's
        self.rank, self.world = rank_and_world()
        self.parts = self.world * train.accumulate  # of the global batch
        count = part_size(train, self.parts, model.network)
        self.positions = torch.arange(self.rank * train.accumulate * count, (self.rank + 1) * train.accumulate * count)
        # what a part of a step reads; these tensors stay where they are
        layout = memory_format(self.device) if model.network == "unet" else torch.contiguous_format
        self.images = torch.empty((count, *model.sample_shape), dtype=weight.dtype, device=self.device, memory_format=layout)
        self.words = torch.zeros((3, count), dtype=torch.int64, device=self.device)
        self.number = torch.zeros((), dtype=torch.int64, device=self.device)
        state.optim_d.place(3 + 2 * self.schedule.steps)  # D loss, R1, whether there was R1; for each t the sum of losses and how many
        state.optim_g.place(2)  # G loss; how many ranks want to stop
        self.runner = runner or runner_for(state.config, self.device)
        self.stop_flag = torch.zeros((), dtype=weight.dtype, pin_memory=self.device.type == "cuda")
        self.stop_copied = None
        self.since = 0  # steps since `metrics`

    def rates(self):
        """(lr_g, lr_d) of the coming step."""
        train = self.state.config.train
        if not train.lr_decay:
            return train.lr_g, train.lr_d
        epoch, epochs = self.state.step // self.steps_per_epoch, -(-train.iterations // self.steps_per_epoch)
        return tuple(learning_rate(base, train.lr_min, epoch, epochs) for base in (train.lr_g, train.lr_d))

    def step(self, images, stop=False):
        """One iteration: D step (R1 every r1_every steps), G step on the same images, EMA.

        images: this rank's share [B, ...] of the batch, in [-1, 1].  stop: whether this rank wants to end the training.
        Returns whether all ranks shall end it now; with several that is known one step later.
        """
        state, train = self.state, self.state.config.train
        gamma = train.r1_gamma if state.step % train.r1_every == 0 else 0.0
        words = step_words(train.seed, state.step, self.positions, self.schedule.steps)
        for optimiser, rate in zip((state.optim_g, state.optim_d), self.rates(), strict=True):
            optimiser.set_rate(rate)
        self.number.fill_(state.step)
        with convolutions(train.precision == "tf32", benchmark=self.device.type == "cuda"), self.runner.step():
            self._half(state.optim_d, D_HALF, ("D", gamma), lambda: self._d_backward(gamma), images, words)
            self.runner.run("D update", lambda: state.optim_d.step(self.number))
            self._half(state.optim_g, G_HALF, "G", self._g_backward, images, words, stop)
            self.runner.run("G update", self._g_update)
        state.step += 1
        self.since += 1
        return self._all_stop(stop)

    def _half(self, optimiser, half, name, backward, images, words, stop=False):
        """The gradients of one network, over all parts of the batch and all ranks."""
        optimiser.buffer.zero_()
        count = len(self.images)
        for part, columns in zip(images.split(count), words.split(count, dim=1), strict=True):
            if self.state.config.model.dropout:  # which alone reads the global generator; so a resumed run repeats it
                torch.manual_seed(int(columns[0, 0]) ^ half)
            self.images.copy_(part)
            columns = columns.contiguous()
            if self.device.type == "cuda":
                columns = columns.pin_memory()  # from there a copy does not wait
            self.words.copy_(columns, non_blocking=True)
            self.runner.run(name, backward)
        if stop:
            optimiser.tail[-1] = 1.0
        sum_over_ranks(optimiser.buffer)

    def _d_backward(self, gamma):
        state, (seeds, t, _) = self.state, self.words
        state.discriminator.requires_grad_(True)
        draws = draw(state.config.model, D_HALF, seeds, t)
        scale = state.optim_d.scale if state.optim_d.scaled else None
        d = d_loss(*self.networks, self.schedule, self.images, draws, gamma, scale)
        losses = (F.softplus(-d.real_logits) + F.softplus(d.fake_logits)).to(self.images.dtype)
        of_t = (t == torch.arange(self.schedule.steps, device=self.device)[:, None]).to(losses)
        r1 = (torch.zeros_like(d.real), torch.zeros_like(d.real)) if d.r1 is None else (d.r1.detach(), torch.ones_like(d.real))
        means = torch.stack(((d.real + d.fake).detach(), *r1)) / self.parts
        state.optim_d.backward(d.total / self.parts, torch.cat((means, of_t @ losses, of_t.sum(dim=1))))

    def _g_backward(self):
        state, (seeds, _, t) = self.state, self.words
        state.discriminator.requires_grad_(False)
        g = g_loss(*self.networks, self.schedule, self.images, draw(state.config.model, G_HALF, seeds, t))
        state.optim_g.backward(g.total / self.parts, g.total.detach()[None] / self.parts)

    def _g_update(self):
        self.state.optim_g.step(self.number)
        self.state.ema.update(first=self.state.step == 0)  # a graph is recorded later

    def _all_stop(self, stop):
        if self.world == 1:
            return stop
        if self.stop_copied is not None:
            self.stop_copied.synchronize()
        decided = bool(self.stop_flag)  # of the step before, so that the device has this one to do while the host waits
        self.stop_flag.copy_(self.state.optim_g.tail[-1], non_blocking=True)
        if self.device.type == "cuda":
            self.stop_copied = torch.cuda.current_stream(self.device).record_event()
        return decided

    def metrics(self):
        """Means over the steps since the last call and over all ranks, as plain numbers; this waits for the device.

        d_loss is without R1; d_loss_t is it for each t (paper Fig. 10).  Updates with a gradient or loss that is not finite
        changed nothing and do not count: `skipped` is how many they were, `bad_step` the step of the first or None.  A mean of nothing is
        None.
        """
        steps, self.since = self.since, 0
        skipped_d, bad_d, norm_d, (d, r1, r1_steps, *of_t) = self.state.optim_d.report()
        skipped_g, bad_g, norm_g, (g, _) = self.state.optim_g.report()
        loss_t, count_t = of_t[: self.schedule.steps], of_t[self.schedule.steps :]
        bad = [step for step in (bad_d, bad_g) if step >= 0]
        steps_d, steps_g = steps - skipped_d, steps - skipped_g
        found = {
            "d_loss": _mean(d, steps_d),
            "d_loss_t": [_mean(total, count) for total, count in zip(loss_t, count_t, strict=True)],
            "g_loss": _mean(g, steps_g),
            "r1": _mean(r1, r1_steps),
            "d_gradient_norm": _mean(norm_d, steps_d),
            "g_gradient_norm": _mean(norm_g, steps_g),
            "skipped": skipped_d + skipped_g,
            "bad_step": min(bad) if bad else None,
        }
        if self.state.optim_d.scaled:
            found |= {"d_loss_scale": self.state.optim_d.scale.item(), "g_loss_scale": self.state.optim_g.scale.item()}
        return found

    @torch.no_grad()
    def preview(self):
        """Samples of the averaged generator for seeds 0, 1, ...: [N, C, H, W] or [N, 2]."""
        model = self.state.config.model
        count = PREVIEW_IMAGES if model.network == "unet" else PREVIEW_POINTS
        generator, schedule = self.state.ema.module.eval(), Schedule.of(self.state.config.diffusion).to(self.device)
        seeds = torch.arange(count, device=self.device).split(len(self.images))
        return torch.cat([denoise(generator, schedule, *draw_start(part, model, schedule.steps), seeds=part) for part in seeds])


def check(config, device):
    """Raises what a Trainer of this config on the device would, before there is one."""
    part_size(config.train, rank_and_world()[1] * config.train.accumulate, config.model.network)
    runner_for(config, device)


def _mean(total, count):
    """None of nothing."""
    return total / count if count else None


def part_size(train, parts, network):
    """Images of one part of the global batch. Raises InputError where `parts` do not divide it, or the discriminator's groups a part."""
    size, left = divmod(train.batch_size, parts)
    of = f"{parts} parts (ranks times accumulate = {train.accumulate})"
    if left or not size:
        raise InputError(f"batch_size = {train.batch_size}: it must be a multiple of its {of}")
    if network == "unet" and size > 4 and size % 4:
        raise InputError(
            f"batch_size = {train.batch_size} in {of} is {size} a part; above 4 that must be a multiple of 4 (minibatch stddev)"
        )
    return size
