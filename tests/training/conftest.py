"""What the tests of runs share."""

import pytest
import torch

from ddgan_fast.checkpoint.folder import read_tensors

FILES = ["generator", "ema", "discriminator", "optim_g", "optim_d"]


def _same_checkpoint(a, b):
    """Every tensor of the two checkpoint folders has the same bits."""
    for name in FILES:
        left, right = (read_tensors(path / f"{name}.safetensors") for path in (a, b))
        assert left.keys() == right.keys()
        assert all(torch.equal(left[key], right[key]) for key in left), name


@pytest.fixture
def same_checkpoint():
    return _same_checkpoint
