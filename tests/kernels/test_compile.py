"""Ahead-of-time compilation of every kernel, dtype and architecture: no spills, shared memory within limits. Needs no GPU.

In a process of its own, since the kernels of this one are interpreted.
"""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
ROOT = Path(__file__).parents[2]


SLOW = pytest.mark.slow, pytest.mark.timeout(2400)
EVERY_ARCHITECTURE = pytest.param([], id="every architecture", marks=SLOW)
EVERY_FORM = pytest.param(["--all", "--sm", "90"], id="every form", marks=SLOW)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("options", [pytest.param(["--sm", "90"], id="one architecture"), EVERY_ARCHITECTURE, EVERY_FORM])
def test_every_kernel_compiles_without_spills(tmp_path, options):
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"} | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "benchmarks.kernels_report", "--out", str(tmp_path), *options]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    rows = list(csv.DictReader((tmp_path / "kernels.csv").open()))
    assert {row["sm"] for row in rows} == ({"90"} if options else {"80", "90", "100", "120"})
    assert {row["dtype"] for row in rows} == {"bfloat16", "float16", "float32"}
    source = [line for path in (ROOT / "kernels").glob("*.py") for line in path.read_text().splitlines()]
    kernels = {
        line.split("(")[0].removeprefix("def ") for line in source if line.startswith("def ") and line.split("(")[0].endswith("_kernel")
    }
    assert {row["kernel"].partition(".")[2] for row in rows} == kernels
