"""What paper Fig. 6 compares DDGAN with on points in the plane: a vanilla GAN, WGAN-GP and DDPM, with the losses of their papers.

Their networks are those of ours, models.toy (paper C.5: 3 layers of 512), without the inputs that they have no use for, or with zeros
there; so depth, width and scale of inputs are the same. All train with Adam at a constant rate.
"""

import dataclasses
import logging
import math
import time
from typing import NamedTuple

import torch
import torch.nn.functional as F

from ddgan_fast.errors import CheckpointError, InputError, NonFiniteError
from ddgan_fast.experiments.samplers import TRAINED_STEPS, ddpm, levels
from ddgan_fast.models.toy import ToyDiscriminator, ToyGenerator
from ddgan_fast.pictures import whole_file
from ddgan_fast.training.ema import EMA

log = logging.getLogger(__name__)
CRITIC_STEPS, PENALTY = 5, 0.1  # Gulrajani et al. 2017; 10 is for images, this is what their code has for these points
EMA_DECAY = 0.999  # of DDPM; its paper's 0.9999 would keep the start for the length of the training, ours has this
LOG_EVERY = 2000


def gan_d_loss(real_logits, fake_logits):
    """-mean log D(real) - mean log(1 - D(fake)) (Goodfellow et al. 2014, Eq. 1).  Logits: [B]."""
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def gan_g_loss(fake_logits):
    """-mean log D(fake), the one that does not saturate (Goodfellow et al. 2014, Sec. 3)."""
    return F.softplus(-fake_logits).mean()


def gradient_penalty(critic, real, fake, mix):
    """mean (|gradient of the critic at mix * real + (1 - mix) * fake| - 1)^2 (Gulrajani et al. 2017, Eq. 3), with a graph to its weights.

    critic: function of points [B, 2] -> [B].  real, fake: [B, 2].  mix: [B, 1] in [0, 1].
    """
    between = torch.lerp(fake, real, mix).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return (gradient.norm(dim=1) - 1).square().mean()


def ddpm_loss(network, x0, t, noise):
    """mean |noise - network(x_t, t)|^2 (Ho et al. 2020, Eq. 14), over points and axes.

    network: as samplers has it, t in (0, 1].  x0, noise: [B, 2].  t: [B] int64 in 1..TRAINED_STEPS.
    """
    alpha, sigma = (column[:, None] for column in LEVELS.to(x0.device)[t - 1].to(x0.dtype).unbind(1))
    return F.mse_loss(network(alpha * x0 + sigma * noise, t / TRAINED_STEPS), noise)


LEVELS = torch.tensor([levels(i / TRAINED_STEPS) for i in range(1, TRAINED_STEPS + 1)], dtype=torch.float64)  # [TRAINED_STEPS, 2]


class GAN:
    """Goodfellow et al. 2014, with the Adam of DCGAN (Radford et al. 2016) at the rate of paper C.5."""

    setting = "non-saturating loss, Adam 0.5, 0.999"
    rate, betas = 1e-4, (0.5, 0.999)
    batches_per_step = 1

    def __init__(self, model, seed, device="cpu"):
        """model: config.Model of the networks.  seed: of weights and training noise, 0 to 2^32 - 1."""
        self.model, self.random = model, torch.Generator(device).manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network, self.discriminator = ToyGenerator(model).to(device), ToyDiscriminator(model).to(device)
        self.optim_g, self.optim_d = (_adam(network, self.rate, self.betas) for network in (self.network, self.discriminator))
        self.steps = 0

    def parts(self):
        """{name: what has a state_dict and changes in training}."""
        return {"network": self.network, "discriminator": self.discriminator, "optim_g": self.optim_g, "optim_d": self.optim_d}

    def step(self, batches):
        """One step of both networks; {loss: scalar}.  batches: iterator of points [B, 2]."""
        real = next(batches)
        with torch.no_grad():
            fake = self.generate(len(real), self.random)
        d = gan_d_loss(*self.judge(torch.cat((real, fake))).chunk(2))
        _update(self.optim_d, d)
        g = gan_g_loss(self.judge(self.generate(len(real), self.random)))
        _update(self.optim_g, g)
        return {"D": d, "G": g}

    def generate(self, count, random):
        """Points [count, 2] with a graph; random: torch.Generator of their latents."""
        z = torch.randn(count, self.model.latent_dim, generator=random, device=random.device)
        return self.network(z.new_zeros(count, 2), z.new_zeros(count), z)

    def judge(self, x):
        """Logits [B] of points [B, 2]."""
        return self.discriminator(x, x.new_zeros(len(x)), torch.zeros_like(x))

    @torch.no_grad()
    def sample(self, count, random, nfe=1):
        """Points [count, 2] in one evaluation."""
        return self.generate(count, random)


class WassersteinGAN(GAN):
    """WGAN-GP, Gulrajani et al. 2017, Algorithm 1: an iteration is 5 steps of the critic, each on points of its own, and one of G."""

    setting = f"{CRITIC_STEPS} critic steps, gradient penalty {PENALTY:g}, Adam 0.5, 0.9"
    betas = 0.5, 0.9
    batches_per_step = CRITIC_STEPS

    def step(self, batches):
        """As GAN's; "D" of the last critic step, without the penalty, is minus the estimate of the Wasserstein distance."""
        for _ in range(CRITIC_STEPS):
            real = next(batches)
            with torch.no_grad():
                fake = self.generate(len(real), self.random)
            real_values, fake_values = self.judge(torch.cat((real, fake))).chunk(2)
            d = fake_values.mean() - real_values.mean()
            mix = torch.rand(len(real), 1, generator=self.random, device=real.device)
            _update(self.optim_d, d + PENALTY * gradient_penalty(self.judge, real, fake, mix))
        g = -self.judge(self.generate(len(real), self.random)).mean()
        _update(self.optim_g, g)
        return {"D": d, "G": g}


