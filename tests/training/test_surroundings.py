"""Training where little can be taken for granted: no home, the C locale, paths of any bytes, a clock that jumps back."""

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ddgan_fast import cli
from ddgan_fast.checkpoint.folder import newest_checkpoint
from ddgan_fast.config import override, preset
from ddgan_fast.data import open_loader
from ddgan_fast.training.loop import train
from ddgan_fast.training.run import open_run

NO_FOLDER, READ_ONLY = "/nonexistent", "/proc"  # /proc: root may write to a folder that chmod made read-only


@pytest.mark.parametrize("home, name", [(NO_FOLDER, b"a run  of mine"), (READ_ONLY, b"b\xe9\xff")], ids=["spaces", "not UTF-8"])
def test_a_run_without_home_or_locale_in_a_folder_of_any_name(tmp_path, home, name):
    out = os.fsencode(tmp_path) + b"/" + name
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "XDG_", "PYTHON"))}
    command = [sys.executable, "-m", "ddgan_fast.cli", "train", "--preset", "tiny", "--iterations", "2", "--device", "cpu", "--out", out]
    found = subprocess.run(command, env=kept | {"HOME": home, "LC_ALL": "C"}, capture_output=True, timeout=120)
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith(out + b": 2 steps")
    assert b"checkpoint-00000002" in os.listdir(out + b"/checkpoints")


def test_a_run_in_a_folder_that_is_not_utf8_resumes(tmp_path):
    out = Path(os.fsdecode(os.fsencode(tmp_path) + b"/b\xe9\xff"))
    for iterations in (1, 2):
        config = override(preset("tiny"), {"iterations": iterations})
        state = open_run(out, config, {}, resume=iterations == 2)
        train(state, open_loader(config, "cpu"), out)
    assert state.step == 2


def test_a_path_that_stdout_cannot_show_does_not_fail_the_run(tmp_path, monkeypatch):
    """As in the locale en_US.UTF-8, where stdout is strict; in C and C.UTF-8 it is not."""
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="strict"))
    out = os.fsdecode(os.fsencode(tmp_path) + b"/b\xe9\xff")
    assert cli.main(["train", "--preset", "tiny", "--iterations", "1", "--device", "cpu", "--out", out]) == 0


def test_a_clock_that_jumps_back_is_not_looked_at(tmp_path, monkeypatch):
    now = 4e9

    def back():
        nonlocal now
        now -= 3600
        return now

    config, out = override(preset("tiny"), {"iterations": 2, "log_every": 1}), tmp_path / "run"
    monkeypatch.setattr(time, "time", back)
    train(open_run(out, config, {}), open_loader(config, "cpu"), out)
    monkeypatch.undo()
    assert newest_checkpoint(out / "checkpoints").name == "checkpoint-00000002"
    for line in map(json.loads, (out / "metrics.jsonl").read_text().splitlines()):
        assert line["images_per_s"] > 0 and 0 <= line["data_wait_percent"] <= 100
