"""The command `ddgan data`: look at a set of images, and pack it for training. Heavy imports are inside the commands."""

import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ddgan_fast.errors import DataError

Source = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PATH|NAME[:PATH]")]
SHOWN = 8  # of the commonest sizes and modes


def bar(results, total, start=0):
    """The same results, with a progress bar on stderr."""
    from tqdm import tqdm

    return tqdm(results, total=total, initial=start, unit="img", mininterval=1.0)


def commonest(counts: Counter):
    """The counts as text, commonest first, the rare ones together."""
    shown = [f"{name} {count:,}" for name, count in counts.most_common(SHOWN)]
    if len(counts) > SHOWN:
        shown.append(f"{len(counts) - SHOWN:,} others {sum(count for _, count in counts.most_common()[SHOWN:]):,}")
    return ", ".join(shown)


def print_rows(title, rows):
    """A line, and an indented one for each row that has a text."""
    print(title)
    for name, text in rows.items():
        if text:
            print(f"  {name:8} {text}")


@dataclass(frozen=True)
class Check:
    """Decode every image and list all bad ones: `ddgan data check faces`.

    Exit code 0 where all are good, 3 where some are bad.
    """

    path: Source
    """As --data of `ddgan train` takes it."""
    json: bool = False
    """Print JSON."""

    def run(self):
        from tqdm import tqdm

        from ddgan_fast.data.check import survey

        bad = []
        found = survey(self.path, on_bad=lambda error: bad.append(str(error)) if self.json else tqdm.write(str(error)), watch=bar)
        sizes = Counter({f"{width}x{height}": count for (width, height), count in found.sizes.items()})
        if self.json:
            counts = {"formats": found.formats, "sizes": sizes, "modes": found.modes}
            counts = {name: dict(value.most_common(SHOWN)) for name, value in counts.items()}
            print(json.dumps({"items": found.items, "bad": bad, "different_sizes": len(sizes), **counts}, indent=2))
        else:
            rows = {"formats": commonest(found.formats), "sizes": commonest(sizes), "modes": commonest(found.modes)}
            print_rows(f"{self.path}: {found.items:,} items, {found.bad:,} bad", rows)
        if found.bad:
            are = "is" if found.bad == 1 else "are"
            raise DataError(f"{found.bad:,} of {found.items:,} items {are} bad; remove them, or train with --on-bad-image skip")


@dataclass(frozen=True)
class Stats:
    """Say what the images are: number, bytes, sizes, formats, modes, mean and standard deviation. Bad ones are left out."""

    path: Source
    """As --data of `ddgan train` takes it."""
    resolution: int = 32
    """Pixels a side at which mean and standard deviation are taken."""
    json: bool = False
    """Print JSON."""

    def run(self):
        from ddgan_fast.data.check import survey

        found = survey(self.path, (3, self.resolution, self.resolution), watch=bar)
        good = found.items - found.bad
        if not good:
            raise DataError(f"{self.path}: none of its {found.items:,} items can be read; `ddgan data check` says why")
        (mean, std), sides = found.mean_and_std, {} if found.is_array else found.sides()
        if self.json:
            counts = {"images": good, "bad": found.bad, "bytes": None if found.is_array else found.bytes, **sides}
            counts |= {"formats": dict(found.formats.most_common()), "modes": dict(found.modes.most_common())}
            print(json.dumps({**counts, "resolution": self.resolution, "mean": mean, "std": std}, indent=2))
            return
        rows = {name: ", ".join(f"{key} {value:,}" for key, value in side.items()) for name, side in sides.items()}
        rows |= {"formats": commonest(found.formats), "modes": commonest(found.modes)}
        rows["mean"], rows["std"] = (" ".join(f"{value:.4f}" for value in values) for values in (mean, std))
        rows["std"] += f"  (red, green, blue in [-1, 1], at {self.resolution}x{self.resolution})"
        size = "" if found.is_array else f", {found.bytes / 1e6:,.1f} MB"
        print_rows(f"{self.path}: {good:,} images{size}, {found.bad:,} bad", rows)


@dataclass(frozen=True)
class Pack:
    """Bring images to one resolution and write them for fast training: `ddgan data pack faces --out faces256 --resolution 256`.

    What was stopped goes on with the same command. Training from the result gives the same batches as from its source,
    unless bad images were left out.
    """

    path: Source
    """As --data of `ddgan train` takes it."""
    out: Path
    """The new folder."""
    resolution: int
    """Pixels a side: the middle square of each image is resized."""
    channels: int = 3
    """3 (RGB), or with --format shards also 1 (gray)."""
    format: Literal["lmdb", "shards"] = "lmdb"
    """lmdb: raw pixels, the fastest to read; shards: tar files of PNG, smaller, which can be streamed."""
    shard_images: int = 4096
    """Images in a shard."""
    workers: int | None = None
    """Processes that decode; by default one a core, up to 16. 0: none beside this one."""
    max_images: int = 0
    """Pack so many of the first images; 0: all."""
    on_bad_image: Literal["error", "skip"] = "error"
    """An image that cannot be read ends the work, or is named and left out."""

    def run(self):
        from ddgan_fast.data.pack import pack

        shape = (self.channels, self.resolution, self.resolution)
        count, bad, size = pack(
            self.path, self.out, shape, self.format, self.shard_images, self.workers, self.max_images, self.on_bad_image, bar
        )
        left_out = f" ({bad:,} bad left out)" if bad else ""
        size = f"{self.resolution}x{self.resolution}{left_out}, {size / 1e6:,.1f} MB"
        print(f"{os.fspath(self.out)}: {count:,} images of {size}; train with: ddgan train --data {self.out}")


Named = tyro.conf.subcommand


@dataclass(frozen=True)
class Data:
    """Look at training data, or pack it: `ddgan data check PATH`, `ddgan data stats PATH`, `ddgan data pack PATH --out DIR`."""

    action: (
        Annotated[Check, Named("check", prefix_name=False)]
        | Annotated[Stats, Named("stats", prefix_name=False)]
        | Annotated[Pack, Named("pack", prefix_name=False)]
    )

    def run(self):
        self.action.run()
