"""The harness of the kernel benchmarks: a wrong result gets no row, a run cut off keeps its rows, cases are read off the networks."""

import csv
import importlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ddgan_fast.ops import fir_blur

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


@pytest.fixture
def benchmark(monkeypatch):
    """Imports a module of benchmarks/, which is not installed, by its name."""
    monkeypatch.syspath_prepend(str(ROOT))
    return lambda name: importlib.import_module(f"benchmarks.{name}")


@dataclass(frozen=True)
class Case:
    batch: int = 2


def run(harness, op, eager):
    """Number of passes (of two) without `ours`, for a blur of tiny images."""
    kernel = harness.Kernel(
        "blur",
        cases=lambda *_: Counter([Case()]),
        inputs=lambda case, dtype, device: {"x": torch.randn(case.batch, 4, 5, 5, dtype=dtype, device=device)},
        op=lambda case: op,
        others=lambda case: {"eager": eager},
        bytes_moved=lambda case, itemsize, backward: 1000,
    )
    return harness.run(kernel, SimpleNamespace(device=CPU, dtype=torch.float32, seconds=60))


@pytest.mark.parametrize("wrong", [lambda x: 1.01 * fir_blur(x), lambda x: fir_blur(x) * torch.nan, lambda x: x.no_such_thing])
def test_a_provider_with_a_wrong_result_gets_no_row_and_the_others_do(benchmark, capsys, wrong):
    assert run(benchmark("harness"), fir_blur, wrong) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("no row for eager") for line in lines) == 2
    rows = [line for line in lines if "ours" in line]
    assert len(rows) == 2 and not any("eager" in row for row in rows)


def test_passes_without_ours_are_counted(benchmark):
    def op(x):
        if x.dtype == torch.float32:
            raise RuntimeError("no kernel")
        return fir_blur(x)

    assert run(benchmark("harness"), op, fir_blur) == 2


def test_a_row_is_on_disk_as_soon_as_it_is_added(benchmark, tmp_path):
    rows = benchmark("harness").Rows("name", CPU, tmp_path)
    assert not (tmp_path / "name.csv").exists()
    for count in (1, 2):
        rows.add({"case": f"case {count}", "ms": count})
        with open(tmp_path / "name.csv", encoding="utf-8") as file:
            table = list(csv.DictReader(file))
        assert [row["case"] for row in table] == ["case 1", "case 2"][:count]
        assert list(table[0]) == ["case", "ms", "device", "torch", "triton", "commit"]


@pytest.mark.parametrize("name, norms, gflop", [("cifar10", 61, 13.43), ("celebahq256", 89, 140.2)])
def test_cases_are_those_of_the_networks(benchmark, name, norms, gflop):
    assert benchmark("group_norm").cases(name, 4).total() == norms
    found = benchmark("calibration").convolutions(name, 4)
    generator = sum(case.flop * calls for case, calls in found if case.network.endswith("generator"))
    assert generator / 4e9 == pytest.approx(gflop, rel=1e-3)
    assert benchmark("residual").cases(name, 4).total() > 30
    assert {case.kind for case in benchmark("fir").cases(name, 4)} == {"up", "down", "blur"}
