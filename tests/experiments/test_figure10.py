"""Fig. 10: what is read from metrics.jsonl, in bounded memory, and the words for a file that is none."""

import json

import numpy as np
import pytest

from ddgan_fast.errors import DataError
from ddgan_fast.experiments import figure10
from ddgan_fast.experiments.figure10 import draw, read_losses, smooth


def line(step, losses):
    return json.dumps({"step": step, "d_loss_t": losses}) + "\n"


def test_reads_steps_and_losses_and_leaves_a_half_line_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(line(2, [1.0, None]) + line(4, [2.0, 3.0]) + line(6, [0, 0])[:-5])
    steps, losses = read_losses(path)
    assert steps.tolist() == [2, 4]
    assert np.array_equal(losses, [[1.0, np.nan], [2.0, 3.0]], equal_nan=True)


def test_a_long_record_is_averaged(tmp_path, monkeypatch):
    monkeypatch.setattr(figure10, "MOST", 4)
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(line(step, [float(step), None if step % 2 else 5.0]) for step in range(100)))
    steps, losses = read_losses(path)
    assert steps.tolist() == [7.5, 23.5, 39.5, 55.5, 71.5, 87.5, 97.5]  # 16 lines each, and the last four
    assert np.array_equal(steps, losses[:, 0])
    assert np.nanmax(np.abs(losses[:, 1] - 5)) == 0


BAD = {
    "text": (b"hello\n", ":1: no record"),
    "no losses": (b'{"step": 1}\n', ":1: no record"),
    "nested": (b'{"step": 1, "d_loss_t": [[1, 2]]}\n', ":1: no record"),
    "no t": (b'{"step": 1, "d_loss_t": []}\n', ":1: d_loss_t holds 0"),
    "another T": (line(1, [1.0]).encode() + line(2, [1.0, 2.0]).encode(), ":2: d_loss_t holds 2"),
    "a list": (b"[]\n", ":1: no record"),
    "deep": (b"[" * 60_000 + b"\n", ":1: no record"),
    "long": (b"[" + b" " * 2**20 + b"]\n", ":1: a line of more than 65,536 bytes"),
    "not text": (b"\xff\xfe\n", ":1: no record"),
    "empty": (b"", "no line is whole"),
    "half": (b'{"step": 1', "no line is whole"),
}


@pytest.mark.parametrize("content, words", BAD.values(), ids=BAD)
def test_says_what_is_wrong(tmp_path, content, words):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=words):
        read_losses(path)


def test_says_that_there_is_no_run(tmp_path):
    with pytest.raises(DataError, match="the folder of a run"):
        read_losses(tmp_path / "metrics.jsonl")


def test_smooth_is_a_mean_without_what_is_missing():
    assert smooth(np.array([1.0, 2.0, np.nan, 4.0]), 3).tolist() == [1.5, 1.5, 3.0, 4.0]
    assert np.isnan(smooth(np.full(3, np.nan), 3)).all()


@pytest.mark.parametrize("points", [1, 50])
def test_draws_the_same_picture_again(tmp_path, points):
    pytest.importorskip("matplotlib")
    steps = np.arange(points, dtype=float)
    losses = np.stack((np.sin(steps / 9), np.full(points, np.nan)), axis=1)
    for name in ("a.png", "b.png"):
        draw(tmp_path / name, steps, losses)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
