"""Samplers of the diffusion models that paper Table 1 compares DDGAN with; `SAMPLERS` has them by name.

All run on the variance-preserving diffusion of `config.Diffusion` in continuous time, x_t = alpha(t) x_0 + sigma(t) noise, t in [0, 1]
(Song et al. 2021, "Score-based generative modeling through SDEs", Eq. 11; DDPM's alpha_bar is alpha^2), and are called alike:

    network(x, t) -> epsilon [B, ...], the noise in x; the score of x_t is -epsilon / sigma(t).  t: [B] float32 in (0, 1].
    x: [B, ...] floating point, standard normal: x_1.
    nfe: network evaluations per sample; a step costs one or, where the sampler says so, two.
    generator: torch.Generator on x's device that draws the noise of the steps, None for torch's own.

They return samples [B, ...] in x's dtype, and raise InputError for an x that is not floating point and an nfe that makes no whole steps.
"""

import math
from itertools import pairwise

import torch

from ddgan_fast.config import Diffusion
from ddgan_fast.errors import InputError

BETA_MIN, BETA_MAX = Diffusion.beta_min, Diffusion.beta_max
EPSILON = Diffusion.epsilon  # where the continuous-time samplers end: beta / sigma has a pole at 0
TRAINED_STEPS = 1000  # of the DDPM whose steps DDIM and FastDDPM skip
SNR = 0.16  # r, the signal-to-noise ratio of a Langevin step


def levels(t):
    """(alpha, sigma) at time t: coefficients of x_0 and of the noise in x_t."""
    log = _log_alpha_bar(t)
    return math.exp(log / 2), math.sqrt(-math.expm1(log))


@torch.no_grad()
def ddpm(network, x, nfe=1000, generator=None):
    """Ancestral sampling in equal steps: Ho et al. 2020, Algorithm 2 with sigma_t^2 = beta_t."""
    _check("ddpm", x, nfe)
    for i in range(nfe, 0, -1):
        now, after = i / nfe, (i - 1) / nfe
        beta, (_, sigma) = _beta(after, now), levels(now)
        x = (x - beta / sigma * _evaluate(network, x, now)) / math.sqrt(1 - beta)
        if i > 1:
            x = x + math.sqrt(beta) * _noise(x, generator)
    return x


def ddim(network, x, nfe=50, generator=None):
    """Deterministic: Song et al. 2021, "Denoising diffusion implicit models", Eq. 12 with eta = 0. Draws nothing from the generator."""
    _check("ddim", x, nfe, most=TRAINED_STEPS)
    return _skip_steps(network, x, nfe, 0.0, generator)


def fast_ddpm(network, x, nfe=50, generator=None):
    """DDPM's reverse process on a few of its steps: Kong & Ping 2021, "On fast sampling of diffusion probabilistic models" (FastDPM).

    Their family is DDIM's with kappa for eta; kappa = 1 draws from the posterior of the shortened chain as DDPM does from that of the
    whole one. Their STEP schedule: the network is asked at times it was trained on.
    """
    _check("fast_ddpm", x, nfe, most=TRAINED_STEPS)
    return _skip_steps(network, x, nfe, 1.0, generator)


@torch.no_grad()
def probability_flow(network, x, nfe=140, generator=None):
    """Probability flow ODE, Song et al. 2021, Eq. 13, from t = 1 to EPSILON by Heun's method.  Two evaluations a step.

    Song et al. use an adaptive Runge-Kutta 4(5), whose NFE depends on the weights; equal steps of sqrt(t), which are short where beta /
    sigma grows, make it a choice. Draws nothing from the generator; leaves the noise of sigma(EPSILON) = 0.01.
    """
    _check("probability_flow", x, nfe, per_step=2)

    def slope(x, t):
        return (_evaluate(network, x, t) / levels(t)[1] - x) * (BETA_MIN + t * (BETA_MAX - BETA_MIN)) / 2

    steps = nfe // 2
    for now, after in pairwise((1 + (math.sqrt(EPSILON) - 1) * i / steps) ** 2 for i in range(steps + 1)):
        first = slope(x, now)
        second = slope(x + (after - now) * first, after)
        x = x + (after - now) / 2 * (first + second)
    return x


