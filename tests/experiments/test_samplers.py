"""The samplers of Table 1 on distributions whose epsilon is known in closed form: a right sampler draws them."""

import inspect
import math
from functools import partial
from itertools import pairwise

import pytest
import torch

from ddgan_fast.diffusion import Schedule
from ddgan_fast.errors import InputError
from ddgan_fast.experiments import samplers
from ddgan_fast.experiments.samplers import SAMPLERS

NAMES = list(SAMPLERS)
POINTS = 4000
SHARES = torch.tensor([0.2, 0.3, 0.5])
MEANS = torch.tensor([[-1.0, -0.5], [1.0, -0.5], [0.0, 1.0]])  # 9 standard deviations apart or more: a sample's mode is the nearest
STDS = torch.tensor([0.1, 0.15, 0.2])


def mixture_network(shares, means, stds):
    """The exact epsilon = -sigma(t) grad log p_t of a mixture of isotropic Gaussians [K] in 2-D; t is the same for all samples."""

    def network(x, t):
        log_alpha_bar = -(9.95 * t[0].double() ** 2 + 0.1 * t[0].double())  # paper Eq. 16
        alpha_bar, sigma2 = log_alpha_bar.exp().to(x), -torch.expm1(log_alpha_bar).to(x)
        variances = alpha_bar * stds**2 + sigma2  # [K]
        offsets = x[:, None] - alpha_bar.sqrt() * means  # [B, K, 2]
        weights = (shares.log() - variances.log() - offsets.square().sum(2) / (2 * variances)).softmax(1)
        return sigma2.sqrt() * ((weights / variances)[..., None] * offsets).sum(1)

    return network


MIXTURE = mixture_network(SHARES, MEANS, STDS)


def draw(name, network, points=POINTS, nfe=None, dtype=torch.float32):
    """(x_1, samples) of a fixed seed."""
    function, table_nfe = SAMPLERS[name]
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(points, 2, generator=generator, dtype=dtype)
    return start, function(network, start, nfe or table_nfe, generator)


# bias: how far mean and covariance of a mode are off through the finite steps, in its standard deviation and variance, measured on
# 100,000 samples. At 50 steps FastDDPM draws each mode too narrow, at 1000 it is DDPM.
@pytest.mark.parametrize(
    "name, nfe, bias",
    [
        ("Score SDE (VP)", 2000, 0.1),
        ("DDPM", 1000, 0.02),
        ("Probability Flow (VP)", 140, 0.03),
        ("DDIM", 50, 0.09),
        ("FastDDPM", 50, 0.21),
        ("FastDDPM", 1000, 0.02),
    ],
)
def test_draws_the_mixture(name, nfe, bias):
    _, samples = draw(name, MIXTURE, nfe=nfe)
    nearest = torch.cdist(samples, MEANS).argmin(dim=1)
    for mode, (share, mean, std) in enumerate(zip(SHARES, MEANS, STDS, strict=True)):
        found = (samples[nearest == mode] - mean) / std  # standard normal
        assert abs(len(found) / POINTS - share) < 4 * (share * (1 - share) / POINTS).sqrt() + 0.01
        assert found.mean(dim=0).abs().max() < 4 / len(found) ** 0.5 + bias
        assert (found.T.cov() - torch.eye(2)).abs().max() < 4 * (2 / len(found)) ** 0.5 + bias


@pytest.mark.parametrize("name", ["DDPM", "DDIM", "FastDDPM"])
def test_a_single_point_is_hit_at_any_number_of_steps(name):
    point = torch.tensor([[0.5, -0.25]])
    network = mixture_network(torch.ones(1), point, torch.zeros(1))
    for nfe in (1, 2, 50):
        _, samples = draw(name, network, points=16, nfe=nfe)
        assert (samples - point).abs().max() < 2e-4


def alpha_bar(t):
    """Paper Eq. 16."""
    return math.exp(-9.95 * t**2 - 0.1 * t)


def ddpm_variance(v, at):
    for now, after in pairwise((1, 0.75, 0.5, 0.25, 0)):
        beta = 1 - alpha_bar(now) / alpha_bar(after)
        v = (1 - beta / at(now)) ** 2 * v / (1 - beta) + (beta if after else 0)
    return v


def ddim_variance(v, at, eta):
    for now, after in pairwise((i / 10) ** 2 for i in range(10, -1, -1)):
        a, b = alpha_bar(now), alpha_bar(after)
        drawn = eta**2 * (1 - b) / (1 - a) * (1 - a / b)
        epsilon = (1 - a) ** 0.5 / at(now)  # over x
        v = ((b / a) ** 0.5 * (1 - (1 - a) ** 0.5 * epsilon) + (1 - b - drawn) ** 0.5 * epsilon) ** 2 * v + drawn
    return v


def predictor_corrector_variance(v, at):
    for now, after in pairwise((1, 0.75025, 0.5005, 0.25075, 0.001)):
        beta = 1 - alpha_bar(now) / alpha_bar(after)
        v = (2 - (1 - beta) ** 0.5 - beta / at(now)) ** 2 * v + beta
        size = 2 * (1 - beta) * 0.16**2 * at(after) ** 2 / v
        v = (1 - size / at(after)) ** 2 * v + 2 * size
    return v


