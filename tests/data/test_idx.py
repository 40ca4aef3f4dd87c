"""idx files, Fashion-MNIST and StackedMNIST."""

import gzip
import struct

import numpy as np
import pytest
import torch
from torch.nn.functional import pad

from ddgan_fast.config import Model
from ddgan_fast.data import idx, open_dataset
from ddgan_fast.errors import DataError, InputError

GRAY = Model(image_channels=1)
RGB = Model()
COUNT = 30
IMAGES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (COUNT, 28, 28), dtype=np.uint8))
LABELS = torch.arange(COUNT, dtype=torch.uint8) % 10


def idx_bytes(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.numpy().tobytes()


def write_mnist(folder, images=IMAGES, labels=LABELS, spelling="-idx", suffix=""):
    pack = gzip.compress if suffix else bytes
    (folder / f"train-images{spelling}3-ubyte{suffix}").write_bytes(pack(idx_bytes(images)))
    (folder / f"train-labels{spelling}1-ubyte{suffix}").write_bytes(pack(idx_bytes(labels)))
    return folder


def every_index(dataset):
    return dataset.__getitems__(list(range(len(dataset))))


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("spelling", ["-idx", ".idx"])
def test_every_spelling_padded_to_32(tmp_path, spelling, suffix):
    write_mnist(tmp_path, spelling=spelling, suffix=suffix)
    want = pad(IMAGES[:, None], (2, 2, 2, 2))
    for source in (tmp_path, f"fashion-mnist:{tmp_path}"):
        assert torch.equal(every_index(open_dataset(source, GRAY)), want)
    rgb = every_index(open_dataset(tmp_path, RGB))
    assert torch.equal(rgb, want.expand(-1, 3, -1, -1)) and rgb.is_contiguous()


def test_other_resolutions(tmp_path):
    write_mnist(tmp_path)
    assert torch.equal(every_index(open_dataset(tmp_path, Model(resolution=28, image_channels=1, channel_mult=(1, 2, 2)))), IMAGES[:, None])
    assert every_index(open_dataset(tmp_path, Model(resolution=16))).shape == (COUNT, 3, 16, 16)


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "starts with ''"),
        (b"\0\0\x08\x03\0\0", "starts with"),
        (idx_bytes(LABELS), "3-D idx files start with '00 00 08 03'"),
        (b"\0\0\x0d\x03" + idx_bytes(IMAGES)[4:], "starts with '00 00 0d 03'"),
        (idx_bytes(IMAGES)[:-1], "23,520 bytes, and the file holds 23,519; truncated"),
        (idx_bytes(IMAGES) + b"\0", "holds more"),
        (b"\0\0\x08\x03" + struct.pack(">3I", 0, 28, 28), "0 bytes; it must be 1"),
        (b"\0\0\x08\x03" + struct.pack(">3I", 2**32 - 1, 2**16, 2**16), "the header promises"),
    ],
)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_broken_file_is_named(tmp_path, content, reason, suffix):
    (tmp_path / f"{idx.IMAGES}{suffix}").write_bytes(gzip.compress(content) if suffix else content)
    with pytest.raises(DataError, match=f"{idx.IMAGES}{suffix}: .*{reason}"):
        open_dataset(tmp_path, GRAY)


@pytest.mark.parametrize("content", [gzip.compress(idx_bytes(IMAGES))[:-2000], idx_bytes(IMAGES)], ids=["truncated", "not gzip"])
def test_broken_gzip_is_named(tmp_path, content):
    (tmp_path / f"{idx.IMAGES}.gz").write_bytes(content)
    with pytest.raises(DataError, match=f"{idx.IMAGES}.gz: cannot be read"):
        open_dataset(tmp_path, GRAY)


def test_stackedmnist_is_two_passes_of_three_permutations(tmp_path):
    flat = torch.arange(COUNT, dtype=torch.uint8)[:, None, None].expand(COUNT, 28, 28)  # an image's pixels are its number
    dataset = open_dataset(f"stackedmnist:{write_mnist(tmp_path, flat)}", RGB)
    images = every_index(dataset)
    assert images.shape == (2 * COUNT, 3, 32, 32) and images.dtype == torch.uint8 and images.is_contiguous()
    assert images[:, :, :2].eq(0).all()
    numbers = images[:, :, 16, 16].long()
    for half in (numbers[:COUNT], numbers[COUNT:]):
        for channel in half.T:
            assert torch.equal(channel.sort().values, torch.arange(COUNT))
    columns = [*numbers[:COUNT].T, *numbers[COUNT:].T]
    assert len({tuple(column.tolist()) for column in columns}) == 6
    assert dataset.labels.dtype == torch.int64
    assert torch.equal(dataset.labels, (LABELS.long()[numbers] * torch.tensor([100, 10, 1])).sum(1))
    again = open_dataset(f"stackedmnist:{tmp_path}", RGB, seed=7)
    assert torch.equal(every_index(again), images)


def test_stackedmnist_refuses_what_it_cannot_stack(tmp_path):
    with pytest.raises(InputError, match="image_channels = 1"):
        open_dataset(f"stackedmnist:{tmp_path}", GRAY)
    with pytest.raises(DataError, match="no idx files here"):
        open_dataset(f"stackedmnist:{tmp_path}", RGB)
    write_mnist(tmp_path, labels=LABELS[:-1])
    with pytest.raises(DataError, match="train-labels.*29 labels"):
        open_dataset(f"stackedmnist:{tmp_path}", RGB)
    write_mnist(tmp_path, labels=LABELS + 1)
    with pytest.raises(DataError, match="labels up to 10"):
        open_dataset(f"stackedmnist:{tmp_path}", RGB)
    (tmp_path / idx.LABELS).unlink()
    with pytest.raises(DataError, match=f"no {idx.LABELS}"):
        open_dataset(f"stackedmnist:{tmp_path}", RGB)


def test_images_with_labels_of_both_parts(tmp_path):
    write_mnist(tmp_path)
    images, labels = idx.read_labelled(tmp_path, (1, 32, 32))
    assert torch.equal(images, pad(IMAGES[:, None], (2, 2, 2, 2))) and torch.equal(labels, LABELS.long())
    with pytest.raises(DataError, match="looked for t10k-images-idx3-ubyte"):
        idx.read_labelled(tmp_path, (1, 28, 28), "t10k")
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx_bytes(IMAGES[:7]))
    with pytest.raises(DataError, match="no t10k-labels-idx1-ubyte"):
        idx.read_labelled(tmp_path, (1, 28, 28), "t10k")
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(LABELS[:7]))
    images, labels = idx.read_labelled(tmp_path, (1, 28, 28), "t10k")
    assert torch.equal(images, IMAGES[:7, None]) and torch.equal(labels, LABELS[:7].long())


def test_without_the_debian_package_the_error_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(idx, "FASHION_MNIST", tmp_path / "absent")
    with pytest.raises(DataError, match="apt-get install dataset-fashion-mnist"):
        open_dataset("fashion-mnist", GRAY)
    with pytest.raises(DataError, match="stackedmnist:DIR.*apt-get install dataset-fashion-mnist"):
        open_dataset("stackedmnist", RGB)


@pytest.mark.skipif(idx.find(idx.FASHION_MNIST, idx.IMAGES) is None, reason=f"Fashion-MNIST is not installed: {idx.APT_LINE}")
def test_debian_fashion_mnist():
    assert len(open_dataset("fashion-mnist", GRAY)) == 60_000
    stacked = open_dataset("stackedmnist", RGB)
    assert len(stacked) == len(stacked.labels) == 120_000
    assert len(stacked.labels.unique()) == 1000
