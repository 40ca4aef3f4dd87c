"""How well points in the plane cover the modes of a mixture of equal Gaussians, as the 25 of paper Fig. 6 and C.5."""

import math
from typing import NamedTuple

import torch

from ddgan_fast.errors import InputError
from ddgan_fast.evaluation.metrics import kl_from_uniform


class Score(NamedTuple):
    """modes: how many of the K are covered, 0 to K: these hold at least a tenth of their fair share (N / K) of points within 3 sigma.

    high_quality: the share of all points within 3 sigma of a mode, 0 to 1 (of a true Gaussian in the plane 1 - exp(-9/2) = 0.989).
    kl: KL(share of each mode among the high quality points || uniform) in nats, 0 to log(K); NaN where there are none.
    """

    modes: int
    high_quality: float
    kl: float


def score(points, modes, sigma):
    """The Score of points among modes; a point counts for the mode nearest to it.

    points: [N, 2].  modes: the centres [K, 2].  sigma: the standard deviation of each mode along an axis, above 0, all in one unit.
    Raises InputError for other shapes, no points or modes, and what is not finite.
    """
    points, modes = _plane("points", points), _plane("modes", modes)
    if not 0 < sigma < math.inf:
        raise InputError(f"sigma {sigma}: it is a finite number above 0")
    # the differences themselves: the faster product of the two loses digits where modes lie far from the origin
    distances, nearest = torch.cdist(points, modes, compute_mode="donot_use_mm_for_euclid_dist").min(dim=1)
    near = distances < 3 * sigma
    counts = torch.bincount(nearest[near], minlength=len(modes))
    covered = 10 * len(modes) * counts >= len(points)  # in whole numbers, so that a tenth is exactly a tenth
    kl = kl_from_uniform(counts) if near.any() else math.nan
    return Score(int(covered.sum()), near.double().mean().item(), kl)


def _plane(name, values):
    """The values as float64 [N, 2] on the CPU; InputError unless they are finite and N is 1 or more."""
    values = torch.as_tensor(values).detach().to("cpu", torch.float64)
    if values.dim() != 2 or values.shape[1] != 2 or not len(values):
        raise InputError(f"{name} {list(values.shape)}: they are [N, 2], N 1 or more")
    if not values.isfinite().all():
        raise InputError(f"{name}: {int((~values.isfinite().all(dim=1)).sum())} of {len(values)} hold NaN or infinity")
    return values
