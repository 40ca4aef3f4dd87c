"""LMDB: LSUN's (`*_lmdb`, values are image files) and CelebA-HQ's (values are raw RGB pixels, keys 0, 1, ...).

A truncated file is refused, but the C library trusts the pages of one that is whole: a file made to harm can crash or misuse the process,
so take LMDB from people you trust, or pack it elsewhere.
"""

import contextlib
import functools
import math
import os
import threading

import numpy as np

from ddgan_fast.data.decode import is_image
from ddgan_fast.data.formats.folder import check_file
from ddgan_fast.errors import DataError, MissingError

FILE = "data.mdb"  # in the folder of an environment
WANTED = f"an LMDB ({FILE}) whose values are image files (LSUN) or raw pixels [H, W, 3] under keys 0, 1, ... (CelebA-HQ)"
_LOCK = threading.Lock()
_MAGIC, _MAGIC_AT = b"\xde\xc0\xef\xbe", 16  # of the first page


class Lmdb:
    """path: the folder with data.mdb, or the file itself.  Raises DataError for one that is truncated or holds something else."""

    def __init__(self, path):
        self.name, self.path = os.path.basename(os.path.realpath(path)), os.path.realpath(path)
        self.state = check_file(os.path.join(self.path, FILE) if os.path.isdir(self.path) else self.path)
        with _transaction(self.path, self.state) as transaction:
            count = transaction.stat()["entries"]
            first = next(iter(transaction.cursor()), None)
            if first is None:
                raise DataError(f"{path}: the LMDB is empty; looked for {WANTED}")
            key, value = map(bytes, first)
            self.side = None if is_image(value) else math.isqrt(len(value) // 3)
            if self.side is None:
                self.keys = [bytes(key) for key in transaction.cursor().iternext(values=False)]
                return
        if not self.side or 3 * self.side**2 != len(value):
            raise DataError(f"{path}: key {_text(key)} holds {len(value):,} bytes, no image file and no square of RGB; looked for {WANTED}")
        self.keys = _Numbers(count)
        for index in (0, count - 1):
            self.read(index)

    def __len__(self):
        return len(self.keys)

    def label(self, index):
        return f"{self.path}: key {_text(self.keys[index])}"

    def read(self, index):
        """The image file, or the pixels uint8 [R, R, 3] of raw values. Raises DataError for a missing key or a value of another size."""
        with _transaction(self.path, self.state) as transaction:
            value = transaction.get(self.keys[index])
        if value is None:
            raise DataError(f"{self.label(index)} is missing; looked for {WANTED}")
        if self.side is None:
            return value
        if len(value) != 3 * self.side**2:
            raise DataError(f"{self.label(index)} holds {len(value):,} bytes; the first value is {self.side} x {self.side} RGB")
        return np.frombuffer(value, np.uint8).reshape(self.side, self.side, 3)


class _Numbers:
    """Keys 0, 1, ... as they are written, without a list of them."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return str(index).encode()


def _text(key):
    return key.decode("utf-8", "backslashreplace")


@contextlib.contextmanager
def _transaction(path, state):
    with _LOCK:
        environment = _environment(path, state)
    import lmdb

    try:
        with environment.begin(buffers=False) as transaction:
            yield transaction
    except lmdb.Error as error:
        raise DataError(f"{path}: cannot be read ({error}); broken there: copy it again") from error


@functools.cache  # a process may open an environment once; its children use what it has opened, which holds no lock
def _environment(path, state):
    try:
        import lmdb
    except ImportError as error:
        raise MissingError('reading LMDB needs the package lmdb: pip install "ddgan_fast[data]"') from error
    try:
        environment = lmdb.open(path, subdir=os.path.isdir(path), readonly=True, lock=False, readahead=False)
    except lmdb.Error as error:
        raise DataError(f"{path}: cannot be opened ({error}); truncated, or not an LMDB: looked for {WANTED}") from error
    promised = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    size, _ = state
    if size < promised:  # reading behind the end of the file would end the process
        environment.close()
        raise DataError(f"{path}: truncated: {size:,} of {promised:,} bytes are there; copy it again")
    return environment


def find(folder):
    """The environment that a folder is or, under the names of LSUN and CelebA-HQ, holds; None without one. Raises DataError for several."""
    if (folder / FILE).is_file():
        return folder
    held = sorted(path for pattern in ("*train_lmdb", "train.lmdb") for path in folder.glob(pattern) if is_lmdb(path))
    if len(held) > 1:
        raise DataError(f"{folder}: several LMDB ({', '.join(path.name for path in held)}); give the path of one")
    return held[0] if held else None


def is_lmdb(path):
    """Whether the path is an environment: a folder with data.mdb, or such a file."""
    if path.is_dir():
        return (path / FILE).is_file()
    with path.open("rb") as file:
        return file.read(_MAGIC_AT + 4)[_MAGIC_AT:] == _MAGIC
