"""A tiny model with weights that let every input matter, and its engines, each exported once for all workers of a test run."""

import pytest
import torch
from filelock import FileLock

from ddgan_fast.engines.building import build_engine
from ddgan_fast.engines.export import make_graph


@pytest.fixture(scope="session")
def pipe(make):
    return make()


@pytest.fixture(scope="session")
def graphs(pipe):
    """{target: Graph} of `pipe`."""
    return {target: make_graph(pipe.generator, pipe.schedule, target) for target in ("step", "sampler")}


@pytest.fixture(scope="session")
def assert_runs():
    """assert_runs(run, graph, batches): `run` gives what the graph gives, in whatever order and layout the inputs come."""

    def check(run, graph, batches):
        for batch in batches:
            inputs = graph.examples(batch)
            with torch.no_grad():
                want = graph.module(**inputs)
            shuffled = dict(reversed(inputs.items()))
            got = run({name: tensor.mT.contiguous().mT if tensor.ndim > 1 else tensor for name, tensor in shuffled.items()})
            assert got.dtype == torch.float32
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)

    return check


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
