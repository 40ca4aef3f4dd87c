"""A compiled package equals the plain graph at any batch, from Python and from C++, and is refused where it cannot run."""

import math
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddgan_fast.engines.aot import Package, facts, port_texts, refuses, write_pt2
from ddgan_fast.errors import CheckpointError, MissingError
from ddgan_fast.pictures import to_uint8

CPU = torch.device("cpu")
EXAMPLE = Path(__file__).parents[2] / "examples/cpp"


@pytest.fixture(scope="module")
def compiled(graphs, tmp_path_factory):
    """compiled(target) -> the path of its package, compiled once."""
    folder = tmp_path_factory.mktemp("packages")

    def path_of(target):
        path = folder / f"{target}.pt2"
        if not path.exists():
            write_pt2(graphs[target], path)
        return path

    return path_of


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not shutil.which("g++"), reason="no g++")
@pytest.mark.parametrize("target", ["step", "sampler"])
def test_a_package_equals_its_graph(target, graphs, compiled, assert_runs):
    graph, package = graphs[target], Package(compiled(target), CPU)
    assert package.model.get_metadata().items() >= port_texts(graph).items()
    assert_runs(package.run, graph, (1, 2, 5))


def run(*command):
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=1000)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not (shutil.which("g++") and shutil.which("cmake")) and os.environ.get("DDGAN_EXT") != "1", reason="no g++ or no cmake")
def test_the_cpp_example(graphs, compiled, tmp_path):
    made = run("cmake", "-S", EXAMPLE, "-B", tmp_path, f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}")
    assert made.returncode == 0, made.stderr
    made = run("cmake", "--build", tmp_path)
    assert made.returncode == 0, made.stderr
    program, out, count, graph = tmp_path / "sample", tmp_path / "images.ppm", 7, graphs["sampler"]
    assert run(program).returncode == 2
    assert "COUNT is '0': it takes a whole number from 1 to 4096" in run(program, compiled("sampler"), out, 0, 1).stderr
    assert "is not a sampler" in run(program, compiled("step"), out, 1, 1).stderr
    ran = run(program, compiled("sampler"), out, count, 3)
    assert ran.returncode == 0, ran.stderr
    torch.manual_seed(3)
    inputs = {port.name: torch.randn([count if size == "batch" else size for size in port.shape]) for port in graph.inputs}
    with torch.no_grad():
        images = to_uint8(graph.module(**inputs)).numpy().astype(int)
    grid, columns = np.asarray(Image.open(out)).astype(int), math.ceil(math.sqrt(count))
    size = images.shape[1]
    assert grid.shape == (math.ceil(count / columns) * size, columns * size, 3)
    for index, image in enumerate(images):
        top, left = (size * at for at in divmod(index, columns))
        assert abs(grid[top : top + size, left : left + size] - image).max() <= 1
    assert (grid[2 * size :, size:] == 0).all(), "cells without an image are black"


def test_ports_as_text(graphs):
    assert port_texts(graphs["step"]) == {"inputs": "x_t batch 1 8 8; t batch; z batch 4", "output": "x0 batch 1 8 8", "target": "step"}


def test_no_compiler(graphs, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(MissingError, match="no-such-compiler is not there: apt-get install g"):
        write_pt2(graphs["step"], tmp_path / "model.pt2")


def test_a_failed_compilation_names_its_first_line(graphs, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("C++ compile error\nthousands of lines")

    monkeypatch.setattr("ddgan_fast.engines.aot.torch_program", lambda graph: None)
    monkeypatch.setattr("torch._inductor.aoti_compile_and_package", fail)
    with pytest.raises(CheckpointError, match=r"cannot compile this step: C\+\+ compile error$"):
        write_pt2(graphs["step"], tmp_path / "model.pt2")


def test_a_broken_file(tmp_path):
    (tmp_path / "model.pt2").write_bytes(b"not a package")
    with pytest.raises(CheckpointError, match="model.pt2 is not a package"):
        Package(tmp_path / "model.pt2", CPU)


def test_a_package_runs_where_it_was_compiled():
    assert refuses(facts(CPU), CPU) is None
    major, minor, *_ = torch.__version__.split(".")
    assert refuses(facts(CPU) | {"torch": f"{major}.{minor}.99+other"}, CPU) is None


@pytest.mark.parametrize(
    "change, words",
    [
        ({"torch": "2.1.0"}, "torch 2.1.0"),
        ({"device": "cuda"}, "device type cuda"),
        ({"gpu": "NVIDIA H200"}, "GPU NVIDIA H200, and here is none"),
        ({"cpu_capability": "AVX1024"}, "CPU instructions AVX1024"),
        ({"torch": None}, "torch unknown"),
    ],
)
def test_a_package_of_another_machine_is_refused(change, words):
    assert words in refuses(facts(CPU) | change, CPU)
