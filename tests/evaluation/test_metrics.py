"""FID, Inception Score and the modes: closed forms, other formulas; and torch-fidelity on the same numbers, for all there are."""

import importlib.util
import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from ddgan_fast.errors import InputError
from ddgan_fast.evaluation.metrics import Statistics, frechet_distance, inception_score, modes_and_kl, precision_recall

NAN_ROW = torch.tensor([[0.0, 1.0], [math.nan, 0.0], [0.0, math.inf]])


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def statistics(features):
    made = Statistics(features.shape[1])
    made.add(features)
    return made


def exact(mean, root, count=50):
    """Statistics of features whose sample mean is `mean` and sample covariance root root^T, exactly but for rounding."""
    raw = normal(count, len(mean))
    columns = torch.linalg.qr(raw - raw.mean(dim=0)).Q * math.sqrt(count - 1)  # orthonormal, and orthogonal to the constant
    return statistics(columns @ root.T + mean)


@pytest.mark.parametrize("batch", [1, 7, 100, 211])
def test_batches_of_any_size_give_the_statistics_of_all(batch):
    features = normal(211, 5) * torch.tensor([1, 10, 0.1, 1, 1]) + 3
    streamed, at_once = Statistics(5), statistics(features)
    for part in features.split(batch):
        streamed.add(part)
    for mean, covariance in ((at_once.mean, at_once.covariance), (features.numpy().mean(axis=0), np.cov(features.numpy().T))):
        np.testing.assert_allclose(streamed.mean, mean, rtol=1e-12)
        np.testing.assert_allclose(streamed.covariance, covariance, rtol=1e-12, atol=1e-12)


def test_merged_parts_of_which_one_is_empty_give_the_statistics_of_all():
    features = normal(211, 5) + 3
    whole = Statistics(5)
    for part in (features[:11], features[:0], features[11:150], features[150:]):
        whole.merge(statistics(part))
    assert whole.count == 211
    np.testing.assert_allclose(whole.mean, features.numpy().mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(whole.covariance, np.cov(features.numpy().T), rtol=1e-12, atol=1e-12)


def test_merging_leaves_the_other_as_it_was():
    part, whole = statistics(normal(20, 3)), Statistics(3)
    before = part.to_dict()
    whole.merge(part)
    whole.add(normal(20, 3, seed=1))
    assert all(np.array_equal(before[name], array) for name, array in part.to_dict().items())


def test_a_mean_far_from_0_costs_no_digits_of_the_covariance():
    """Sums of squares would lose all: 1e8 squared has 16 digits."""
    features, whole = normal(300, 2), Statistics(2)
    for part in (features + 1e8).split(64):
        whole.add(part)
    np.testing.assert_allclose(whole.covariance, np.cov(features.numpy().T), rtol=1e-6, atol=1e-7)


def test_float32_features_are_summed_in_float64():
    features = (normal(1000, 2) * 1e-3 + 1).float()
    np.testing.assert_allclose(statistics(features).covariance, np.cov(features.double().numpy().T), rtol=1e-12)


def test_statistics_survive_an_npz_bit_for_bit_and_go_on(tmp_path):
    features = normal(40, 3)
    whole, half = Statistics(3), statistics(features[:20])
    np.savez(tmp_path / "half.npz", **half.to_dict())
    with np.load(tmp_path / "half.npz") as arrays:
        again = Statistics.from_dict(arrays)
    assert (again.count, again.width) == (20, 3)
    assert torch.equal(again.mean, half.mean) and torch.equal(again.covariance, half.covariance)
    whole.add(features[:20])
    for made in (whole, again):
        made.add(features[20:])
    assert torch.equal(again.covariance, whole.covariance)


def test_arrays_of_statistics_are_copies():
    made = statistics(normal(20, 3))
    arrays, same = made.to_dict(), made.to_dict()
    for each in (made, Statistics.from_dict(arrays)):
        each.add(normal(20, 3, seed=1))
        assert all(np.array_equal(arrays[name], same[name]) for name in arrays)
        assert not np.array_equal(each.to_dict()["scatter"], same["scatter"])


@pytest.mark.parametrize(
    "features, words",
    [
        (NAN_ROW, "2 of 3 rows hold NaN or infinity"),
        (torch.zeros(4, 3), r"\[4, 3\].*\[N, 2\]"),
        (torch.zeros(2), r"\[2\].*\[N, 2\]"),
        (torch.zeros(4, 2, dtype=torch.complex64), "real numbers"),
    ],
)
def test_statistics_refuse_features_and_stay_as_they_were(features, words):
    made = statistics(normal(5, 2))
    before = made.covariance
    with pytest.raises(InputError, match=words):
        made.add(features)
    assert made.count == 5 and torch.equal(made.covariance, before)


def test_statistics_refuse_what_they_cannot_say():
    with pytest.raises(InputError, match="mean of no images"):
        _ = Statistics(2).mean
    with pytest.raises(InputError, match="covariance of 1 images"):
        _ = statistics(normal(1, 2)).covariance
    with pytest.raises(InputError, match="width 0"):
        Statistics(0)
    with pytest.raises(InputError, match="3 features into statistics of 2"):
        Statistics(2).merge(Statistics(3))


@pytest.mark.parametrize(
    "change, words",
    [
        ({"mean": None}, "without mean; they have count, scatter"),
        ({"count": np.array(-1)}, "count of -1"),
        ({"count": np.array(2.5)}, "count of 2.5"),
        ({"count": np.array([1, 2])}, r"count of \[1, 2\]"),
        ({"scatter": np.zeros((2, 3))}, r"scatter \[2, 3\]"),
        ({"mean": np.zeros((1, 2))}, r"mean \[1, 2\]"),
        ({"mean": np.array([0.0, np.nan])}, "mean of statistics: 1 of 1 rows"),
        ({"scatter": np.full((2, 2), np.inf)}, "scatter of statistics: 2 of 2 rows"),
    ],
)
def test_from_dict_refuses_broken_arrays(change, words):
    arrays = {name: array for name, array in (statistics(normal(5, 2)).to_dict() | change).items() if array is not None}
    with pytest.raises(InputError, match=words):
        Statistics.from_dict(arrays)


def test_frechet_distance_of_axis_aligned_gaussians():
    """|mean_a - mean_b|^2 + sum of (sigma_a - sigma_b)^2."""
    a = exact(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64), torch.diag(torch.tensor([1.0, 2.0, 0.1], dtype=torch.float64)))
    b = exact(torch.tensor([0.0, 1.0, 0.5], dtype=torch.float64), torch.diag(torch.tensor([3.0, 0.5, 0.2], dtype=torch.float64)))
    want = (1 + 9) + (4 + 2.25 + 0.01)
    assert frechet_distance(a, b) == pytest.approx(want, rel=1e-12)
    assert frechet_distance(b, a) == pytest.approx(want, rel=1e-12)


