"""Precision and recall: pair by pair in hand-written loops, sets that collapsed, and the memory."""

import math

import pytest
import torch

from ddgan_fast.errors import InputError
from ddgan_fast.evaluation import metrics
from ddgan_fast.evaluation.metrics import precision_recall

NAN_ROW = torch.tensor([[0.0, 1.0], [math.nan, 0.0], [0.0, math.inf]])


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_loops(real, generated, k):
    """Kynkaanniemi et al., Eqs. 1-2, pair by pair: the share of `generated` in balls of `real`, and the other way around."""

    def share(points, centres):
        reach = [sorted(math.dist(c, o) for j, o in enumerate(centres) if j != i)[k - 1] for i, c in enumerate(centres)]
        return sum(any(math.dist(p, c) <= r for c, r in zip(centres, reach, strict=True)) for p in points) / len(points)

    real, generated = real.tolist(), generated.tolist()
    return share(generated, real), share(real, generated)


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("at_once", [1, 130, 2**22])  # a row; a few rows, the last block with fewer; all
def test_precision_and_recall_are_those_of_the_loops(monkeypatch, k, at_once):
    monkeypatch.setattr(metrics, "DISTANCES_AT_ONCE", at_once)
    real, generated = normal(41, 3), normal(33, 3, seed=1) + 1.2
    want = by_loops(real, generated, k)
    assert 0.1 < want[0] < 1 and 0.1 < want[1] < 1
    assert precision_recall(real, generated, k) == want


def test_points_on_the_border_belong_to_the_ball():
    """Whole numbers have exact distances, so on a grid most points lie on borders, and many coincide."""
    random = torch.Generator().manual_seed(0)
    real, generated = torch.randint(0, 9, (40, 2), generator=random), torch.randint(4, 14, (30, 2), generator=random)
    want = by_loops(real, generated, 3)
    assert 0 < want[0] < 1 and 0 < want[1] < 1
    assert precision_recall(real, generated, 3) == want


def test_equal_sets_have_all_precision_and_recall():
    features = normal(60, 40)
    assert precision_recall(features, features.flip(0).clone()) == (1.0, 1.0)


def test_a_collapsed_set_has_all_precision_and_no_recall():
    """Every generated image is a mean of real ones, which none of them equals: their balls have radius 0."""
    real = normal(60, 2)
    assert precision_recall(real, real.mean(dim=0).expand(50, 2)) == (1.0, 0.0)


@pytest.mark.parametrize("width", [7, 65, 513])
def test_copies_of_an_image_are_the_same_image_in_spite_of_rounding(width):
    """Four copies of each have balls of radius 0, and |x|^2 + |y|^2 - 2xy of a copy is not always 0."""
    images = normal(25, width) + 10
    copies, others = images.repeat(4, 1), images.flip(0).repeat(4, 1)[:87]
    assert precision_recall(copies, others) == (1.0, 1.0)
    assert precision_recall(torch.cat([copies, normal(100, width, seed=1) - 10]), others) == (1.0, 0.5)


def test_no_block_of_distances_is_larger_than_allowed(monkeypatch):
    blocks, addmm = [], torch.addmm

    def measured(*args, **keywords):
        blocks.append(addmm(*args, **keywords))
        return blocks[-1]

    monkeypatch.setattr(torch, "addmm", measured)
    monkeypatch.setattr(metrics, "DISTANCES_AT_ONCE", 1000)
    precision_recall(normal(200, 2), normal(300, 2, seed=1))
    assert sum(block.numel() for block in blocks) == 200 * 200 + 300 * 300 + 300 * 200
    assert max(block.numel() for block in blocks) <= 1000


@pytest.mark.parametrize(
    "real, generated, k, words",
    [
        (torch.zeros(3, 2), torch.zeros(9, 2), 3, "3 real images and k = 3"),
        (torch.zeros(9, 2), torch.zeros(3, 2), 3, "3 generated images and k = 3"),
        (torch.zeros(9, 2), torch.zeros(9, 2), 0, "k = 0"),
        (torch.zeros(9, 2), torch.zeros(9, 3), 3, r"generated features \[9, 3\]"),
        (NAN_ROW, torch.zeros(9, 2), 1, "real features: 2 of 3 rows"),
        (torch.zeros(9, 2), NAN_ROW, 1, "generated features: 2 of 3 rows"),
    ],
)
def test_precision_and_recall_refuse(real, generated, k, words):
    with pytest.raises(InputError, match=words):
        precision_recall(real, generated, k)
