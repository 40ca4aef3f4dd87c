"""A run that is left at any step and resumed equals one that was not: weights, averages, optimisers, loss scale, metrics."""

import json

import pytest
import torch

from ddgan_fast.checkpoint.folder import newest_checkpoint, read_json
from ddgan_fast.config import override, preset
from ddgan_fast.data import open_loader
from ddgan_fast.training.loop import Run, train
from ddgan_fast.training.run import open_run

OF_THE_MACHINE = {"images_per_s", "data_wait_percent", "peak_memory_mb"}  # fields of metrics.jsonl
STEPS = 8


def settings(**changes):
    """A line of metrics at every step, because a line is a mean since the one before, or since the start."""
    return override(preset("tiny"), {"flip": True, "iterations": STEPS, "log_every": 1, "checkpoint_every": STEPS} | changes)


def same_run(same_checkpoint, a, b):
    left, right = (newest_checkpoint(out / "checkpoints") for out in (a, b))
    assert left.name == right.name == f"checkpoint-{STEPS:08d}"
    same_checkpoint(left, right)
    assert read_json(left / "state.json")["loss_scale"] == read_json(right / "state.json")["loss_scale"]
    want, got = ([json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()] for out in (a, b))
    assert [line["step"] for line in got] == list(range(1, STEPS + 1))
    for one, other in zip(want, got, strict=True):
        assert one.keys() == other.keys()
        assert all(one[name] == other[name] for name in one.keys() - OF_THE_MACHINE), (one, other)


CASES = [(cut, {}) for cut in range(1, STEPS)] + [(3, {"precision": "fp16"}), (5, {"accumulate": 2}), (4, {"r1_every": 1})]


@pytest.mark.parametrize("cut, changes", CASES, ids=lambda value: str(value or "plain"))
def test_resume_is_exact_at_every_step(tmp_path, monkeypatch, same_checkpoint, cut, changes):
    # so that the first steps of fp16 overflow, and the scale at the cut is another than at the start
    monkeypatch.setattr("ddgan_fast.training.adam.FIRST_SCALE", 2.0**24)
    monkeypatch.setattr(Run, "sample", lambda self: None)  # most of the time of so short a run
    config, (whole, half) = settings(**changes), (tmp_path / "whole", tmp_path / "half")
    train(open_run(whole, config, {}), open_loader(config, "cpu"), whole)

    until = override(config, {"checkpoint_every": cut})
    left = Run(open_run(half, until, {}), open_loader(config, "cpu"), half)
    with left:
        for _ in range(cut):
            left.step()
    torch.manual_seed(12345)  # another process has another state
    state = open_run(half, config, {}, resume=True)
    assert state.step == cut
    if "precision" in changes:  # else the scale is not tested
        assert all(0 < scale < 2.0**24 for scale, _ in (state.optim_g.loss_scale(), state.optim_d.loss_scale()))
    train(state, open_loader(config, "cpu"), half)
    same_run(same_checkpoint, whole, half)