def test_frechet_distance_of_gaussians_that_do_not_commute():
    """In the plane tr(M^(1/2)) is (tr M + 2 det(M)^(1/2))^(1/2), here of M = C_a C_b."""
    root_a = torch.tensor([[2.0, 0.0], [1.0, 0.5]], dtype=torch.float64)
    root_b = torch.tensor([[0.3, 0.0], [-1.0, 3.0]], dtype=torch.float64)
    cov_a, cov_b = root_a @ root_a.T, root_b @ root_b.T
    root_trace = math.sqrt((cov_a @ cov_b).trace() + 2 * math.sqrt(torch.det(cov_a @ cov_b)))
    want = 16 + (cov_a.trace() + cov_b.trace()).item() - 2 * root_trace
    assert not torch.allclose(cov_a @ cov_b, cov_b @ cov_a)
    assert frechet_distance(exact(torch.zeros(2), root_a), exact(torch.tensor([0.0, 4.0]), root_b)) == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("width", [2, 33])
def test_frechet_distance_is_that_of_a_general_matrix_root(width):
    linalg = pytest.importorskip("scipy.linalg")
    a, b = (statistics(normal(3 * width, width, seed=seed) @ normal(width, width, seed=seed + 2)) for seed in (0, 1))
    root = linalg.sqrtm(a.covariance.numpy() @ b.covariance.numpy())
    want = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * np.trace(root).real
    assert frechet_distance(a, b) == pytest.approx(want.item(), rel=1e-9)


def test_equal_sets_are_no_distance_apart_also_where_features_vanish():
    """Of 128 features half are always 0, and the others span 6 decades: the roots of rounded eigenvalues add up to 5e-6 there.

    A shift of 1 keeps the result away from 0, below which it cannot go.
    """
    turn = torch.linalg.qr(normal(64, 64, seed=1)).Q
    features = torch.cat([normal(200, 64) * torch.logspace(1, -5, 64, dtype=torch.float64) @ turn, torch.zeros(200, 64)], dim=1)
    made, streamed = statistics(features), Statistics(128)
    for part in features.flip(0).split(7):
        streamed.add(part)
    assert frechet_distance(made, made) < 1e-10 and frechet_distance(made, streamed) < 1e-10
    shifted = Statistics.from_dict(streamed.to_dict() | {"mean": streamed.mean + 1 / math.sqrt(128)})
    assert frechet_distance(made, shifted) == pytest.approx(1, abs=1e-10)


def test_frechet_distance_needs_one_image_more_than_features():
    enough, few = statistics(normal(6, 5)), statistics(normal(5, 5))
    assert frechet_distance(enough, enough) < 1e-10
    for a, b, side in ((few, enough, "first"), (enough, few, "second"), (Statistics(5), enough, "first")):
        with pytest.raises(InputError, match=rf"{side} side has too few images for the covariance of 5 features: [50]; it needs 6"):
            frechet_distance(a, b)
    with pytest.raises(InputError, match="of 5 and of 2 features"):
        frechet_distance(enough, statistics(normal(6, 2)))


def test_inception_score_of_no_opinion_is_1_and_of_certain_classes_their_number():
    mean, std = inception_score(torch.full((50, 8), 1 / 8))
    assert mean == pytest.approx(1, abs=1e-12) and std == pytest.approx(0, abs=1e-12)
    mean, std = inception_score(torch.eye(8).repeat(10, 1))  # each of the 10 splits sees each class once
    assert mean == pytest.approx(8, rel=1e-12) and std == pytest.approx(0, abs=1e-12)


