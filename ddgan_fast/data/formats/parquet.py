"""Parquet as Hugging Face lays it out: a column `image` with a struct of `bytes` (an image file) and `path`, or of bytes alone.

A row cannot be read without the row group around it: sets too large for memory are slow in random order, and `ddgan data pack` helps.
"""

import functools
import os
import threading
from bisect import bisect_right
from itertools import accumulate

from ddgan_fast.data.decode import MOST_BYTES
from ddgan_fast.data.formats.folder import check_file, files
from ddgan_fast.errors import DataError, MissingError

COLUMN = "image"
WANTED = f"Parquet files with a column '{COLUMN}' of struct<bytes, path> or of bytes (the Hugging Face layout)"
MOST_GROUP_BYTES = 2**32
MOST_GROUP_ROWS = 2**24
MOST_RATIO = 200  # unpacked to packed
_GROUPS = 4  # kept unpacked
_LOCK = threading.Lock()


class Parquet:
    """paths: of the files, in order.  Raises DataError for a file that is broken or has another layout."""

    def __init__(self, name, paths):
        self.name, self.groups, counts = name, [], []  # what `_column` takes
        for path in map(os.path.realpath, paths):
            state = check_file(path)
            leaf, row_groups = _checked(path)
            for number, (rows, packed, unpacked) in enumerate(row_groups):
                if rows > MOST_GROUP_ROWS:
                    raise DataError(f"{path}: row group {number} has {rows:,} rows; write smaller ones")
                if unpacked > min(MOST_GROUP_BYTES, MOST_RATIO * max(packed, 1024)):
                    raise DataError(f"{path}: row group {number} unpacks {packed:,} to {unpacked:,} bytes; write smaller ones")
                self.groups.append((path, number, leaf, state))
                counts.append(rows)
        self.ends = list(accumulate(counts))
        if not self.ends or not self.ends[-1]:
            raise DataError(f"{name}: no rows in its {len(paths)} Parquet files")

    def __len__(self):
        return self.ends[-1]

    def _place(self, index):
        group = bisect_right(self.ends, index)
        return *self.groups[group], index - (self.ends[group - 1] if group else 0)

    def label(self, index):
        path, group, *_, row = self._place(index)
        return f"{path}: row {row} of row group {group}"

    def read(self, index):
        """The image file. Raises DataError for a row without bytes, and where the file is broken there."""
        *group, row = self._place(index)
        with _LOCK:
            column = _column(*group)
        value = column[row].as_py()
        content = value.get("bytes") if isinstance(value, dict) else value
        if content is None:
            raise DataError(f"{self.label(index)}: no bytes in it; a path alone is not followed: save the set with its images embedded")
        if len(content) > MOST_BYTES:
            raise DataError(f"{self.label(index)}: {len(content):,} bytes, above the limit of {MOST_BYTES:,}")
        return content


def _pyarrow():
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingError('reading Parquet needs the package pyarrow: pip install "ddgan_fast[data]"') from error
    return pyarrow


def _checked(path):
    """(name of the column's part with the bytes, [(rows, packed bytes of the column, unpacked bytes)] of the row groups) of a file."""
    arrow = _pyarrow()
    try:
        with arrow.parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            row_groups = [_sizes(file.metadata.row_group(number)) for number in range(file.num_row_groups)]
    except (arrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); truncated, or not Parquet") from error
    if COLUMN not in schema.names:
        raise DataError(f"{path}: no column '{COLUMN}', it has {', '.join(schema.names)}; looked for {WANTED}")
    leaf, kind = COLUMN, schema.field(COLUMN).type
    if arrow.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        leaf, kind = f"{COLUMN}.bytes", kind.field("bytes").type
    if not (arrow.types.is_binary(kind) or arrow.types.is_large_binary(kind)):
        raise DataError(f"{path}: column '{COLUMN}' is {schema.field(COLUMN).type}; looked for {WANTED}")
    return leaf, row_groups


def _sizes(group):
    chunks = [chunk for chunk in map(group.column, range(group.num_columns)) if chunk.path_in_schema.split(".")[0] == COLUMN]
    return group.num_rows, sum(chunk.total_compressed_size for chunk in chunks), sum(chunk.total_uncompressed_size for chunk in chunks)


@functools.lru_cache(maxsize=_GROUPS)  # under _LOCK: threads would read the same group at once
def _column(path, group, leaf, state):
    """The image column of a row group; values stay in a dictionary, or one could be repeated until memory ends."""
    arrow = _pyarrow()
    try:
        with arrow.parquet.ParquetFile(path, read_dictionary=[leaf]) as file:
            return file.read_row_group(group, columns=[COLUMN], use_threads=False).column(COLUMN).combine_chunks()
    except (arrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path}: row group {group} cannot be read ({error}); the file is broken there") from error


def find(folder):
    """Sorted paths of the Parquet files in the folder and below: where files or subfolders are called train*, those alone."""
    found = sorted(path for path in files(folder) if path.lower().endswith(".parquet"))
    return [path for path in found if f"{os.sep}train" in path[len(str(folder)) :]] or found


def is_parquet(path):
    """Whether the file begins as Parquet does."""
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"
