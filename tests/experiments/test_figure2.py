"""The densities of Fig. 2 against integrals on a grid."""

import numpy as np
import pytest

from ddgan_fast.experiments.figure2 import DATA, GIVEN, TIMES, denoising, diffused, gaussian_of
from ddgan_fast.experiments.samplers import levels

X = np.linspace(-8, 8, 16001)


def integral(values):
    return values.sum() * (X[1] - X[0])


@pytest.mark.parametrize("k", range(5))
def test_a_denoising_distribution_follows_from_the_bayes_rule(k):
    (alpha, sigma), (alpha_later, _) = levels(TIMES[k]), levels(TIMES[-1])
    step = alpha_later / alpha
    likelihood = np.exp(-((GIVEN - step * X) ** 2) / (2 * (1 - step**2)))
    want = likelihood * diffused(DATA, alpha, sigma**2).density(X)
    got = denoising(DATA, TIMES[k], TIMES[-1], GIVEN).density(X)
    assert np.abs(got - want / integral(want)).max() < 1e-9
    assert integral(got) == pytest.approx(1, abs=1e-9)


def modes(density):
    return int(((density[1:-1] > density[:-2]) & (density[1:-1] > density[2:]) & (density[1:-1] > 0.01 * density.max())).sum())


def test_longer_steps_have_more_modes():
    found = [modes(denoising(DATA, time, TIMES[-1], GIVEN).density(X)) for time in TIMES[:-1]]
    assert found[-1] == 1 and found[0] == 3
    assert found == sorted(found, reverse=True)


def test_the_gaussian_beside_it_has_its_mean_and_variance():
    for time in TIMES[:-1]:
        true = denoising(DATA, time, TIMES[-1], GIVEN)
        mean = integral(X * true.density(X))
        variance = integral((X - mean) ** 2 * true.density(X))
        found = gaussian_of(true)
        assert found.means[0] == pytest.approx(mean) and found.variances[0] == pytest.approx(variance)


def test_the_shortest_step_is_near_a_gaussian_and_the_longest_far():
    apart = []
    for time in TIMES[:-1]:
        true = denoising(DATA, time, TIMES[-1], GIVEN)
        apart.append(integral(np.abs(true.density(X) - gaussian_of(true).density(X))) / 2)
    assert apart[-1] < 0.05 and apart[0] > 0.3 and apart == sorted(apart, reverse=True)
