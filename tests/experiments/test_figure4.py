"""Figure 4 shows the rows that have FID and time, FIDs of other networks in a panel of their own, and no name on another."""

import importlib
import sys

import pytest
from PIL import Image

from ddgan_fast.errors import InputError, MissingError
from ddgan_fast.experiments import figure4, published
from ddgan_fast.experiments.tables import SECONDS

PAPER = [row._asdict() | {"source": "paper, V100", SECONDS: row.seconds} for row in published.TABLE1]
MINE = [
    {"source": "measured", "model": f"T={steps}", "FID": None, "lite0-FID": fid, SECONDS: seconds, "device": "CPU, 2 threads"}
    for steps, fid, seconds in ((1, 45.0, 10.0), (4, 30.0, 37.0))
]
UNTRAINED = {"source": "measured", "model": "DDIM, untrained", "FID": None, SECONDS: 480.0, "device": "CPU, 2 threads"}


@pytest.fixture
def drawn(monkeypatch):
    """drawn(rows, path): the Figure that was written."""
    pytest.importorskip("matplotlib")

    def draw(rows, path):
        kept = []
        save = figure4.save_figure
        monkeypatch.setattr(figure4, "save_figure", lambda figure, path: (kept.append(figure), save(figure, path)))
        figure4.draw(rows, path)
        return kept[0]

    return draw


def test_the_published_figure(drawn, tmp_path):
    (axes,) = drawn(PAPER, tmp_path / "figure4.png").axes
    assert Image.open(tmp_path / "figure4.png").size == (960, 660)
    assert (axes.get_xscale(), axes.get_xlabel(), axes.get_ylabel()) == ("log", SECONDS, "FID")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["paper, V100"]
    names = {text.get_text(): text.xy for text in axes.texts}
    assert len(names) == 15 and names["Score SDE (VP)"] == (421.5, 2.41)
    assert names["Denoising Diffusion GAN (ours), T=4"] == (0.21, 3.75)
    boxes = [text.get_window_extent() for text in axes.texts]
    assert not any(box.overlaps(other) for i, box in enumerate(boxes) for other in boxes[:i])


def test_measured_points_are_marked(drawn, tmp_path):
    mine = {"source": "measured", "model": "mine (a)", "FID": 4.5, SECONDS: 0.1, "device": "NVIDIA H200"}
    (axes,) = drawn([mine, UNTRAINED, *PAPER], tmp_path / "figure4.png").axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["measured, NVIDIA H200", "paper, V100"]
    names = [text.get_text() for text in axes.texts]
    assert "mine (a)" in names and len(names) == 16


def test_another_network_has_its_own_panel(drawn, tmp_path):
    left, right = drawn([*MINE, *PAPER], tmp_path / "figure4.png").axes
    assert Image.open(tmp_path / "figure4.png").size == (1920, 660)
    assert (left.get_ylabel(), right.get_ylabel()) == ("FID", "lite0-FID")
    assert [text.get_text() for text in right.texts] == ["T=1", "T=4"]
    assert not {"T=1", "T=4"} & {text.get_text() for text in left.texts}
    assert left.get_xlim() == right.get_xlim()


def test_names_stay_apart_where_points_are_close(drawn, tmp_path):
    rows = [MINE[0] | {"model": f"model {i}", "lite0-FID": 40 + i / 10} for i in range(4)]
    (axes,) = drawn(rows, tmp_path / "figure4.png").axes
    boxes = [text.get_window_extent() for text in axes.texts]
    assert not any(box.overlaps(other) for i, box in enumerate(boxes) for other in boxes[:i])


def test_rows_without_quality_are_refused(tmp_path):
    with pytest.raises(InputError, match="no row has both an FID and"):
        figure4.draw([UNTRAINED], tmp_path / "figure4.png")
    assert not list(tmp_path.iterdir())


def test_without_matplotlib_the_pip_line_is_given(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError):
        importlib.import_module("matplotlib.figure")
    with pytest.raises(MissingError, match=r'pip install "ddgan_fast\[plots\]"'):
        figure4.draw(PAPER, tmp_path / "figure4.png")