def test_inception_score_over_splits_of_unequal_size_by_hand():
    probabilities = torch.softmax(3 * normal(11, 4), dim=1)
    scores = []
    for rows in (range(0, 3), range(3, 7), range(7, 11)):
        marginal = [sum(probabilities[i, c].item() for i in rows) / len(rows) for c in range(4)]
        kls = [sum(p * math.log(p / q) for p, q in zip(probabilities[i].tolist(), marginal, strict=True)) for i in rows]
        scores.append(math.exp(sum(kls) / len(rows)))
    assert inception_score(probabilities, splits=3) == pytest.approx((np.mean(scores), np.std(scores)), rel=1e-12)


@pytest.mark.parametrize(
    "probabilities, splits, words",
    [
        (torch.full((9, 2), 0.5), 10, "9 images in 10 splits"),
        (torch.full((9, 2), 0.5), 0, "9 images in 0 splits"),
        (torch.tensor([[0.5, 0.5], [1.5, -0.5]]), 1, "1 of 2 rows are negative"),
        (torch.tensor([[0.5, 0.4], [2.0, 3.0]]), 1, "2 of 2 rows are negative or do not sum to 1"),
        (NAN_ROW, 1, "2 of 3 rows hold NaN"),
        (torch.full((9,), 0.5), 1, r"\[9\]"),
    ],
)
def test_inception_score_refuses(probabilities, splits, words):
    with pytest.raises(InputError, match=words):
        inception_score(probabilities, splits)


def test_modes_and_kl_by_hand():
    modes, kl = modes_and_kl(torch.tensor([0, 0, 3, 1]), 4)
    assert modes == 3
    assert kl == pytest.approx(0.5 * math.log(2) + 2 * 0.25 * math.log(1), rel=1e-12)
    assert modes_and_kl(np.arange(1000).repeat(3), 1000) == (1000, pytest.approx(0, abs=1e-12))
    assert modes_and_kl([7] * 5, 1000) == (1, pytest.approx(math.log(1000), rel=1e-12))
    assert modes_and_kl(torch.tensor([0, 1], dtype=torch.uint8), 2) == (2, 0.0)


@pytest.mark.parametrize(
    "labels, words",
    [
        ([0, 4], "from 0 to 4: 4 classes have 0 to 3"),
        ([-1, 2], "from -1 to 2"),
        (torch.tensor([], dtype=torch.int64), r"labels \[0\]"),
        ([[0, 1]], r"labels \[1, 2\]"),
        ([0.0, 1.0], "float32"),
        ([True, False], "bool"),
    ],
)
def test_modes_and_kl_refuse(labels, words):
    with pytest.raises(InputError, match=words):
        modes_and_kl(labels, 4)


# torch-fidelity looks torchvision up when it is imported, for data sets and networks that are not used here; a stub in this process alone will do.
OTHER = """
import json, sys, types
names = ["torchvision", "torchvision.datasets", "torchvision.transforms", "torchvision.transforms.functional"]
for name in names:
    sys.modules[name] = types.ModuleType(name)
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, sys.modules[name])
for name in ("CIFAR10", "CIFAR100", "STL10"):
    setattr(sys.modules["torchvision.datasets"], name, type(name, (), {}))

import numpy as np, torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

real, generated, logits = (torch.from_numpy(array) for array in np.load(sys.argv[1]).values())
found = fid_statistics_to_metric(fid_features_to_statistics(generated), fid_features_to_statistics(real), verbose=False)
found |= isc_features_to_metric(logits, splits=10, shuffle=False)
for k in (3, 5):
    found[str(k)] = prc_features_to_metric(generated, real, prc_neighborhood=k, verbose=False)
print(json.dumps(found))
"""


@pytest.mark.skipif(importlib.util.find_spec("torch_fidelity") is None, reason="torch_fidelity is not installed (pip install --no-deps)")
def test_torch_fidelity_finds_the_same(tmp_path):
    real, logits = normal(512, 24), 2 * normal(1003, 7, seed=2)
    generated = 0.8 * normal(256, 24, seed=1) @ torch.linalg.qr(normal(24, 24)).Q + 0.1
    np.savez(tmp_path / "arrays.npz", real=real, generated=generated, logits=logits)
    done = subprocess.run([sys.executable, "-c", OTHER, tmp_path / "arrays.npz"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    want = json.loads(done.stdout)
    assert frechet_distance(statistics(generated), statistics(real)) == pytest.approx(want["frechet_inception_distance"], rel=1e-6)
    scores = inception_score(torch.softmax(logits, dim=1))
    assert scores == pytest.approx((want["inception_score_mean"], want["inception_score_std"]), rel=1e-9)
    for k in (3, 5):
        shares = (want[str(k)]["precision"], want[str(k)]["recall"])
        assert precision_recall(real, generated, k) == shares  # the numbers of images are powers of 2: exact in float32 too
        assert all(0.05 < share < 1 for share in shares) and shares[0] != shares[1]
