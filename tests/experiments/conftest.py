"""Small idx files, and a model of stacked digits."""

import struct

import numpy as np
import pytest


def write_idx(folder, part, images, labels):
    (folder / f"{part}-images-idx3-ubyte").write_bytes(bytes([0, 0, 8, 3]) + struct.pack(">3I", *images.shape) + images.tobytes())
    (folder / f"{part}-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1]) + struct.pack(">I", len(labels)) + labels.tobytes())


@pytest.fixture(scope="session")
def bars(tmp_path_factory):
    """A folder of idx files: class c is a bright row 3c .. 3c + 2 of 28, with noise."""
    folder, rng = tmp_path_factory.mktemp("bars"), np.random.default_rng(0)
    for part, count in (("train", 600), ("t10k", 100)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = rng.integers(0, 60, (count, 28, 28), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[3 * label : 3 * label + 3 if label < 9 else 28] = 200
        write_idx(folder, part, images, labels)
    return folder


@pytest.fixture(scope="session")
def stacked_model(make, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    make(resolution=32, image_channels=3, data="").save_pretrained(folder / "stacked")
    return folder / "stacked"
