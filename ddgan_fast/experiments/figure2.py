"""Paper Fig. 2: the true denoising distribution q(x_s | x_t) of a 1-D mixture: near a Gaussian for a short step, multimodal for a long one.

All distributions are mixtures of Gaussians, so nothing is sampled or approximated.
"""

from typing import NamedTuple

import numpy as np

from ddgan_fast.experiments.panels import new_figure, save_figure
from ddgan_fast.experiments.samplers import levels

TIMES = 0.0, 0.05, 0.12, 0.2, 0.3, 0.36  # of x_0 .. x_5 in the diffusion in continuous time, which ends at 1
GIVEN = 0.5  # the x_5 that is conditioned on
SIDE = np.linspace(-3, 3, 1201)  # where densities are drawn


class Mixture(NamedTuple):
    """A 1-D mixture of Gaussians: arrays of one size, weights with the sum 1."""

    weights: np.ndarray
    means: np.ndarray
    variances: np.ndarray

    def density(self, x):
        """p(x) for an array x."""
        return (self.weights * _normal(np.asarray(x)[..., None], self.means, self.variances)).sum(axis=-1)


DATA = Mixture(np.array([0.3, 0.4, 0.3]), np.array([-1.2, 0.2, 1.3]), np.array([0.03, 0.02, 0.04]))


def _normal(x, mean, variance):
    return np.exp(-((x - mean) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)


def diffused(mixture, alpha, variance):
    """The mixture of alpha * x + noise of this variance (paper Eq. 8)."""
    return Mixture(mixture.weights, alpha * mixture.means, alpha**2 * mixture.variances + variance)


def denoising(mixture, at, later, value):
    """q(x_at | x_later = value): the Bayes rule for each component.

    mixture: of x_0.  at, later: times, at < later.
    """
    (alpha, sigma), (alpha_later, _) = levels(at), levels(later)
    prior = diffused(mixture, alpha, sigma**2)
    step = alpha_later / alpha  # x_later = step * x_at + noise
    noise = 1 - step**2
    weights = prior.weights * _normal(value, step * prior.means, step**2 * prior.variances + noise)
    variances = 1 / (1 / prior.variances + step**2 / noise)
    means = variances * (prior.means / prior.variances + step * value / noise)
    return Mixture(weights / weights.sum(), means, variances)


def gaussian_of(mixture):
    """The Gaussian of the mixture's mean and variance, as a Mixture of one."""
    mean = (mixture.weights * mixture.means).sum()
    variance = (mixture.weights * (mixture.variances + mixture.means**2)).sum() - mean**2
    return Mixture(np.ones(1), np.array([mean]), np.array([variance]))


def draw(path):
    """Write the figure: q(x_0) .. q(x_5) above; below q(x_0 | x_5) .. q(x_4 | x_5), each with the Gaussian that a short step would have."""
    figure = new_figure(figsize=(2.3 * len(TIMES), 4.4), layout="constrained")
    axes, last = figure.subplots(2, len(TIMES), sharex=True), len(TIMES) - 1
    for k, (above, below) in enumerate(axes.T):
        alpha, sigma = levels(TIMES[k])
        above.fill_between(SIDE, diffused(DATA, alpha, sigma**2).density(SIDE), color="tab:blue", alpha=0.6, lw=0)
        above.set_title(f"$q(x_{k})$")
        if k < last:
            true = denoising(DATA, TIMES[k], TIMES[last], GIVEN)
            below.fill_between(SIDE, true.density(SIDE), color="tab:orange", alpha=0.6, lw=0, label="true")
            below.plot(SIDE, gaussian_of(true).density(SIDE), "k--", lw=1, label="Gaussian of its mean and variance")
            below.set_title(f"$q(x_{k} \\,|\\, x_{last}\\!=\\!X)$")
        else:
            below.axvline(GIVEN, color="tab:red")
            below.set_title(f"$x_{last} = X = {GIVEN}$")
    for axis in axes.flat:
        axis.set_yticks([])
        axis.set_ylim(bottom=0)
        axis.spines[["left", "right", "top"]].set_visible(False)
    axes[0, last].axvline(GIVEN, color="tab:red")
    figure.legend(*axes[1, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    save_figure(figure, path)
