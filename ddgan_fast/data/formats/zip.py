"""A zip of images, as EDM lays them out: image files at any depth, and a dataset.json that is not used here."""

import functools
import os
import zipfile
import zlib

from ddgan_fast.data.decode import EXTENSIONS, MOST_BYTES
from ddgan_fast.data.formats.names import check_name
from ddgan_fast.errors import DataError

WANTED = "a zip of images (the EDM layout)"
MOST_RATIO = 200  # unpacked to packed
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError)  # RuntimeError: it is encrypted


class Zip:
    """path: of the file.  Raises DataError for one that is broken, or for a member that has no business in it, by name."""

    def __init__(self, path):
        self.name, self.path = os.path.basename(path), os.path.realpath(path)
        try:
            members = _opened(self.path, os.getpid()).infolist()
        except _BROKEN as error:
            raise DataError(f"{path}: cannot be read ({error}); truncated, or not {WANTED}") from error
        seen = set()
        kept = [member for member in members if not member.is_dir() and check_name(member.filename, f"{path}:{member.filename}", seen)]
        self.members = sorted(member.filename for member in kept)
        for member in kept:
            if member.file_size > MOST_BYTES or member.file_size > MOST_RATIO * max(member.compress_size, 1):
                sizes = f"{member.file_size:,} bytes packed in {member.compress_size:,}"
                raise DataError(f"{path}:{member.filename}: {sizes}; the limits are {MOST_BYTES:,} bytes and {MOST_RATIO} to 1")
        if not self.members:
            raise DataError(f"{path}: no images in it; looked for {' '.join(EXTENSIONS)}")

    def __len__(self):
        return len(self.members)

    def label(self, index):
        return f"{self.path}:{self.members[index]}"

    def read(self, index):
        """The image file. Raises DataError where the archive is broken there."""
        try:
            with _opened(self.path, os.getpid()).open(self.members[index]) as member:
                return member.read(MOST_BYTES + 1)
        except _BROKEN as error:
            raise DataError(f"{self.label(index)}: cannot be unpacked ({error}); the zip is broken there") from error


@functools.lru_cache(maxsize=8)  # a process has its own: a handle's place in the file is shared with a child
def _opened(path, process):
    return zipfile.ZipFile(path)


def is_zip(path):
    """Whether the file begins as a zip with members does."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"
