"""Shards whose images are their numbers, for the tests of streams."""

import io
import json
import os
from itertools import islice

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ddgan_fast.config import override, preset
from ddgan_fast.data import open_loader

from . import packing


def png(number, padding=0):
    """An image 8 x 8 whose pixels are the number, but for its right half, which is black; the file is `padding` bytes longer."""
    image, file, note = Image.new("L", (8, 8), number), io.BytesIO(), PngInfo()
    image.paste(0, (4, 0, 8, 8))
    note.add_text("padding", "x" * padding)
    image.save(file, "PNG", pnginfo=note if padding else None)
    return file.getvalue()


def write_tar(path, members):
    """members: [(name, image file)]; each gets a label beside it."""
    packing.write_tar(path, [each for name, content in members for each in ((name, content), (f"{os.path.splitext(name)[0]}.cls", b"7"))])


def write_shards(folder, *counts, seen=None):
    """Shards of so many images, numbered through, as an index lists them. seen: the counts in it."""
    first = 0
    for shard, count in enumerate(counts):
        write_tar(folder / f"{shard}.tar", [(f"{number}.png", png(number)) for number in range(first, first + count)])
        first += count
    return write_index(folder, {f"{shard}.tar": count for shard, count in enumerate(seen or counts)})


def write_index(folder, counts, at=""):
    (folder / "index.json").write_text(json.dumps({"shardlist": [{"url": at + name, "nsamples": n} for name, n in counts.items()]}))
    return folder


def open_stream(data, rank=0, world=1, **changes):
    settings = {"data": str(data), "shuffle_buffer": 8, "batch_size": 4, "workers": 2}
    return open_loader(override(preset("tiny"), settings | changes), "cpu", rank, world)


def take(loader, count, start=0):
    return list(islice(loader.batches(start), count))


def numbers(batches):
    """The numbers of images, mirrored or not."""
    return [int(number) for batch in batches for number in ((batch.amax((1, 2, 3)) + 1) * 127.5).round()]


def same(got, want):
    return all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
