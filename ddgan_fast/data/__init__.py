"""Training data: named sets, folders of images, and the loader that feeds them to training in a reproducible order."""

from ddgan_fast.data.datasets import NAMES, open_dataset
from ddgan_fast.data.loader import Loader, open_loader

__all__ = ["NAMES", "Loader", "open_dataset", "open_loader"]
