"""Loading training data on this device: images per second of torch's workers and of DALI, of a set in memory; memory of a stream.

`python -m benchmarks.data [--device cpu|cuda] [--rounds 7]` writes results/<device>/data.csv, a row per kind of image, loader and number
of cores, and results/<device>/data-memory.csv.

A batch is read from tar shards that this script fills with pictures that have structure at all scales, as photos do, decoded, resized to
256 (those of 341 x 256, LSUN's size, are cropped alone), mirrored at random and brought to float32 on the device. A loader of c cores has c
worker processes (torch) or threads (DALI), and the whole process runs on c cores: what the main process does is in it. Loaders of a case
take turns; a turn begins with batches that are not timed, which empties what was loaded ahead, and `over_torch` is the median over the
rounds of the ratio to torch in the same round.
A row is written only if the first batch is torch's to 2.01 of 255 levels (on a GPU, from JPEG, 8).
"""

import argparse
import io
import itertools
import os
import statistics
import tarfile
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.harness import spread, write_rows
from ddgan_fast.config import Config, Model, Train
from ddgan_fast.data import dali, open_loader
from ddgan_fast.data.images import InMemory
from ddgan_fast.data.loader import Loader

KINDS = {"jpeg": ("JPEG", {"quality": 90}), "webp": ("WEBP", {"quality": 90}), "png": ("PNG", {})}
SIZES = (341, 256), (512, 400)
RESOLUTION, BATCH = 256, 32
IMAGES = 256  # of a kind: what matters is decoding them, not where they lie
CORES = {"cpu": (1, 2), "cuda": (4, 16)}
UNTIMED, TIMED = 5, 6  # batches of a turn; torch has two a worker ahead, DALI two
LEVELS = {"cpu": 2.01, "cuda": 8}
STREAMED, SHARDS, BUFFER = 50_000, 10, 1000


def encoded(number, size, kind, **options):
    """An image file of one of IMAGES pictures."""
    random = np.random.default_rng(number)
    picture = np.zeros((size[1], size[0], 3), np.float32)
    for side, weight in ((3, 0.5), (12, 0.25), (48, 0.15), (192, 0.1)):
        layer = Image.fromarray(random.integers(0, 256, (side, side, 3), dtype=np.uint8))
        picture += weight * np.asarray(layer.resize(size, Image.Resampling.BICUBIC), np.float32)
    file = io.BytesIO()
    Image.fromarray(picture.astype(np.uint8)).save(file, kind, **options)
    return file.getvalue()


def write_shard(path, contents):
    """A tar of [(name, image file)]."""
    with tarfile.open(path, "w") as tar:
        for name, content in contents:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def case_rows(kind, path, device, cores, rounds):
    """Rows of one kind of image, of torch and, where it is installed, DALI in turns."""
    everywhere = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(everywhere)[:cores])
    try:
        train = Train(data=str(path), flip=True, batch_size=BATCH, workers=cores, resident_gb=0.0)
        config = Config(model=Model(resolution=RESOLUTION), train=train)
        batches, first = {}, {}
        for name in ("torch",) if dali.refuses() else ("torch", "dali"):
            batches[name] = open_loader(replace(config, train=replace(train, loader=name)), device).batches()
            first[name] = next(batches[name])
        errors = {name: 127.5 * (batch - first["torch"]).abs().max().item() for name, batch in first.items()}
        if max(errors.values()) > LEVELS[device.type]:
            raise SystemExit(f"{kind}: DALI's images are {errors['dali']:.1f} levels from torch's")
        rates = {name: [] for name in batches}
        for _ in range(rounds):
            for name, each in batches.items():
                rates[name].append(images_per_s(each, device))
        for each in batches.values():
            each.close()
    finally:
        os.sched_setaffinity(0, everywhere)
    for name, found in rates.items():
        median, p20, p80 = spread(found)
        ratio = statistics.median(ours / theirs for ours, theirs in zip(found, rates["torch"], strict=True))
        yield {
            "images": kind, "loader": name, "cores": cores, "batch": BATCH, "images_per_s": round(median, 1),
            "p20": round(p20, 1), "p80": round(p80, 1), "over_torch": round(ratio, 3), "max_levels": round(errors[name], 2),
        }  # fmt: skip


def images_per_s(batches, device):
    """Of one turn."""
    for _ in range(UNTIMED):
        next(batches)
    _finish(device)
    begin, images = time.perf_counter(), 0
    for _ in range(TIMED):
        images += len(next(batches))
    _finish(device)
    return images / (time.perf_counter() - begin)


def _finish(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def resident_row(device, rounds):
    """CIFAR-10's size in memory, shuffled and mirrored there."""
    images = torch.randint(256, (50_000, 3, 32, 32), dtype=torch.uint8)
    batches = Loader(InMemory("resident", images), 256, device, flip=True).batches()
    median, p20, p80 = spread([images_per_s(batches, device) for _ in range(rounds)])
    return {
        "images": "resident 32x32", "loader": "torch", "cores": torch.get_num_threads(), "batch": 256, "images_per_s": round(median, 1),
        "p20": round(p20, 1), "p80": round(p80, 1), "over_torch": 1.0, "max_levels": 0.0,
    }  # fmt: skip


def memory_row(folder):
    """Resident set size of this process while tiny images are streamed, after a tenth of them and at the end."""
    contents = [encoded(number, (8, 8), "PNG") for number in range(100)]
    for shard in range(SHARDS):
        names = range(shard * STREAMED // SHARDS, (shard + 1) * STREAMED // SHARDS)
        write_shard(folder / f"{shard:06}.tar", [(f"{name:06}.png", contents[name % 100]) for name in names])
    train = Train(data=str(folder), batch_size=100, shuffle_buffer=BUFFER)
    batches = open_loader(Config(model=Model(resolution=8), train=train), "cpu").batches()
    sizes = []
    for count in range(100, STREAMED + 1, 100):
        next(batches)
        if count in (STREAMED // 10, STREAMED):
            sizes.append(rss_mb())
    batches.close()
    begin, end = sizes
    return {
        "images": STREAMED, "shards": SHARDS, "shuffle_buffer": BUFFER, "rss_mb_after_a_tenth": round(begin, 1), "rss_mb": round(end, 1),
        "growth_percent": round(100 * (end / begin - 1), 2),
    }  # fmt: skip


def rss_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def main(device, rounds):
    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        (place / "stream").mkdir()
        write_rows("data-memory", device, [memory_row(place / "stream")])
        rows = []
        for size, (kind, (name, options)) in itertools.product(SIZES, KINDS.items()):
            path = place / f"{kind}-{size[0]}.tar"
            write_shard(path, [(f"{number:06}.{kind}", encoded(number, size, name, **options)) for number in range(IMAGES)])
            for cores in CORES[device.type]:
                rows += case_rows(f"{kind} {size[0]}x{size[1]}", path, device, min(cores, os.cpu_count()), rounds)
        write_rows("data", device, [*rows, resident_row(device, rounds)])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    main(args.device, args.rounds)
