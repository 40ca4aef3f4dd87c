"""WebDataset shards: tar files of images beside their sidecars, each image an item. Read in any order by place, or one after the other."""

import os
import tarfile
from bisect import bisect_right
from itertools import accumulate

from ddgan_fast.data.decode import MOST_BYTES
from ddgan_fast.data.formats.names import check_name
from ddgan_fast.errors import DataError

WANTED = "tar shards (WebDataset)"


class Unreadable(DataError):
    """A shard that broke off: another attempt may help where a network lies between."""


_BROKEN = (tarfile.TarError, OSError, EOFError, ValueError)


def images(file, path, mode):
    """Yield (tar, member) of the images of a shard.

    file: a binary file.  path: how errors name it.  mode: "r:" of a file that can seek, "r|" of a stream.
    Raises DataError for a member that is a link, a device, or what `check_name` refuses, Unreadable for a truncated or compressed shard.
    """
    seen = set()
    try:
        with tarfile.open(fileobj=file, mode=mode) as tar:
            for member in tar:
                tar.members = []  # or it would keep every member of the shard
                if member.isdir():
                    continue
                label = f"{path}:{member.name}"
                if not member.isreg() or member.issparse():
                    raise DataError(f"{label}: refused: a link, a device or another special member; pack the archive with files alone")
                if check_name(member.name, label, seen):
                    if not 0 <= member.size <= MOST_BYTES:
                        raise DataError(f"{label}: {member.size:,} bytes; it must be 0 to {MOST_BYTES:,}")
                    yield tar, member
    except _BROKEN as error:
        raise Unreadable(f"{path}: cannot be read ({error}); truncated, compressed, or not one of the {WANTED}") from error


class Tar:
    """paths: of shards on this machine; they are scanned once for the places of their images."""

    def __init__(self, name, paths):
        self.name, self.paths = name, [os.path.realpath(path) for path in paths]
        self.members, counts = [], []  # (name, place in the file, size)
        for path in self.paths:
            size = os.path.getsize(path)
            with open(path, "rb") as file:
                found = [(member.name, member.offset_data, member.size) for _, member in images(file, path, "r:")]
            if found and found[-1][1] + found[-1][2] > size:
                raise DataError(f"{path}:{found[-1][0]}: truncated: the file ends inside of it; copy it again")
            self.members += found
            counts.append(len(found))
        self.ends = list(accumulate(counts))
        if not self.members:
            raise DataError(f"{name}: no images in its {len(self.paths)} shards")

    def __len__(self):
        return len(self.members)

    def _path(self, index):
        return self.paths[bisect_right(self.ends, index)]

    def label(self, index):
        return f"{self._path(index)}:{self.members[index][0]}"

    def read(self, index):
        """The image file. Raises DataError where the shard has changed."""
        _, place, size = self.members[index]
        try:
            with open(self._path(index), "rb", buffering=0) as file:
                content = os.pread(file.fileno(), size, place)
        except OSError as error:
            raise DataError(f"{self.label(index)}: cannot be read ({error.strerror})") from error
        if len(content) != size:
            raise DataError(f"{self.label(index)}: {len(content):,} of {size:,} bytes are there; truncated")
        return content


def is_tar(path):
    """Whether the file begins as a tar does."""
    with path.open("rb") as file:
        return file.read(262)[257:] == b"ustar"
