"""The traffic of the generator, counted from the code: a kernel or a pass more is seen here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
ROOT = Path(__file__).parents[2]
PROGRAM = """
from benchmarks.traffic import count
for name, batch in (("cifar10", 100), ("celebahq256", 1)):
    traffic = count(name, batch, "triton")
    print(sum(traffic.launches.values()), sum(traffic.bytes.values()))
"""


def test_launches_and_bytes_of_a_forward():
    """In a process of its own: the kernels of this one may be interpreted."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"} | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    (cifar_launches, cifar_bytes), (large_launches, large_bytes) = (map(int, line.split()) for line in run.stdout.splitlines())
    assert 250 < cifar_launches <= 330
    assert 4.9e9 < cifar_bytes <= 5.63e9
    assert 400 < large_launches <= 480
    assert 1.2e9 < large_bytes <= 1.48e9
