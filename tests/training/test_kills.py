"""Runs that are killed at random moments, or asked to stop, lose nothing that was saved."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "kill_runs.py"


@pytest.mark.parametrize("number, kills", [("KILL", 40), ("TERM", 5)])
def test_a_run_that_is_ended_again_and_again_equals_one_that_was_not(tmp_path, number, kills):
    command = [sys.executable, SCRIPT, "--kills", str(kills), "--signal", number, "--out", tmp_path]
    found = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith(f"{kills} SIG{number} in ")
    print(found.stdout)
