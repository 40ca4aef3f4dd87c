"""Lists of tar shards: a folder of them, one of them, a text of paths, or the index that `ddgan data pack` and wids write."""

import json
import os
from dataclasses import dataclass
from urllib.parse import urlparse

from ddgan_fast.data.formats.folder import files
from ddgan_fast.data.formats.tar import is_tar
from ddgan_fast.errors import DataError, InputError

INDEX = "index.json"  # beside the shards
WANTED = f"a list of tar shards (.txt: a path a line; .json: the wids index, {INDEX}, with paths or http(s) addresses and their counts)"
_MOST_BYTES = 50_000_000
_MOST_IMAGES = 10**8  # of a shard
_COMPRESSED = (".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")


@dataclass(frozen=True)
class Shard:
    """place: a path or an http(s) address.  images: how many it holds, None where that is not known."""

    place: str
    images: int | None = None

    @property
    def is_remote(self):
        return urlparse(self.place).scheme in ("http", "https")


def find(folder):
    """Sorted paths of the tar files in the folder and below."""
    return sorted(path for path in files(folder) if path.lower().endswith(".tar"))


def read(path):
    """The shards that the path stands for, or None where it is something else. Raises DataError for a list that is broken."""
    if path.is_dir():
        if (path / INDEX).is_file():
            return read(path / INDEX)
        return [Shard(place) for place in find(path)] or None
    if is_tar(path):
        return [Shard(str(path))]
    if path.name.lower().endswith(_COMPRESSED):
        raise DataError(f"{path}: a compressed tar; unpack it to a plain one (images are compressed already): gunzip, unxz or zstd -d")
    if path.suffix not in (".json", ".txt"):
        return None
    if path.stat().st_size > _MOST_BYTES:
        raise DataError(f"{path}: {path.stat().st_size:,} bytes, above the limit of {_MOST_BYTES:,} of a list of shards")
    try:
        listed = _from_index(path) if path.suffix == ".json" else _from_text(path)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read ({type(error).__name__}: {error}); it must be {WANTED}") from error
    if not listed:
        raise DataError(f"{path}: no shards in it; it must be {WANTED}")
    for shard in listed:
        if not shard.is_remote and not os.path.isfile(shard.place):
            raise DataError(f"{path}: lists {shard.place}, where no file is")
        if shard.is_remote and not shard.images:
            raise DataError(f"{path}: {shard.place} without its number of images; list remote shards in an index.json")
    return listed


def _beside(path, place):
    return place if Shard(place).is_remote else os.path.join(path.parent, place)


def _from_text(path):
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [Shard(_beside(path, line)) for line in lines if line and not line.startswith("#")]


def _from_index(path):
    entries = json.loads(path.read_text(encoding="utf-8"))["shardlist"]
    listed = [Shard(_beside(path, str(entry["url"])), entry["nsamples"]) for entry in entries]
    if not all(type(shard.images) is int and 0 < shard.images <= _MOST_IMAGES for shard in listed):
        raise ValueError(f"nsamples must be a whole number, 1 to {_MOST_IMAGES:,}")
    return listed


def local(listed):
    """The paths of shards that lie on this machine. Raises InputError for one that does not."""
    for shard in listed:
        if shard.is_remote:
            raise InputError(f"{shard.place}: lies elsewhere and can only be streamed; give --shuffle-buffer 4096")
    return [shard.place for shard in listed]
