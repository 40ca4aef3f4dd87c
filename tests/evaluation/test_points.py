"""The score of points among modes: by hand at its borders, and for the true mixture of the 25 Gaussians."""

import math

import pytest
import torch

from ddgan_fast.errors import InputError
from ddgan_fast.evaluation.points import score

AXIS = torch.tensor([-4.0, -2.0, 0.0, 2.0, 4.0])
GRID = torch.cartesian_prod(AXIS, AXIS)
TWO = torch.tensor([[0.0, 0.0], [10.0, 0.0]])


def mixture(count, sigma=0.05):
    """Points [count, 2] of the 25 Gaussians; point i is of mode i % 25."""
    offsets = torch.randn(count, 2, generator=torch.Generator().manual_seed(0))
    return GRID[torch.arange(count) % 25] + sigma * offsets


def test_the_true_mixture_covers_all_modes_alike():
    got = score(mixture(100_000), GRID, 0.05)
    assert got.modes == 25
    assert got.high_quality == pytest.approx(1 - math.exp(-4.5), abs=0.0015)  # 4.5 deviations of the share of 100,000
    assert 0 <= got.kl < 24 / (2 * 100_000) * 3  # a histogram of true draws has 2 N KL of chi^2 with 24 degrees, and this one less


def test_a_unit_of_length_changes_nothing():
    points = mixture(2000)
    assert score(points / 2.828, GRID / 2.828, 0.05 / 2.828) == score(points, GRID, 0.05)


def test_by_hand():
    """4 points near the first mode, 1 near the second, 3 far from both: 5 of 8, and KL of (4/5, 1/5) from (1/2, 1/2)."""
    points = torch.tensor([[0, 0], [1, 1], [-2, 2], [0, -2.9], [10, 2.9], [5, 0], [0, 3.1], [99, 99]])
    got = score(points, TWO, 1.0)
    assert got == (2, 5 / 8, pytest.approx(0.8 * math.log(1.6) + 0.2 * math.log(0.4), rel=1e-12))


def test_three_sigma_is_outside():
    assert score(torch.tensor([[3.0, 0.0], [2.9, 0.0]]), TWO, 1.0).high_quality == 0.5


@pytest.mark.parametrize("total, modes", [(20, 2), (21, 1)])
def test_a_mode_is_covered_from_a_tenth_of_its_fair_share(total, modes):
    """One point of 20 in two modes is a tenth of the fair 10; of 21 it is less. Points far off count into the fair share."""
    points = torch.cat([TWO[1:], TWO[:1].expand(total - 3, 2), torch.full((2, 2), 99.0)])
    got = score(points, TWO, 0.05)
    assert got.modes == modes
    assert got.high_quality == pytest.approx((total - 2) / total)


def test_collapse_to_one_mode():
    assert score(GRID[3:4].expand(100, 2), GRID, 0.05) == (1, 1.0, pytest.approx(math.log(25), rel=1e-12))


def test_no_point_near_any_mode_has_no_kl():
    got = score(torch.ones(10, 2), GRID, 0.05)
    assert got[:2] == (0, 0.0) and math.isnan(got.kl)


def test_modes_far_from_the_origin_cost_no_digits():
    """The faster |x|^2 + |y|^2 - 2xy would be wrong by more than the sigma here."""
    far = 1e7
    assert score(mixture(2500).double() + far, GRID.double() + far, 0.05)[:2] == score(mixture(2500).double(), GRID.double(), 0.05)[:2]


@pytest.mark.parametrize(
    "points, modes, sigma, words",
    [
        (torch.zeros(4, 3), GRID, 0.05, r"points \[4, 3\]"),
        (torch.zeros(0, 2), GRID, 0.05, r"points \[0, 2\]"),
        (torch.zeros(4, 2), GRID[0], 0.05, r"modes \[2\]"),
        (torch.zeros(4, 2), GRID[:0], 0.05, r"modes \[0, 2\]"),
        (torch.tensor([[0, math.nan], [math.inf, 0], [0, 0]]), GRID, 0.05, "points: 2 of 3 hold NaN"),
        (torch.zeros(4, 2), GRID, 0.0, "sigma 0.0"),
        (torch.zeros(4, 2), GRID, math.nan, "sigma nan"),
        (torch.zeros(4, 2), GRID, math.inf, "sigma inf"),
    ],
)
def test_refuses(points, modes, sigma, words):
    with pytest.raises(InputError, match=words):
        score(points, modes, sigma)
