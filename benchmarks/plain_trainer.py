"""A DDGAN training loop as a user of the released code has it, written from its behaviour: what ddgan_fast.training is measured against.

Real, R1 and fake have a backward pass each; the fake of the D step keeps a graph through G, whose gradients are thrown away; torch's Adam,
and an average of the weights parameter by parameter. Networks and losses are plain torch in NCHW, FIR filters depthwise convolutions.
`Loop` names what a user can change about it step by step.
"""

from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ddgan_fast.diffusion import Schedule
from ddgan_fast.ops import backend, philox_normal
from ddgan_fast.precision import autocast, convolutions
from ddgan_fast.training.ema import EMA
from ddgan_fast.training.losses import Draws, draw_fake, draw_pair
from ddgan_fast.training.trainer import D_HALF, G_HALF, draw, step_words


@dataclass(frozen=True)
class Loop:
    """What a PlainTrainer does otherwise than released code; by default nothing."""

    precision: str = "fp32"
    freeze_g: bool = False
    """The fake of the D step is drawn without a graph."""
    one_batch: bool = False
    """Real and fake go through D together, on steps without R1."""
    channels_last: bool = False
    kernels: bool = False
    """The ops choose their backend, and make their noise themselves."""
    fused: bool = False
    """Fused Adam, and one call for the average of all weights."""
    compiled: bool = False
    """torch.compile; D runs as it is on steps with R1, whose double backward compiled code does not have."""