# Few steps are far from the data; where they end follows from the papers' equations, in which x stays Gaussian and the score is
# -x over the variance of x_t.
@pytest.mark.parametrize(
    "name, nfe, variance",
    [
        ("DDPM", 4, ddpm_variance),
        ("DDIM", 10, partial(ddim_variance, eta=0)),
        ("FastDDPM", 10, partial(ddim_variance, eta=1)),
        ("Score SDE (VP)", 8, predictor_corrector_variance),
    ],
)
def test_few_steps_give_the_variance_of_the_equations(name, nfe, variance):
    points, std = 40_000, 0.5
    _, samples = draw(name, mixture_network(torch.ones(1), torch.zeros(1, 2), torch.tensor([std])), points, nfe)
    want = variance(1, lambda t: alpha_bar(t) * std**2 + 1 - alpha_bar(t))
    assert samples.square().mean().item() == pytest.approx(want, rel=4 * points**-0.5)  # of 2 * points squares, each off by sqrt(2)


def test_probability_flow_is_exact_to_second_order():
    mean, std = torch.tensor([[0.5, -0.25]], dtype=torch.float64), torch.tensor([0.2], dtype=torch.float64)
    network = mixture_network(torch.ones(1, dtype=torch.float64), mean, std)
    (alpha_1, sigma_1), (alpha_0, sigma_0) = samplers.levels(1.0), samplers.levels(samplers.EPSILON)
    shrink = ((alpha_0 * std) ** 2 + sigma_0**2).sqrt() / ((alpha_1 * std) ** 2 + sigma_1**2).sqrt()
    errors = []
    for nfe in (140, 280):
        start, samples = draw("Probability Flow (VP)", network, nfe=nfe, dtype=torch.float64)
        errors.append((samples - (alpha_0 * mean + shrink * (start - alpha_1 * mean))).abs().max().item())
    assert errors[0] < 0.02
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.2)


def test_levels_are_those_of_the_schedule():
    schedule = Schedule(1000, epsilon=0)
    for i in (1, 10, 500, 1000):
        alpha, sigma = samplers.levels(i / 1000)
        assert alpha == pytest.approx(schedule.a_cum[i].item(), rel=1e-4)
        assert sigma == pytest.approx(schedule.sigma_cum[i].item(), rel=1e-3)


@pytest.mark.parametrize("name", ["Score SDE (VP)", "Probability Flow (VP)"])
def test_the_second_evaluation_of_a_step_is_at_its_end(name):
    times = []
    SAMPLERS[name][0](lambda x, t: times.append(t[0].item()) or x, torch.randn(3, 2), 8)
    assert times[1::2] == [*times[2::2], pytest.approx(samplers.EPSILON)]


@pytest.mark.parametrize("name", NAMES)
def test_nfe_counts_the_evaluations(name):
    function, table_nfe = SAMPLERS[name]
    assert inspect.signature(function).parameters["nfe"].default == table_nfe
    times = []

    def network(x, t):
        assert t.shape == (3,) and t.dtype == torch.float32 and (t == t[0]).all()
        times.append(t[0].item())
        return x

    for nfe in (table_nfe, 6):
        times.clear()
        function(network, torch.randn(3, 2), nfe)
        assert len(times) == nfe
        assert times[0] == 1 and min(times) > 0 and times == sorted(times, reverse=True)


@pytest.mark.parametrize("name", NAMES)
def test_keeps_dtype_and_layout(name):
    x = torch.randn(2, 3, 4, 5).to(torch.bfloat16, memory_format=torch.channels_last)
    before = x.clone()
    samples = SAMPLERS[name][0](lambda x, t: x, x, 4)
    assert samples.dtype == x.dtype and samples.stride() == x.stride()
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", NAMES)
def test_noise_comes_from_the_generator_alone(name):
    function, _ = SAMPLERS[name]
    x = torch.randn(8, 2)
    first, second, other = (function(MIXTURE, x, 10, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert torch.equal(first, other) == (name in ("DDIM", "Probability Flow (VP)"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("nfe", [0, -2, 2.0, True, "50"])
def test_refuses_an_nfe_that_makes_no_steps(name, nfe):
    function, _ = SAMPLERS[name]
    with pytest.raises(InputError, match=rf"{function.__name__}: nfe = {nfe!r}; it must be a whole number"):
        function(MIXTURE, torch.randn(4, 2), nfe)


@pytest.mark.parametrize("name, nfe, what", [("Score SDE (VP)", 7, "2 or more, a multiple of 2"), ("DDIM", 1001, "1 to 1000")])
def test_refusal_names_what_would_be_right(name, nfe, what):
    with pytest.raises(InputError, match=what):
        SAMPLERS[name][0](MIXTURE, torch.randn(4, 2), nfe)


@pytest.mark.parametrize("name", NAMES)
def test_refuses_whole_numbers_as_x(name):
    function, nfe = SAMPLERS[name]
    with pytest.raises(InputError, match=rf"{function.__name__}: x is torch.int64; it must be floating point"):
        function(MIXTURE, torch.zeros(4, 2, dtype=torch.int64), nfe)
