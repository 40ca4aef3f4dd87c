"""The adversarial losses (paper Eq. 5, C.2), pure functions: all that is random comes in as `Draws`."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ddgan_fast import ops


class Named(NamedTuple):
    """Noise by name (noise.py): seeds [B] int64 of this training step, and the streams of noise_tp1, noise_t and noise_posterior."""

    seeds: Tensor
    tp1: int
    t: int
    posterior: int


class Draws(NamedTuple):
    """What one half of a training step draws: t [B] int64 in 0..T-1, z [B, nz] (None without latent), the rest [B, ...] normal.

    With `named` the three noises are None, and the ops make them where they need them.
    """

    t: Tensor
    noise_tp1: Tensor | None
    noise_t: Tensor | None
    z: Tensor | None
    noise_posterior: Tensor | None
    named: Named | None = None


class DLoss(NamedTuple):
    """Scalars with graph: total = real + fake + r1.  r1 is None where it was left out; logits are [B], detached."""

    total: Tensor
    real: Tensor
    fake: Tensor
    r1: Tensor | None
    real_logits: Tensor
    fake_logits: Tensor


def d_loss(generator, discriminator, schedule, images, draws, r1_gamma=0.0, r1_scale=None):
    """The discriminator's loss: mean softplus(-D(real)) + mean softplus(D(fake)) [+ R1].

    images: [B, ...] in [-1, 1].  The fake is drawn without a graph: no gradient reaches the generator.
    r1_gamma > 0 adds gamma / 2 * mean over samples of |gradient of sum D with respect to x_t|^2 (Mescheder et al. 2018), which
    needs second-order gradients of the discriminator.  r1_scale: a factor of D on the way to that gradient, which is divided by it
    afterwards, so that float16 holds it.  Without R1 real and fake are one batch, each with its own groups of minibatch stddev.
    """
    x_t, x_tp1 = draw_pair(schedule, images, draws)
    with torch.no_grad():
        fake_x_t = draw_fake(generator, schedule, x_tp1, draws)
    r1 = None
    if r1_gamma > 0:
        x_t.requires_grad_()
        real_logits = discriminator(x_t, draws.t, x_tp1)
        total = real_logits.sum() if r1_scale is None else r1_scale * real_logits.sum()
        (gradient,) = torch.autograd.grad(total, x_t, create_graph=True)
        gradient = gradient if r1_scale is None else gradient / r1_scale
        r1 = r1_gamma / 2 * gradient.flatten(1).square().sum(dim=1).mean()
        fake_logits = discriminator(fake_x_t, draws.t, x_tp1)
    else:
        both = torch.cat((x_t, fake_x_t)), draws.t.repeat(2), x_tp1.repeat(2, *[1] * (x_tp1.dim() - 1))
        real_logits, fake_logits = discriminator(*both, parts=2).chunk(2)
    real, fake = F.softplus(-real_logits).mean(), F.softplus(fake_logits).mean()
    total = real + fake if r1 is None else real + fake + r1
    return DLoss(total, real, fake, r1, real_logits.detach(), fake_logits.detach())


class GLoss(NamedTuple):
    """total: scalar with graph; logits [B], detached."""

    total: Tensor
    logits: Tensor


def g_loss(generator, discriminator, schedule, images, draws):
    """The generator's non-saturating loss: mean softplus(-D(fake)).  Arguments as in `d_loss`."""
    _, x_tp1 = draw_pair(schedule, images, draws)
    logits = discriminator(draw_fake(generator, schedule, x_tp1, draws), draws.t, x_tp1)
    return GLoss(F.softplus(-logits).mean(), logits.detach())


def draw_pair(schedule, images, draws):
    """(x_t, x_{t+1}) of the images (paper Eqs. 7 and 8)."""
    named = draws.named
    if named is None:
        return ops.q_sample_pair(images, draws.t, schedule.pair, (draws.noise_t, draws.noise_tp1))
    return ops.q_sample_pair(images, draws.t, schedule.pair, seeds=named.seeds, step=0, streams=(named.t, named.tp1))


def draw_fake(generator, schedule, x_tp1, draws):
    """x_t from x_{t+1} by the generator and the posterior (paper Eq. 6)."""
    x0 = generator(x_tp1, draws.t, None if draws.z is None else draws.z.to(x_tp1.dtype))
    named = draws.named
    if named is None:
        return ops.posterior_step(x0, x_tp1, draws.t, schedule.posterior, noise=draws.noise_posterior)
    source = {"seeds": named.seeds, "step": 0, "stream": named.posterior}
    return ops.posterior_step(x0, x_tp1, draws.t, schedule.posterior, **source)
