"""One training iteration after the other (paper C.2; behaviour of the released code): D step, G step, averaged weights."""

import math

import torch
import torch.nn.functional as F

from ddgan_fast import noise
from ddgan_fast.diffusion import Schedule, denoise, draw_start
from ddgan_fast.errors import NonFiniteError
from ddgan_fast.models import memory_format
from ddgan_fast.ops import philox_normal
from ddgan_fast.training.losses import Draws, Named, d_loss, g_loss

D_HALF, G_HALF = 32, 40  # first noise stream of each half of a step; sampling has streams 0 to 2, data 16
PREVIEW_IMAGES, PREVIEW_POINTS = 64, 10_000


def draw(model, steps, half, step, seeds):
    """The random numbers of one half of training step `step`, a function of (seed, step, position in the global batch).

    seeds: [B] int64, see `position_seeds`; half: D_HALF or G_HALF.  Returns losses.Draws on the seeds' device, the noises by name.
    """
    t = noise.words(seeds, half, step, 1)[:, 0] * steps >> 32
    z = philox_normal(seeds, half + 3, step, (model.latent_dim,)) if model.latent else None
    return Draws(t, None, None, z, None, Named(seeds, step, tp1=half + 1, t=half + 2, posterior=half + 4))


def position_seeds(seed, batch, device):
    """One Philox key per position of the global batch: the training seed in its low half, the position in its high half."""
    return (torch.arange(batch, device=device) << 32) + seed


def learning_rate(base, floor, epoch, epochs):
    """Cosine decay from `base` in epoch 0 to `floor` in the last of `epochs`, constant within an epoch (Loshchilov & Hutter 2016)."""
    progress = epoch / (epochs - 1) if epochs > 1 else 0.0
    return floor + (base - floor) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2


class Trainer:
    """One training step after the other on a TrainState."""

    def __init__(self, state, steps_per_epoch):
        """steps_per_epoch: training steps in which the data are seen once; the learning rate changes as often."""
        self.state = state
        self.steps_per_epoch = steps_per_epoch
        self.device = next(state.generator.parameters()).device
        self.schedule = Schedule.of(state.config.diffusion).to(self.device)
        self.reset_sums()

    def reset_sums(self):
        """Start the means of the metrics anew."""
        steps = self.schedule.steps
        self.sums = {name: torch.zeros((), device=self.device) for name in ("d_loss", "g_loss", "r1")}
        self.counts = {"steps": 0, "r1": 0}
        self.loss_t = torch.zeros(steps, device=self.device)
        self.count_t = torch.zeros(steps, device=self.device)

    def rates(self):
        """(lr_g, lr_d) of the coming step."""
        train = self.state.config.train
        if not train.lr_decay:
            return train.lr_g, train.lr_d
        epoch, epochs = self.state.step // self.steps_per_epoch, -(-train.iterations // self.steps_per_epoch)
        return tuple(learning_rate(base, train.lr_min, epoch, epochs) for base in (train.lr_g, train.lr_d))

    def step(self, images):
        """One iteration on images [B, ...] in [-1, 1]: D step (R1 every r1_every steps), G step on the same images, EMA."""
        state, train = self.state, self.state.config.train
        model, steps = state.config.model, self.schedule.steps
        if model.dropout:  # which alone reads the global generator; so a resumed run repeats it
            torch.manual_seed(train.seed + state.step)
        if images.dim() == 4:
            images = images.to(memory_format=memory_format(self.device))
        seeds = position_seeds(train.seed, len(images), self.device)
        for optimiser, rate in zip((state.optim_g, state.optim_d), self.rates(), strict=True):
            optimiser.param_groups[0]["lr"] = rate

        state.discriminator.requires_grad_(True)
        gamma = train.r1_gamma if state.step % train.r1_every == 0 else 0.0
        draws = draw(model, steps, D_HALF, state.step, seeds)
        d = d_loss(state.generator, state.discriminator, self.schedule, images, draws, gamma)
        state.optim_d.zero_grad()
        d.total.backward()
        state.optim_d.step()

        state.discriminator.requires_grad_(False)
        g = g_loss(state.generator, state.discriminator, self.schedule, images, draw(model, steps, G_HALF, state.step, seeds))
        state.optim_g.zero_grad()
        g.total.backward()
        state.optim_g.step()
        state.ema.update_parameters(state.generator)
        state.step += 1
        self._add(d, g, draws.t)

    def _add(self, d, g, t):
        self.sums["d_loss"] += (d.real + d.fake).detach()
        self.sums["g_loss"] += g.total.detach()
        self.counts["steps"] += 1
        if d.r1 is not None:
            self.sums["r1"] += d.r1.detach()
            self.counts["r1"] += 1
        self.loss_t.index_add_(0, t, (F.softplus(-d.real_logits) + F.softplus(d.fake_logits)).float())
        self.count_t.index_add_(0, t, torch.ones_like(t, dtype=torch.float32))

    def metrics(self):
        """Means since the last call, as plain numbers. d_loss is without R1; d_loss_t is it for each t (paper Fig. 10).

        Raises NonFiniteError where a loss is NaN or infinite.
        """
        n, n_r1 = self.counts["steps"], self.counts["r1"]
        d, g, r1 = (self.sums[name].item() for name in ("d_loss", "g_loss", "r1"))
        loss_t = [total / count if count else None for total, count in zip(self.loss_t.tolist(), self.count_t.tolist(), strict=True)]
        self.reset_sums()
        if not all(map(math.isfinite, (d, g, r1))):
            raise NonFiniteError(
                f"step {self.state.step}: a loss is NaN or infinite (D {d / n}, G {g / n}, R1 {r1 / max(n_r1, 1)}). The last checkpoint is "
                "untouched; begin a new run with a lower --lr-g or --lr-d, or a larger --r1-gamma"
            )
        return {"d_loss": d / n, "d_loss_t": loss_t, "g_loss": g / n, "r1": r1 / n_r1 if n_r1 else None}

    @torch.no_grad()
    def preview(self):
        """Samples of the averaged generator for seeds 0, 1, ...: [N, C, H, W] or [N, 2]."""
        model = self.state.config.model
        count = PREVIEW_IMAGES if model.network == "unet" else PREVIEW_POINTS
        generator, steps = self.state.ema.module.eval(), self.schedule.steps
        seeds = torch.arange(count, device=self.device).split(self.state.config.train.batch_size)
        return torch.cat([denoise(generator, self.schedule, *draw_start(part, model, steps), seeds=part) for part in seeds])
