"""Pipelines with weights that let every input matter."""

import pytest
import torch

from ddgan_fast import DDGANPipeline
from ddgan_fast.config import override, preset
from ddgan_fast.models import build_generator


@pytest.fixture(scope="session")
def make():
    """make(preset, **changes of its config) -> DDGANPipeline, the same one each time."""

    def pipeline(name="tiny", **changes):
        torch.manual_seed(0)
        config = override(preset(name), changes)
        generator = build_generator(config.model)
        for parameter in generator.parameters():
            parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
        return DDGANPipeline(generator, config)

    return pipeline
