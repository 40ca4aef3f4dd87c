"""A zip of images, as EDM lays them out: image files at any depth, and a dataset.json that is not used here."""

import functools
import os
import struct
import zipfile
import zlib

from ddgan_fast.data.decode import EXTENSIONS, MOST_BYTES
from ddgan_fast.data.formats.folder import check_file
from ddgan_fast.data.formats.names import check_name
from ddgan_fast.errors import DataError

WANTED = "a zip of images (the EDM layout)"
MOST_RATIO = 200  # unpacked to packed
# what zipfile raises
BROKEN = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, OverflowError, NotImplementedError)


class Zip:
    """path: of the file.  Raises DataError for one that is broken, or for a member that has no business in it, by name."""

    def __init__(self, path):
        self.name, self.path = os.path.basename(path), os.path.realpath(path)
        self.state = check_file(self.path)
        try:
            members = _opened(self.path, self.state, os.getpid()).infolist()
        except BROKEN as error:
            raise DataError(f"{path}: cannot be read ({error}); truncated, or not {WANTED}") from error
        seen = set()
        kept = [member for member in members if not member.is_dir() and check_name(member.filename, f"{path}:{member.filename}", seen)]
        for member in kept:
            check_member(member, f"{path}:{member.filename}")
            if member.file_size > MOST_BYTES:
                raise DataError(f"{path}:{member.filename}: {member.file_size:,} bytes, above the limit of {MOST_BYTES:,}")
        self.members = sorted(member.filename for member in kept)
        if not self.members:
            raise DataError(f"{path}: no images in it; looked for {' '.join(EXTENSIONS)}")

    def __len__(self):
        return len(self.members)

    def label(self, index):
        return f"{self.path}:{self.members[index]}"

    def read(self, index):
        """The image file. Raises DataError where the archive is broken there."""
        try:
            with _opened(self.path, self.state, os.getpid()).open(self.members[index]) as member:
                return member.read(MOST_BYTES + 1)
        except BROKEN as error:
            raise DataError(f"{self.label(index)}: cannot be unpacked ({error}); the zip is broken there") from error


def check_member(member, label):
    """Raises DataError for a member that is encrypted, or unpacks to far more than it is."""
    if member.flag_bits & 1:
        raise DataError(f"{label}: encrypted; pack the archive again without a password")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # zipfile unpacks others without a limit
        raise DataError(f"{label}: packed by method {member.compress_type}; it must be stored (0) or deflated (8)")
    if member.file_size > MOST_RATIO * max(member.compress_size, 1):
        raise DataError(f"{label}: {member.compress_size:,} bytes unpack to {member.file_size:,}, more than {MOST_RATIO} times; refused")


@functools.lru_cache(maxsize=8)  # a process has its own: a handle's place in the file is shared with a child
def _opened(path, state, process):
    return zipfile.ZipFile(path)


def is_zip(path):
    """Whether the file begins as a zip with members does."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"
