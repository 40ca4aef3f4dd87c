"""Training data: named sets, every usual format of images, and the loaders that feed them to training in a reproducible order."""

from ddgan_fast.data.datasets import NAMES, open_dataset
from ddgan_fast.data.loader import Loader
from ddgan_fast.data.opening import open_loader

__all__ = ["NAMES", "Loader", "open_dataset", "open_loader"]
