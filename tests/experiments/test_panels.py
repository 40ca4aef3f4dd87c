"""Pictures in rows and columns: every image is where it belongs, pixel by pixel; folders and missing packages have words."""

import sys

import numpy as np
import pytest

from ddgan_fast.errors import InputError, MissingError
from ddgan_fast.experiments.panels import GAP, HEAD, LEAST_WIDTH, WIDE_GAP, folder_for, new_figure, panel


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_where_rows_and_columns_say(channels):
    a, b, c = np.random.default_rng(0).integers(0, 255, (3, LEAST_WIDTH // 2, LEAST_WIDTH // 2, channels), np.uint8)
    side = len(a)
    picture = panel([[[a, b]], [[None, c]]], {1: "x_0 and more"}, apart=(1,))
    left, top = GAP + side + WIDE_GAP, HEAD + side + WIDE_GAP
    assert picture.shape == (top + side + GAP, left + side + GAP, channels)
    assert np.array_equal(picture[HEAD : HEAD + side, GAP : GAP + side], a)
    assert np.array_equal(picture[HEAD : HEAD + side, left : left + side], b)
    assert np.array_equal(picture[top : top + side, left : left + side], c)
    assert (picture[HEAD + side :, :left] == 255).all()
    assert (picture[:HEAD, : left - 2] == 255).all() and (picture[:HEAD, left:] < 100).any()


def test_small_images_are_enlarged_and_long_words_are_not_cut():
    image = np.arange(4, dtype=np.uint8).reshape(2, 2, 1)
    picture = panel([[[image]]], {0: "short"})
    assert np.array_equal(picture[HEAD : HEAD + LEAST_WIDTH, GAP : GAP + LEAST_WIDTH], image.repeat(280, 0).repeat(280, 1))
    words = panel([[[image]]], {0: "long " * 40})
    assert words.shape[1] > picture.shape[1] and (words[:, -GAP:] == 255).all()


def test_folder_and_missing_matplotlib(tmp_path, monkeypatch):
    assert folder_for(tmp_path / "a/b").is_dir()
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(InputError, match="give a folder"):
            folder_for(path)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingError, match=r'pip install "ddgan_fast\[plots\]"'):
        new_figure()
