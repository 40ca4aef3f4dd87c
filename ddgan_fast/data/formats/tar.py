"""WebDataset shards: tar files of images beside their sidecars, each image an item. Read in any order by place, or one after the other."""

import os
import tarfile
from bisect import bisect_right
from itertools import accumulate

from ddgan_fast.data.decode import MOST_BYTES
from ddgan_fast.data.formats.folder import check_file
from ddgan_fast.data.formats.names import check_name
from ddgan_fast.errors import DataError

WANTED = "tar shards (WebDataset)"


class Unreadable(DataError):
    """A shard that broke off: another attempt may help where a network lies between."""


_BROKEN = (tarfile.TarError, OSError, EOFError, ValueError, IndexError, OverflowError, RecursionError)
_DESCRIBING = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_MOST_HEADER_BYTES = 2**16  # of a member that only describes the next one, with a long name say


class _Member(tarfile.TarInfo):
    """A header, read more strictly than tarfile does: for it, one that is broken ends the archive as the end mark does."""

    @classmethod
    def fromtarfile(cls, archive):
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"{error} at byte {archive.offset:,}, before the end mark") from error

    @classmethod
    def frombuf(cls, buf, encoding, errors):
        member = super().frombuf(buf, encoding, errors)
        if member.size < 0 or (member.type in _DESCRIBING and member.size > _MOST_HEADER_BYTES):
            raise tarfile.HeaderError(f"a header of {member.size:,} bytes")
        return member


def images(file, path, mode):
    """Yield (tar, member) of the images of a shard.

    file: a binary file.  path: how errors name it.  mode: "r:" of a file that can seek, "r|" of a stream.
    Raises DataError for a member that is a link, a device, too large, or what `check_name` refuses, and Unreadable for a shard that is
    truncated, compressed or broken.
    """
    seen = set()
    try:
        with tarfile.open(fileobj=file, mode=mode, tarinfo=_Member) as tar:
            for member in tar:
                tar.members = []  # or it would keep every member of the shard
                label = f"{path}:{member.name}"
                if not 0 <= member.size <= MOST_BYTES:  # below 0, tarfile would go back and read for ever
                    raise DataError(f"{label}: {member.size:,} bytes; it must be 0 to {MOST_BYTES:,}")
                if member.isdir():
                    continue
                if not member.isreg() or member.issparse():
                    raise DataError(f"{label}: refused: a link, a device or another special member; pack the archive with files alone")
                if check_name(member.name, label, seen):
                    yield tar, member
    except _BROKEN as error:
        raise Unreadable(f"{path}: cannot be read ({error}); truncated, compressed, or not one of the {WANTED}") from error


class Tar:
    """paths: of shards on this machine; they are scanned once for the places of their images."""

    def __init__(self, name, paths):
        self.name, self.paths = name, [os.path.realpath(path) for path in paths]
        self.members, counts = [], []  # (name, place in the file, size)
        for path in self.paths:
            check_file(path)
            with open(path, "rb") as file:
                found = [(member.name, member.offset_data, member.size) for _, member in images(file, path, "r:")]
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