class DDPM:
    """Ho et al. 2020: epsilon by the simple loss at 1,000 steps, of which sampling skips some; t / 1,000 is one more input.

    The rate is ten times that of C.5, at which it learns to tell the modes apart several times as slowly.
    """

    setting = f"simple loss at {TRAINED_STEPS} steps, Adam 0.9, 0.999, EMA {EMA_DECAY}"
    rate, betas = 1e-3, (0.9, 0.999)
    batches_per_step = 1

    def __init__(self, model, seed, device="cpu"):
        """Arguments as GAN's."""
        self.random = torch.Generator(device).manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = ToyGenerator(dataclasses.replace(model, latent=False)).to(device)
        self.optimiser = _adam(self.network, self.rate, self.betas)
        self.ema, self.steps = EMA(self.network, EMA_DECAY), 0

    def parts(self):
        """As GAN's."""
        return {"network": self.network, "ema": self.ema.module, "optimiser": self.optimiser}

    def step(self, batches):
        """One step; {loss: scalar}."""
        x0 = next(batches)
        t = torch.randint(1, TRAINED_STEPS + 1, (len(x0),), generator=self.random, device=x0.device)
        noise = torch.randn(x0.shape, generator=self.random, device=x0.device)
        loss = ddpm_loss(self.network, x0, t, noise)
        _update(self.optimiser, loss)
        self.ema.update(first=self.steps == 0)
        return {"epsilon": loss}

    def sample(self, count, random, nfe=TRAINED_STEPS):
        """Points [count, 2] of the averaged network."""
        x = torch.randn(count, 2, generator=random, device=random.device)
        return ddpm(self.ema.module, x, nfe, random)


def _adam(network, rate, betas):
    return torch.optim.Adam(network.parameters(), rate, betas, fused=True)


def _update(optimiser, loss):
    """A step on the gradient of a scalar, which reaches this optimiser's weights alone."""
    optimiser.zero_grad()
    loss.backward(inputs=optimiser.param_groups[0]["params"])
    optimiser.step()


class Training(NamedTuple):
    """What a training cost: seconds in all, and mean milliseconds of an iteration."""

    seconds: float
    ms_per_step: float


def train(baseline, batches, iterations, watch=log.info, path=None, facts=None, saved=None):
    """Steps of a baseline until there are `iterations`, none where it has more; a Training.

    batches: (how many to leave out) -> iterator of points [B, 2] on its device.  watch: told a line of text every LOG_EVERY steps and at
    the end.  path: a file in which the training is kept as often, with `facts`, all that it depends on.  saved: what `read` gave of it.
    Raises NonFiniteError where a loss is not finite by then, CheckpointError where something is missing in `saved`.
    """
    seconds = _restore(baseline, saved, path) if saved else 0.0
    supply, start = batches(baseline.steps * baseline.batches_per_step), time.perf_counter() - seconds
    while baseline.steps < iterations:
        losses = baseline.step(supply)
        baseline.steps += 1
        if baseline.steps % LOG_EVERY and baseline.steps < iterations:
            continue
        values = {name: loss.item() for name, loss in losses.items()}
        if not all(map(math.isfinite, values.values())):
            raise NonFiniteError(f"step {baseline.steps}: a loss is NaN or infinite: {values}; take a lower rate or larger batches")
        seconds = time.perf_counter() - start
        text = ", ".join(f"{name} {value:.3f}" for name, value in values.items())
        watch(f"step {baseline.steps:,} of {iterations:,}: loss {text}, {1e3 * seconds / baseline.steps:.1f} ms a step")
        if path:
            _write(path, baseline, facts, seconds)
    return Training(seconds, 1e3 * seconds / baseline.steps)


def _write(path, baseline, facts, seconds):
    states = {name: part.state_dict() for name, part in baseline.parts().items()}
    with whole_file(path) as temporary:
        torch.save({"facts": facts, "steps": baseline.steps, "seconds": seconds, "random": baseline.random.get_state()} | states, temporary)


def read(path, facts):
    """What `train` kept in a file, on the CPU; None where there is none.

    Raises InputError where it is of other facts, CheckpointError where it is damaged.
    """
    if not path.exists():
        return None
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        before = saved["facts"]
        changed = [f"{name}: {before.get(name)} -> {value}" for name, value in facts.items() if before.get(name) != value]
    except Exception as error:  # torch and pickle raise of many kinds for a damaged file
        raise _unreadable(path, error) from error
    if changed:
        raise InputError(f"{path}: a training with other settings: {'; '.join(changed)}; give another --out")
    return saved


def _restore(baseline, saved, path):
    """Go on from what `read` gave; the seconds that it took until then."""
    try:
        for name, part in baseline.parts().items():
            part.load_state_dict(saved[name])
        baseline.random.set_state(saved["random"])
        baseline.steps = saved["steps"]
        return saved["seconds"]
    except (KeyError, ValueError, TypeError, RuntimeError) as error:  # what torch raises for a state of another kind
        raise _unreadable(path, error) from error


def _unreadable(path, error):
    return CheckpointError(f"{path}: cannot be read ({error}); remove it to train anew")
