"""A tiny model with weights that let every input matter, and its engines, each exported once for all workers of a test run."""

import pytest
import torch
from filelock import FileLock

from ddgan_fast import DDGANPipeline
from ddgan_fast.config import override, preset
from ddgan_fast.engines.building import build_engine
from ddgan_fast.models import build_generator


@pytest.fixture(scope="session")
def make():
    """make(preset, **changes of its config) -> DDGANPipeline."""

    def pipeline(name="tiny", **changes):
        torch.manual_seed(0)
        config = override(preset(name), changes)
        generator = build_generator(config.model)
        for parameter in generator.parameters():
            parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
        return DDGANPipeline(generator, config)

    return pipeline


@pytest.fixture(scope="session")
def pipe(make):
    return make()


@pytest.fixture(scope="session")
def shared(tmp_path_factory, worker_id):
    """shared(name, write) -> path, which write(path) has filled once for all workers."""
    root = tmp_path_factory.getbasetemp()
    root = root if worker_id == "master" else root.parent

    def path_of(name, write):
        path = root / "shared" / name
        path.parent.mkdir(exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if not path.exists():
                write(path)
        return path

    return path_of


@pytest.fixture(scope="session")
def model(shared, pipe):
    """The model's folder."""
    return shared("model", pipe.save_pretrained)


@pytest.fixture(scope="session")
def engine(shared, pipe):
    """engine(target, precision, kind) -> the folder of an engine of `pipe`, which its export compared with the network."""

    def folder(target, precision="fp32", kind="onnx"):
        def write(path):
            build_engine(pipe.generator, pipe.config, pipe.schedule, path, kind, target, precision)

        return shared(f"{kind}-{target}-{precision}", write)

    return folder