@torch.no_grad()
def predictor_corrector(network, x, nfe=2000, generator=None):
    """Reverse diffusion and one Langevin correction per step: Song et al. 2021, Algorithms 3 and 5 (VP).  Two evaluations a step.

    Equal steps from t = 1 to EPSILON; leaves the noise of sigma(EPSILON) = 0.01. The norms are means over the batch, as theirs: a
    step size that depended on its own sample would shift the distribution.
    """
    _check("predictor_corrector", x, nfe, per_step=2)
    steps = nfe // 2
    for now, after in pairwise(1 + (EPSILON - 1) * i / steps for i in range(steps + 1)):
        beta = _beta(after, now)
        score = _evaluate(network, x, now) / -levels(now)[1]
        x = (2 - math.sqrt(1 - beta)) * x + beta * score + math.sqrt(beta) * _noise(x, generator)
        score, noise = _evaluate(network, x, after) / -levels(after)[1], _noise(x, generator)
        size = 2 * (1 - beta) * (SNR * _mean_norm(noise) / _mean_norm(score)) ** 2
        x = x + size * score + (2 * size).sqrt() * noise
    return x


SAMPLERS = {  # name in Table 1: (function, NFE)
    "Score SDE (VP)": (predictor_corrector, 2000),
    "DDPM": (ddpm, 1000),
    "Probability Flow (VP)": (probability_flow, 140),
    "DDIM": (ddim, 50),
    "FastDDPM": (fast_ddpm, 50),
}


@torch.no_grad()
def _skip_steps(network, x, nfe, kappa, generator):
    """DDIM Eqs. 12 and 16, kappa for eta, over nfe of the trained steps with quadratic gaps (DDIM D.2, for CIFAR-10)."""
    kept = [max(i, -(-TRAINED_STEPS * i * i // nfe**2)) for i in range(nfe, -1, -1)]  # rounded up, and no step twice
    for now, after in pairwise(step / TRAINED_STEPS for step in kept):
        (alpha, sigma), (alpha_after, sigma_after) = levels(now), levels(after)
        epsilon = _evaluate(network, x, now)
        std = kappa * sigma_after / sigma * math.sqrt(_beta(after, now))
        x = alpha_after / alpha * (x - sigma * epsilon) + math.sqrt(sigma_after**2 - std**2) * epsilon
        if std > 0:
            x = x + std * _noise(x, generator)
    return x


def _log_alpha_bar(t):
    return -0.5 * (BETA_MAX - BETA_MIN) * t**2 - BETA_MIN * t


def _beta(after, now):
    """Variance that the diffusion adds from time `after` to the noisier `now`: 1 - alpha_bar(now) / alpha_bar(after)."""
    return -math.expm1(_log_alpha_bar(now) - _log_alpha_bar(after))


def _evaluate(network, x, t):
    return network(x, torch.full((len(x),), t, dtype=torch.float32, device=x.device))


def _noise(x, generator):
    return torch.empty_like(x).normal_(generator=generator)


def _mean_norm(x):
    return x.flatten(1).norm(dim=1).mean()


def _check(name, x, nfe, per_step=1, most=math.inf):
    if not x.is_floating_point():
        raise InputError(f"{name}: x is {x.dtype}; it must be floating point, standard normal numbers")
    if type(nfe) is not int or not per_step <= nfe <= most or nfe % per_step:
        below = f" to {most}" if most < math.inf else " or more"
        multiple = f", a multiple of {per_step}: every step takes {per_step}" if per_step > 1 else ""
        raise InputError(f"{name}: nfe = {nfe!r}; it must be a whole number of network evaluations, {per_step}{below}{multiple}")
