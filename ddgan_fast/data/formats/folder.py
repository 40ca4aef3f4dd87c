"""A folder of images, at any depth."""

import logging
import os

from ddgan_fast.data.decode import EXTENSIONS, MOST_BYTES, WANTED
from ddgan_fast.errors import DataError

log = logging.getLogger(__name__)
LABELS = "dataset.json"  # of the EDM layout; not used here


class Folder:
    """paths: of the image files."""

    def __init__(self, name, paths):
        self.name, self.paths = name, paths

    def __len__(self):
        return len(self.paths)

    def label(self, index):
        return str(self.paths[index])

    def read(self, index):
        """The content of the file. Raises DataError for one that cannot be read, or has nothing or too much in it."""
        path = self.paths[index]
        try:
            if not os.path.isfile(path) or not os.path.getsize(path):
                raise DataError(f"{path}: empty or not a regular file; delete it, or put the image there")
            with open(path, "rb") as file:
                return file.read(MOST_BYTES + 1)
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}); give a folder that may be read") from error


def find(folder, skips=False):
    """Sorted paths of the images in the folder and below. Raises the first of `strays`, or with skips names each."""
    found, others = _sorted(folder)
    for error in others:
        if not skips:
            raise error
        log.warning("left out: %s", error)
    return found


def strays(folder):
    """The DataError of each file in the folder and below that is no image, in order."""
    return _sorted(folder)[1]


def _sorted(folder):
    """(paths of the images, errors of the strays)."""
    found, others = [], []
    for path in sorted(files(folder)):
        if path.lower().endswith(EXTENSIONS):
            found.append(path)
        elif os.path.basename(path) != LABELS:
            text = f"{path}: not one of the {WANTED} that can be read; move it out of the folder, or convert it to PNG"
            others.append(DataError(text))
    return found, others


def files(folder):
    """Paths of all files in the folder and below, those with hidden names left out; a link to a parent is not followed again."""
    seen = set()
    for place, subfolders, names in os.walk(folder, followlinks=True, onerror=_unreadable):
        real = os.path.realpath(place)
        subfolders[:] = [] if real in seen else sorted(name for name in subfolders if not name.startswith("."))
        if real not in seen:
            yield from (os.path.join(place, name) for name in names if not name.startswith("."))
        seen.add(real)


def check_file(path):
    """(size, time of its last change) of a file, by which a cache knows it again.

    Raises DataError unless it has content and may be read; opening a FIFO would wait for ever.
    """
    if not os.path.isfile(path) or not os.path.getsize(path):
        raise DataError(f"{path}: empty or not a regular file; delete it, or copy it again")
    if not os.access(path, os.R_OK):
        raise DataError(f"{path}: may not be read; give a file that may")
    state = os.stat(path)
    return state.st_size, state.st_mtime_ns


def _unreadable(error):
    raise DataError(f"{error.filename}: cannot be listed ({error.strerror}); give a folder that may be read")
