"""The registry of names, and the sets that need no files or come from packages."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from ddgan_fast.config import Model, preset
from ddgan_fast.data import NAMES, emoji, open_dataset
from ddgan_fast.errors import DataError, InputError, MissingError

POINTS = preset("gaussians25").model
TINY = preset("tiny").model


def test_gaussians25_are_25_modes_of_the_right_width():
    dataset = open_dataset("gaussians25", POINTS)
    points = dataset.__getitems__(list(range(100_000)))
    assert len(dataset) == 100_000 and points.shape == (100_000, 2) and points.dtype == torch.float32
    grid = points * 2.828
    modes = (grid / 2).round()
    assert {tuple(mode) for mode in modes.int().tolist()} == {(x, y) for x in range(-2, 3) for y in range(-2, 3)}
    assert modes.unique(dim=0, return_counts=True)[1].eq(4000).all()
    offsets = grid - 2 * modes
    assert offsets.mean(0).abs().max() < 1e-3
    assert (offsets.std(0) - 0.05).abs().max() < 1e-3
    assert offsets.T.corrcoef()[0, 1].abs() < 0.02


def test_a_point_is_a_function_of_its_index_and_the_seed():
    first, again, other = (open_dataset("gaussians25", POINTS, seed=seed) for seed in (3, 3, 2**32 - 1))
    assert torch.equal(first.__getitems__([5, 99_999]), again.__getitems__([99_999, 5]).flip(0))
    assert not torch.equal(first.__getitems__([5]), other.__getitems__([5]))


def test_digits():
    from sklearn.datasets import load_digits

    dataset = open_dataset("digits", TINY)
    images = dataset.__getitems__(list(range(1797)))
    assert len(dataset) == 1797 and images.shape == (1797, 1, 8, 8) and images.dtype == torch.uint8
    assert np.array_equal(images[:, 0].numpy(), np.rint(load_digits().images * 255 / 16))
    assert open_dataset("digits", Model(resolution=16)).__getitems__([0, 1]).shape == (2, 3, 16, 16)


@pytest.mark.parametrize("name, module", [("digits", "sklearn.datasets"), ("emoji", "fontTools.ttLib")])
def test_a_missing_package_is_named_with_its_pip_line(monkeypatch, tmp_path, name, module):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(emoji, "FONT", tmp_path / "font.ttf")
    (tmp_path / "font.ttf").write_bytes(b"x")
    with pytest.raises(MissingError, match=r'pip install "ddgan_fast\[toy\]"'):
        open_dataset(name, TINY)


@pytest.mark.skipif(not emoji.FONT.is_file(), reason=f"the emoji font is not installed: {emoji.APT_LINE}")
def test_emoji():
    pytest.importorskip("fontTools")
    dataset = open_dataset("emoji", Model(resolution=16))
    images = dataset.__getitems__(list(range(len(dataset))))
    assert len(dataset) == 3916  # Debian bookworm's 2.042: 3,926 bitmaps, ten of them repeated
    assert images.shape == (3916, 3, 16, 16)
    assert images[:, :, 0].float().mean() > 240  # the bitmaps are 136x128, and their transparent borders are white
    assert open_dataset(f"emoji:{emoji.FONT}", TINY).__getitems__([0]).shape == (1, 1, 8, 8)


def test_an_image_is_squared_without_cropping():
    square = emoji._squared(Image.new("RGB", (136, 128), "black"))
    assert square.size == (136, 136) and square.getpixel((0, 3)) == (255, 255, 255) and square.getpixel((135, 4)) == (0, 0, 0)


def test_emoji_that_cannot_be_read(monkeypatch, tmp_path):
    pytest.importorskip("fontTools")
    monkeypatch.setattr(emoji, "FONT", tmp_path / "absent.ttf")
    with pytest.raises(DataError, match="absent.ttf; apt-get install fonts-noto-color-emoji"):
        open_dataset("emoji", TINY)
    with pytest.raises(DataError, match="no file .*other.ttf"):
        open_dataset(f"emoji:{tmp_path / 'other.ttf'}", TINY)
    (tmp_path / "other.ttf").write_bytes(b"not a font")
    with pytest.raises(DataError, match="other.ttf: not a readable font"):
        open_dataset(f"emoji:{tmp_path / 'other.ttf'}", TINY)


def test_model_and_data_must_fit(tmp_path):
    with pytest.raises(InputError, match="--preset gaussians25"):
        open_dataset("gaussians25", TINY)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    for source in ("digits", tmp_path):
        with pytest.raises(InputError, match="draws points; use an image preset"):
            open_dataset(source, POINTS)
        with pytest.raises(InputError, match="image_channels = 4"):
            open_dataset(source, Model(image_channels=4))


@pytest.mark.parametrize("source, right", [("digits:/tmp", "digits alone"), ("digits:", "digits alone"), ("emoji:", "emoji:FILE, or")])
def test_a_colon_where_none_belongs(source, right):
    with pytest.raises(InputError, match=right):
        open_dataset(source, TINY)


@pytest.mark.parametrize(
    "source, reason",
    [
        ("fashion_mnist", "did you mean 'fashion-mnist'"),
        ("cifar:/data", "did you mean 'cifar10'"),
        ("xyz", f"not a set .{', '.join(NAMES)}"),
        ("./absent", "absent: no such path; .*CIFAR-10.*idx files.*images"),
    ],
)
@pytest.mark.parametrize("model", [TINY, POINTS], ids=["unet", "mlp"])
def test_what_is_neither_a_name_nor_a_path(tmp_path, monkeypatch, source, reason, model):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=reason):
        open_dataset(source, model)


def test_paths_that_hold_nothing(tmp_path):
    with pytest.raises(InputError, match="--data with a name"):
        open_dataset("", TINY)
    with pytest.raises(DataError, match="nothing to train on; looked for CIFAR-10.*idx files.*images"):
        open_dataset(tmp_path, TINY)
    (tmp_path / "a.zip").write_bytes(b"x")
    with pytest.raises(DataError, match="a.zip: a file of another kind; looked for CIFAR-10.*LMDB.*or a file: zip, npz"):
        open_dataset(tmp_path / "a.zip", TINY)
