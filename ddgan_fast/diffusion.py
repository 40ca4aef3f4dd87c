"""The forward diffusion, its schedule, and the sampler (paper Sec. 3, App. A and C.2).

Indices as in the released code: `t` in 0..T-1 numbers the cleaner image of a pair (x_t, x_{t+1}); index 0 is the clean image.
"""

import copy
import dataclasses

import numpy as np
import torch

from ddgan_fast import noise as philox
from ddgan_fast import ops
from ddgan_fast.errors import InputError

PREDICTIONS = "x0", "x_t", "noise"
BETA_0 = 1e-8  # the released schedule starts with this, not with 1 - alpha_bar(epsilon)


class Schedule:
    """Coefficients of the variance-preserving diffusion with T = `steps` large steps (paper Eq. 16).

    betas, a, sigma, a_cum, sigma_cum: [T + 1] float32; x_k = a[k] x_{k-1} + sigma[k] noise = a_cum[k] x_0 + sigma_cum[k] noise.
    Index 0 is the clean image: a_cum[0] = 1, sigma_cum[0] = 0.
    posterior: [3, T] float32; rows: coefficient of what the generator puts out, of x_{t+1}, standard deviation (0 at t = 0), as
    `posterior_table` has them for the prediction.
    pair: [4, T] float32; column t: a_cum[t], sigma_cum[t], a[t + 1], sigma[t + 1], for `ops.q_sample_pair`.
    The betas are computed in float64 and rounded to float32; all that follows is float32, as in the released code, except that
    the products in a_cum are rounded once. They are the same on every CPU, but for the last digit of `posterior`.
    Raises InputError for steps < 1, for an epsilon outside [0, 1) and for another prediction than x0, x_t or noise.
    """

    def __init__(self, steps=4, beta_min=0.1, beta_max=20.0, epsilon=1e-3, prediction="x0"):
        if steps < 1 or not 0 <= epsilon < 1:
            raise InputError(f"Schedule: steps = {steps}, epsilon = {epsilon}; steps must be 1 or more and epsilon in [0, 1)")
        if prediction not in PREDICTIONS:
            raise InputError(f"Schedule: prediction {prediction!r}; there are {', '.join(PREDICTIONS)}")
        self.steps = steps
        s = np.arange(steps + 1) / steps * (1 - epsilon) + epsilon
        alpha_bar = np.exp(2 * (-0.25 * s**2 * (beta_max - beta_min) - 0.5 * s * beta_min))
        betas = np.concatenate(([BETA_0], 1 - alpha_bar[1:] / alpha_bar[:-1])).astype(np.float32)
        self.betas = torch.from_numpy(betas)
        a, sigma = np.sqrt(1 - betas), np.sqrt(betas)  # the last digit of torch's square root depends on the CPU
        a_cum = np.cumprod(a, dtype=np.float64).astype(np.float32)
        self.a, self.sigma, self.a_cum, self.sigma_cum = map(torch.from_numpy, (a, sigma, a_cum, np.sqrt(1 - a_cum**2)))
        self.posterior = posterior_table(self.betas[1:], prediction)
        self.pair = torch.stack((self.a_cum[:-1], self.sigma_cum[:-1], self.a[1:], self.sigma[1:]))

    @classmethod
    def of(cls, diffusion):
        """The schedule of a config.Diffusion."""
        return cls(**dataclasses.asdict(diffusion))

    def to(self, device):
        """The same schedule with its tensors on `device`."""
        moved = copy.copy(self)
        moved.__dict__ |= {name: value.to(device) for name, value in vars(self).items() if torch.is_tensor(value)}
        return moved


