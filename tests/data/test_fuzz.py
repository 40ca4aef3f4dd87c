"""Thousands of mutated files: only DataError or whole images come out, and memory stays bounded (faults 15-17).

A mutated LMDB is left out: its C library trusts its pages, as formats/lmdb.py says.
"""

import io
import json
import random
import subprocess
import sys
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddgan_fast.config import Model
from ddgan_fast.data import open_dataset
from ddgan_fast.data.decode import decode
from ddgan_fast.errors import DataError

KINDS = ["PNG", "JPEG", "WEBP"]
COUNT = 1000
MOST_MB = 500
STATUS = Path("/proc/self/status")


def mutated(content, generator):
    """The bytes with 1 to 4 flips, other values, cuts or inserts."""
    content = bytearray(content)
    for _ in range(generator.randint(1, 4)):
        place = generator.randrange(len(content) + 1)
        match generator.choice(["flip", "value", "remove", "end", "insert"]):
            case "flip" if place < len(content):
                content[place] ^= 1 << generator.randrange(8)
            case "value" if place < len(content):
                content[place] = generator.randrange(256)
            case "remove":
                del content[place : place + generator.randint(1, 64)]
            case "end":
                del content[max(place, len(content) // 2) :]
            case "insert":
                content[place:place] = generator.randbytes(generator.randint(1, 32))
    return bytes(content)


def with_checksums(png):
    """The PNG with its chunks' checksums made right, so that what is in them is looked at."""
    content, place = png[:8], 8
    while place + 12 <= len(png):
        end = place + 8 + int.from_bytes(png[place : place + 4])
        content += png[place:end] + zlib.crc32(png[place + 4 : end]).to_bytes(4)
        place = end + 4
    return content


def images_of(kind):
    """Small files of every mode that the kind has, one with EXIF."""
    exif = Image.Exif()
    exif.update({0x0112: 6, 0x010E: "a text", 0x011A: 72.0})
    noise = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((33, 24))
    for mode, options in (
        ("RGB", {}),
        ("L", {}),
        ("RGB", {"exif": exif}),
        *((("RGBA", {}), ("P", {})) if kind != "JPEG" else [("CMYK", {})]),
    ):
        file = io.BytesIO()
        image.convert(mode).save(file, kind, **options)
        yield file.getvalue()


def decode_mutated(kind):
    """Counts of what came out, by its name."""
    generator, originals, outcomes = random.Random(kind), list(images_of(kind)), Counter()
    for number in range(COUNT):
        content = mutated(originals[number % len(originals)], generator)
        if kind == "PNG" and generator.random() < 0.5:
            content = with_checksums(content)
        try:
            pixels = decode(content, "label", (3, 16, 16))
            outcomes["image" if pixels.shape == (3, 16, 16) and pixels.dtype == torch.uint8 else "another shape"] += 1
        except DataError as error:
            outcomes["DataError" if str(error).startswith("label: ") else "unnamed"] += 1
        except Exception as error:
            outcomes[repr(error)] += 1
    return outcomes


def peak_mb():
    """The most memory that this process has held; getrusage begins with what the one before it held."""
    return next(int(line.split()[1]) / 1024 for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))


@pytest.mark.skipif(not STATUS.exists(), reason="of Linux: it measures memory")
def test_mutated_images():
    ran = subprocess.run([sys.executable, __file__], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    *lines, peak = map(json.loads, ran.stdout.splitlines())
    assert peak < MOST_MB
    for kind, outcomes in zip(KINDS, lines, strict=True):
        assert sum(outcomes.values()) == COUNT and outcomes.keys() == {"image", "DataError"}, (kind, outcomes)


@pytest.mark.parametrize("kind", ["tar", "zip", "parquet", "npz"])
@pytest.mark.filterwarnings("ignore")  # of Pillow's, about EXIF
def test_mutated_archives(tmp_path, kind):
    from . import packing

    whole = tmp_path / f"whole.{kind}"
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    if kind == "npz":
        np.savez(whole, images=np.zeros((2, 8, 8, 3), np.uint8))
    else:
        getattr(packing, f"write_{kind}")(whole, packing.named(packing.encoded(3, 8)))
    content, generator, outcomes = whole.read_bytes(), random.Random(kind), Counter()
    if kind == "tar":
        content = content.rstrip(b"\0") + bytes(1024)  # without its padding, where a change is none
    for number in range(300):
        path = tmp_path / f"{number}.{kind}"
        path.write_bytes(mutated(content, generator))
        try:
            dataset = open_dataset(path, Model(resolution=8), resident_gb=number % 2)
            assert dataset.__getitems__(list(range(len(dataset)))).shape[1:] == (3, 8, 8)
            outcomes["images"] += 1
        except DataError as error:
            assert str(path) in str(error)
            outcomes["DataError"] += 1
    assert outcomes["DataError"] > 100


if __name__ == "__main__":
    for each in KINDS:
        print(json.dumps(decode_mutated(each)))
    print(peak_mb())
