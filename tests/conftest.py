"""Shared by all tests: golden arrays, quiet threads, and the reason why GPU tests skip."""

import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when the kernels are imported: with the backend forced they run on CPU tensors

GOLDEN = Path(__file__).parent / "golden"


class Golden:
    """One file of the reference's arrays: g["in/x"] is a tensor (float32 as float64 on request), g.group("w/") a dict of tensors."""

    def __init__(self, name):
        self.arrays = np.load(GOLDEN / f"{name}.npz")
        self.config = json.loads(str(self.arrays["config"]))
        self.meta = json.loads(str(self.arrays["meta"]))

    def __getitem__(self, key):
        return torch.from_numpy(self.arrays[key])

    def __contains__(self, key):
        return key in self.arrays

    def group(self, prefix):
        return {key.removeprefix(prefix): self[key] for key in self.arrays.files if key.startswith(prefix)}


@pytest.fixture
def golden():
    return Golden


def _assert_near(got, want, limit, scale=None):
    """Largest difference over the largest |want| (or over `scale`, for arrays that are negligible beside their siblings)."""
    assert got.shape == want.shape
    scale = want.abs().max().item() if scale is None else scale
    worst = (got.double() - want.double()).abs().max().item()
    assert worst <= limit * scale, f"differs by {worst / scale:.2e} of {scale:.3g}; limit {limit:.0e}"


@pytest.fixture
def assert_near():
    return _assert_near


def pytest_collection_modifyitems(items):
    from ddgan_fast.ops import extension

    has_triton = importlib.util.find_spec("triton") is not None
    for item in items:
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
        named = "callspec" in vars(item) and any(
            value in ("cpp", "cpu") for value in item.callspec.params.values() if isinstance(value, str)
        )
        if extension.MISSING and (named or "cpp" in item.keywords):
            item.add_marker(pytest.mark.skip(reason=extension.MISSING))
        if "callspec" in vars(item) and "triton" in item.callspec.params.values():
            if not has_triton:
                item.add_marker(pytest.mark.skip(reason="triton is not installed"))
            elif torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="of the interpreter; on a GPU tests/kernels and test_gpu.py run the kernels"))


@pytest.fixture(scope="session")
def make():
    """make(preset, **changes of its config) -> DDGANPipeline with weights that let every input matter, the same one each time."""
    from ddgan_fast import DDGANPipeline
    from ddgan_fast.config import override, preset
    from ddgan_fast.models import build_generator

    def pipeline(name="tiny", **changes):
        torch.manual_seed(0)
        config = override(preset(name), changes)
        generator = build_generator(config.model)
        for parameter in generator.parameters():
            parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
        return DDGANPipeline(generator, config)

    return pipeline
