"""The small sets that need no files: the 25 Gaussians of paper C.5, and the digits that scikit-learn ships."""

import torch

from ddgan_fast import noise
from ddgan_fast.data.images import InMemory, fit_pixels
from ddgan_fast.errors import MissingError

POINTS = 100_000
SCALE = 2.828  # grid and sigma are divided by it, which brings the points to a standard deviation near 1
SIGMA = 0.05
NOISE_STREAM = 16  # away from the streams of sampling and training


def _grid():
    axis = torch.tensor([-4.0, -2.0, 0.0, 2.0, 4.0])
    return torch.cartesian_prod(axis, axis)


def modes25():
    """The centres of the 25 Gaussians, [25, 2], in the unit of the points; the standard deviation along an axis is SIGMA / SCALE."""
    return _grid() / SCALE


def open_gaussians25(seed):
    """Points [N, 2] around the grid {-4, -2, 0, 2, 4}^2: point i belongs to mode i % 25.

    seed: 0 to 2^32 - 1.  Point i depends on i and the seed alone.
    """
    index = torch.arange(POINTS)
    offsets = noise.normal(seed * 2**31 + index, NOISE_STREAM, 0, (2,))
    return InMemory("gaussians25", (_grid()[index % 25] + SIGMA * offsets) / SCALE)


def open_digits(shape):
    """1,797 handwritten digits of 8x8 pixels, brought to `shape`. Raises MissingError without scikit-learn."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingError(f'data set digits: scikit-learn is not installed ({error}); pip install "ddgan_fast[toy]"') from error
    values = torch.from_numpy(load_digits().images)[:, None]  # 0 to 16
    return InMemory("digits", fit_pixels((values * (255 / 16)).round().to(torch.uint8), shape))