def posterior_table(beta, prediction="x0"):
    """How x_t is drawn from what the generator puts out and x_{t+1}: float [T] -> [3, T], rows: coefficient of either, standard deviation.

    prediction: x0, and x_t is drawn from q(x_t | x_{t+1}, x_0), paper Eq. 11; noise, the one in x_{t+1}, and x_t is drawn from the same
    in the form of Eq. 12; x_t, and nothing is left to draw.
    """
    if prediction == "x_t":
        return torch.stack((torch.ones_like(beta), torch.zeros_like(beta), torch.zeros_like(beta)))
    alpha = 1 - beta
    alpha_bar = torch.cumprod(alpha, 0)
    alpha_bar_prev = torch.cat((torch.ones(1), alpha_bar[:-1]))
    variance = beta * (1 - alpha_bar_prev) / (1 - alpha_bar)
    std = torch.exp(0.5 * torch.log(variance.clamp(min=1e-20)))
    std[0] = 0  # the last step adds no noise
    if prediction == "noise":
        return torch.stack((-beta / torch.sqrt(alpha * (1 - alpha_bar)), 1 / torch.sqrt(alpha), std))
    coef_x0 = beta * torch.sqrt(alpha_bar_prev) / (1 - alpha_bar)
    coef_x_t = (1 - alpha_bar_prev) * torch.sqrt(alpha) / (1 - alpha_bar)
    return torch.stack((coef_x0, coef_x_t, std))


def _at(table, t, like):
    """table[t] shaped to broadcast over the samples of `like`."""
    return table[t].reshape(-1, *[1] * (like.dim() - 1))


def q_sample(schedule, x0, t, noise):
    """x_t from x0, paper Eq. 8.  x0, noise: [B, ...]; t: [B] int64 in 0..T.  Returns x0's dtype."""
    return (_at(schedule.a_cum, t, x0) * x0 + _at(schedule.sigma_cum, t, x0) * noise).to(x0.dtype)


def q_sample_pair(schedule, x0, t, noise_t, noise_tp1):
    """(x_t, x_{t+1}) of one Markov chain: x_{t+1} is drawn from x_t, paper Eq. 7.  t: [B] int64 in 0..T-1."""
    return ops.q_sample_pair(x0, t, schedule.pair, (noise_t, noise_tp1))


def denoise(generator, schedule, x, z, noise=None, start=None, seeds=None, as_uint8=False):
    """Samples from x_{start+1}: at t = start..0, x0 = generator(x, t, z[t]), then a posterior step (paper Eq. 6).

    Where the schedule is of another prediction than x0, the generator's output is that, and so is the step.

    x: [B, ...] standard normal (start = T - 1, the default), or an image diffused to step start + 1.
    z: [T, B, nz], noise: [T, B, ...]; entry i is used at t = i; z may be None for a generator without latent.
    seeds: [B] int64, which name the noise of the steps in place of `noise`.
    generator: also one with `bind` (models.inference), which does at once what depends on z and t alone.
    Returns x_0 [B, ...], or as_uint8 the image [B, H, W, C] of `ops.posterior_final_uint8`; NFE = start + 1.
    """
    table = schedule.posterior
    evaluate = bound(generator, z)
    for i in range(schedule.steps - 1 if start is None else start, -1, -1):
        x0 = evaluate(x, i)
        if i == 0 and as_uint8:
            return ops.posterior_final_uint8(x0, x, table)
        source = {"noise": noise[i]} if seeds is None else {"seeds": seeds, "step": i}
        x = ops.posterior_step(x0, x, torch.full((x.shape[0],), i, device=x.device), table, **source)
    return x


def bound(generator, z):
    """The function (x_t, t) -> x0 of a generator with its latents z [T, B, nz] or None, t one index for all images."""
    if hasattr(generator, "bind"):
        return generator.bind(z)
    return lambda x, t: generator(x, torch.full((x.shape[0],), t, device=x.device), None if z is None else z[t])


def draw_start(seeds, model, steps):
    """What `denoise` needs besides the seeds for the images that they name: (x_T [B, ...], z [T, B, nz] or None), float32.

    seeds: [B] int64; model: config.Model.  Row i depends on seeds[i] alone (noise.py); x_T has step T, z has step t.
    """
    x = ops.philox_normal(seeds, philox.X_T, steps, model.sample_shape)
    z = torch.stack([ops.philox_normal(seeds, philox.Z, t, (model.latent_dim,)) for t in range(steps)]) if model.latent else None
    return x, z


def draw_noise(seeds, model, steps):
    """The noise of all posterior steps that seeds name, [T, B, ...] float32, as `denoise` takes it.  Arguments: see `draw_start`."""
    return torch.stack([ops.philox_normal(seeds, philox.POSTERIOR, t, model.sample_shape) for t in range(steps)])
