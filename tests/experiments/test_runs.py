"""Trainings of an experiment: stopped, gone on with, and what they cost."""

import shutil
import signal

import pytest

from ddgan_fast.config import override, preset
from ddgan_fast.errors import InputError, StoppedError
from ddgan_fast.experiments import runs
from ddgan_fast.training import loop

CONFIG = override(preset("gaussians25"), {"channels": 8, "iterations": 4, "batch_size": 16, "checkpoint_every": 2, "sample_every": 100})


@pytest.fixture
def stop_at(monkeypatch):
    """stop_at(step): SIGTERM comes once there are so many steps, and is heeded two steps later; None: no more."""
    step_of = loop.Run.step

    def stop_at(last):
        def step(run, stop=False):
            if run.state.step == last:
                signal.raise_signal(signal.SIGTERM)
            return step_of(run, stop)

        monkeypatch.setattr(loop.Run, "step", step)

    return stop_at


def test_what_a_training_cost_is_kept_over_stops(tmp_path, stop_at, monkeypatch):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(runs, "time", type("clock", (), {"perf_counter": lambda: next(clock)}))  # each part takes 10 seconds
    run = tmp_path / "run"
    stop_at(1)
    with pytest.raises(StoppedError, match="run: stopped at step 3 and saved; the same command goes on from there") as stopped:
        runs.finish(run, CONFIG, "cpu")
    assert stopped.value.exit_code == 128 + signal.SIGTERM
    shutil.copytree(run, tmp_path / "other")
    stop_at(None)
    assert runs.finish(run, CONFIG, "cpu") == runs.finish(run, CONFIG, "cpu") == (20, 5000)

    (tmp_path / "other" / runs.COST).write_text("")  # as where a process was killed before it could write
    assert runs.finish(tmp_path / "other", CONFIG, "cpu") is runs.finish(tmp_path / "other", CONFIG, "cpu") is None


def test_a_folder_is_checked_before_anything_is_trained(tmp_path):
    run = tmp_path / "run"
    runs.check_run(run, CONFIG)
    runs.finish(run, CONFIG, "cpu")
    runs.check_run(run, CONFIG)
    with pytest.raises(InputError, match="run: was trained with other settings: seed: 0 -> 9; give another --out"):
        runs.check_run(run, override(CONFIG, {"seed": 9}))
    (run / "config.yaml").unlink()
    with pytest.raises(InputError, match="run: holds no run"):
        runs.check_run(run, CONFIG)
