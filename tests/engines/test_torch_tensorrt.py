"""What torch-tensorrt is asked for, by a stand-in that records it; its arguments exist in the real package where that is installed."""

import dataclasses
import importlib.metadata
import inspect
import sys
from types import SimpleNamespace

import pytest
import torch

from ddgan_fast.engines import torch_tensorrt
from ddgan_fast.errors import CheckpointError, MissingError
from ddgan_fast.ops import backend

CUDA = torch.device("cuda")


class Library:
    """A stand-in for torch_tensorrt."""

    def __init__(self):
        self.compiled, self.saved, self.failure = [], [], None

    def Input(self, **arguments):
        return arguments

    def compile(self, module, **arguments):
        if self.failure:
            raise self.failure
        assert backend.forced() == "reference" and not torch.is_grad_enabled()
        self.compiled.append((module, arguments))
        return "the compiled module"

    def save(self, module, path, **arguments):
        self.saved.append((module, path, arguments))

    def load(self, path):
        if self.failure:
            raise self.failure
        return SimpleNamespace(module=lambda: lambda x_t, t, z: x_t + t[:, None, None, None] + z.sum())


@pytest.fixture
def library(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_tensorrt", stand_in := Library())
    return stand_in


def on_cuda(graph):
    """The Graph with a module that says it is on a CUDA device."""
    return dataclasses.replace(graph, module=SimpleNamespace(parameters=lambda: iter([SimpleNamespace(device=CUDA)])))


def test_compile(library, graphs):
    graph = on_cuda(graphs["sampler"])
    assert torch_tensorrt.compile_generator(graph, (16, 100, 1)) == "the compiled module"
    [(module, arguments)] = library.compiled
    assert module is graph.module
    inputs = arguments.pop("kwarg_inputs")
    assert arguments == {"ir": "dynamo", "arg_inputs": [], "device": CUDA, "disable_tf32": True}
    assert list(inputs) == ["x_T", "z", "noise"]
    assert inputs["z"] == {
        "min_shape": [4, 1, 4], "opt_shape": [4, 16, 4], "max_shape": [4, 100, 4],
        "shared_dims": {1: "batch"}, "dtype": torch.float32, "name": "z",
    }  # fmt: skip
    assert inputs["x_T"]["opt_shape"] == [16, 1, 8, 8] and inputs["x_T"]["shared_dims"] == {0: "batch"}


def test_the_step_index_is_int64(library, graphs):
    assert torch_tensorrt.specifications(graphs["step"], (8,))["t"] == {
        "min_shape": [1], "opt_shape": [8], "max_shape": [8], "shared_dims": {0: "batch"}, "dtype": torch.int64, "name": "t",
    }  # fmt: skip


def test_a_single_image_has_no_dynamic_axis(library, graphs):
    assert all(not given["shared_dims"] for given in torch_tensorrt.specifications(graphs["step"], (1,)).values())


def test_write(library, graphs, tmp_path):
    graph = on_cuda(graphs["step"])
    torch_tensorrt.write(graph, (1, 2, 5), tmp_path / "model.pt2")
    [(module, path, arguments)] = library.saved
    assert (module, path) == ("the compiled module", str(tmp_path / "model.pt2"))
    assert arguments == {
        "output_format": "exported_program", "arg_inputs": [], "kwarg_inputs": torch_tensorrt.specifications(graph, (1, 2, 5)),
    }  # fmt: skip


def test_run_moves_the_inputs_and_passes_them_by_name(library, graphs):
    module = torch_tensorrt.Module("model.pt2", CUDA)
    module.device = torch.device("cpu")
    given = graphs["step"].examples(3)
    want = given["x_t"] + given["t"][:, None, None, None] + given["z"].sum()
    assert torch.equal(module.run(dict(reversed(given.items()))), want)


def test_failures_have_words(library, graphs):
    library.failure = ValueError("The file is broken\nand more")
    with pytest.raises(CheckpointError, match="cannot compile this step: The file is broken$"):
        torch_tensorrt.compile_generator(on_cuda(graphs["step"]), (1, 2))
    with pytest.raises(CheckpointError, match="model.pt2 is not a program that torch-tensorrt can load: The file is broken$"):
        torch_tensorrt.Module("model.pt2", CUDA)


def test_no_cuda_device(library, graphs):
    with pytest.raises(MissingError, match="this is cpu: take --device cuda"):
        torch_tensorrt.compile_generator(graphs["step"], (1, 2))
    with pytest.raises(MissingError, match="this is cpu: take --device cuda"):
        torch_tensorrt.Module("model.pt2", "cpu")


def test_not_installed(graphs, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_tensorrt", None)
    with pytest.raises(MissingError, match=r'pip install "ddgan_fast\[torch-tensorrt\]"'):
        torch_tensorrt.compile_generator(on_cuda(graphs["step"]), (1, 2))


@pytest.mark.gpu
def test_the_real_package_has_these_arguments():
    """It cannot be imported without a GPU's libraries, and takes unknown arguments of `compile` and `Input` in silence."""
    real = pytest.importorskip("torch_tensorrt")
    assert {"module", "ir", "arg_inputs", "kwarg_inputs"} <= inspect.signature(real.compile).parameters.keys()
    assert {"device", "disable_tf32"} <= inspect.signature(real.dynamo.compile).parameters.keys()
    assert {"output_format", "arg_inputs", "kwarg_inputs"} <= inspect.signature(real.save).parameters.keys()
    assert hasattr(real.Input, "shared_dims"), importlib.metadata.version("torch-tensorrt")