class PlainTrainer:
    """One training step after the other on copies of the networks of a TrainState, in their dtype; models without dropout, one rank.

    d_loss (without R1), r1 (None on steps without) and g_loss are the last step's, as tensors.
    With `named` noise and t are those of ddgan_fast.training.Trainer on the same step; without, they come from torch.randn and randint.
    """

    def __init__(self, state, steps_per_epoch, loop=None, named=True):
        """state: has generator, discriminator and config, and stays as it is.  steps_per_epoch: as of Trainer."""
        self.config, self.loop, self.named = state.config, loop or Loop(), named
        self.steps_per_epoch, self.count = steps_per_epoch, 0
        self.layout = torch.channels_last if self.loop.channels_last else torch.contiguous_format
        networks = [deepcopy(network).to(memory_format=self.layout) for network in (state.generator, state.discriminator)]
        self.generator, self.discriminator = (network.requires_grad_(True) for network in networks)
        self.device = next(self.generator.parameters()).device
        self.schedule = Schedule.of(self.config.diffusion).to(self.device)
        train = self.config.train
        self.ema = EMA(self.generator, train.ema_decay)
        betas, fused = (train.beta1, train.beta2), self.loop.fused or None
        self.optim_g = torch.optim.Adam(self.generator.parameters(), train.lr_g, betas, fused=fused)
        self.optim_d = torch.optim.Adam(self.discriminator.parameters(), train.lr_d, betas, fused=fused)
        epochs = -(-train.iterations // steps_per_epoch)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR
        self.rates = [cosine(of, epochs - 1, train.lr_min) for of in (self.optim_g, self.optim_d) if train.lr_decay]
        wrap = torch.compile if self.loop.compiled else lambda network, dynamic: network
        compiled = [wrap(network, dynamic=False) for network in networks]
        self.g, self.d, self.d_of_r1 = (autocast(each, self.loop.precision, self.device) for each in (*compiled, self.discriminator))
        self.d_loss = self.r1 = self.g_loss = None

    def step(self, images, after_d=lambda: None):
        """One iteration on images [B, ...] in [-1, 1]: D step, `after_d()`, G step, average."""
        train = self.config.train
        gamma = train.r1_gamma if self.count % train.r1_every == 0 else 0.0
        if self.count and self.count % self.steps_per_epoch == 0:
            for rate in self.rates:
                rate.step()
        if images.dim() == 4:
            images = images.contiguous(memory_format=self.layout)
        gpu = self.device.type == "cuda"
        with convolutions(self.loop.precision == "tf32", benchmark=gpu), backend.force(None if self.loop.kernels else "reference"):
            self._d_step(images, gamma)
            after_d()
            self._g_step(images)
        self.count += 1

    def _d_step(self, images, gamma):
        self.discriminator.requires_grad_(True)
        self.optim_d.zero_grad()
        draws, discriminator = self._draws(images, D_HALF), self.d_of_r1 if gamma else self.d
        x_t, x_tp1 = draw_pair(self.schedule, images, draws)
        if self.loop.one_batch and not gamma:
            fake_x_t = self._fake(x_tp1, draws)
            both = torch.cat((x_t, fake_x_t)), draws.t.repeat(2), torch.cat((x_tp1, x_tp1))
            real_logits, fake_logits = discriminator(*both, parts=2).chunk(2)
            self.r1, self.d_loss = None, F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()
            self.d_loss.backward()
        else:
            self.r1, self.d_loss = self._apart(discriminator, x_t, x_tp1, draws, gamma)
        self.d_loss = self.d_loss.detach()
        self.optim_d.step()

    def _apart(self, discriminator, x_t, x_tp1, draws, gamma):
        x_t.requires_grad_()
        logits = discriminator(x_t, draws.t, x_tp1)
        real, r1 = F.softplus(-logits).mean(), None
        real.backward(retain_graph=gamma > 0)
        if gamma:
            (gradient,) = torch.autograd.grad(logits.sum(), x_t, create_graph=True)
            r1 = gamma / 2 * gradient.flatten(1).square().sum(dim=1).mean()
            r1.backward()
        fake = F.softplus(discriminator(self._fake(x_tp1, draws), draws.t, x_tp1)).mean()
        fake.backward()
        return None if r1 is None else r1.detach(), real.detach() + fake

    def _fake(self, x_tp1, draws):
        with torch.no_grad() if self.loop.freeze_g else nullcontext():
            return draw_fake(self.g, self.schedule, x_tp1, draws)

    def _g_step(self, images):
        self.discriminator.requires_grad_(False)
        self.optim_g.zero_grad()
        draws = self._draws(images, G_HALF)
        _, x_tp1 = draw_pair(self.schedule, images, draws)
        loss = F.softplus(-self.d(draw_fake(self.g, self.schedule, x_tp1, draws), draws.t, x_tp1)).mean()
        loss.backward()
        self.g_loss = loss.detach()
        self.optim_g.step()
        self._average()

    @torch.no_grad()
    def _average(self):
        if self.loop.fused:
            self.ema.update(first=self.count == 0)
            return
        decay = self.ema.decay
        for average, parameter in zip(*self.ema.pairs, strict=True):
            if self.count == 0:
                average.copy_(parameter)
            else:
                average.mul_(decay).add_(parameter, alpha=1 - decay)

    def _draws(self, images, half):
        """The losses.Draws of one half of a step, on the device."""
        model, steps, size = self.config.model, self.schedule.steps, len(images)
        if not self.named:
            z = torch.randn(size, model.latent_dim, device=self.device) if model.latent else None
            tp1, noise, posterior = (torch.randn_like(images) for _ in range(3))
            return Draws(torch.randint(steps, (size,), device=self.device), tp1, noise, z, posterior)
        words = step_words(self.config.train.seed, self.count, torch.arange(size), steps)
        if self.device.type == "cuda":
            words = words.pin_memory().to(self.device, non_blocking=True)  # from there it does not wait
        draws = draw(model, half, words[0], words[1 if half == D_HALF else 2])
        if self.loop.kernels:
            return draws
        # made by whatever backend the Trainer's noise comes from: backends differ in the last bits
        seeds, *streams = draws.named
        with backend.force(None):
            z = philox_normal(seeds, half + 3, 0, (model.latent_dim,)) if model.latent else None
            tp1, noise, posterior = (philox_normal(seeds, stream, 0, images.shape[1:]) for stream in streams)
        return Draws(draws.t, tp1, noise, z, posterior)
