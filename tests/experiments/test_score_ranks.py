"""Ranks that share the images out find the row that one finds alone."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "two_ranks.py"


def row_of(out, world, caches=("cache", "cache")):
    """What `world` processes find, each with its folder of caches."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = os.environ | {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen([sys.executable, SCRIPT, out, caches[rank]], env=common | {"RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
        for rank in range(world)
    ]
    for process in ranks:
        errors = process.communicate(timeout=120)[1]
        assert process.returncode == 0, errors
    return json.loads((out / "row.json").read_text())


def test_two_ranks_find_what_one_finds(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    alone, shared = row_of(tmp_path / "one", 1), row_of(tmp_path / "two", 2)
    assert shared.pop("device") == alone.pop("device") + " x2"
    assert alone["corner-FID"] > 0 and 0 < alone["corner-recall"] < 1 < alone["corner-IS"]
    for row in (alone, shared):
        del row["seconds"]
    numbers = {name: value for name, value in alone.items() if isinstance(value, float)}
    assert {name: shared.pop(name) for name in numbers} == pytest.approx(numbers, rel=1e-9)
    assert shared == {name: value for name, value in alone.items() if name not in numbers}
    again = row_of(tmp_path / "two", 1)  # from the reference that two ranks have made
    assert again["corner-FID"] == pytest.approx(alone["corner-FID"], rel=1e-9)
    assert len(list((tmp_path / "two/cache").iterdir())) == 1


def test_ranks_that_see_different_caches_do_the_same_work(tmp_path):
    """As on nodes without a common home: what one alone finds in its cache must not pair with what the others compute."""
    want = row_of(tmp_path, 1)["corner-FID"]
    for caches in (("cache", "empty"), ("other", "cache")):
        assert row_of(tmp_path, 2, caches)["corner-FID"] == pytest.approx(want, rel=1e-9)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["cache", "other"]
