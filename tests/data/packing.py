"""Images made in memory, one writer a format, and what a refusal is, for the tests of what reads them: `from .packing import ...`."""

import io
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from ddgan_fast.config import Model
from ddgan_fast.data import open_dataset
from ddgan_fast.errors import DataError


def encoded(count, size=None, kind="PNG"):
    """`count` image files of noise as bytes, the same on every call.

    size: (width, height), or a number for squares; None for odd sizes from 13 to 47, the last image 16 x 16.  kind: of Pillow.
    """
    generator = np.random.default_rng(count)
    files = []
    for number in range(count):
        width, height = (size, size) if isinstance(size, int) else size or generator.integers(6, 24, 2) * 2 + 1
        if size is None and number == count - 1:
            width = height = 16
        pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, kind)
        files.append(file.getvalue())
    return files


def named(contents, extension="png"):
    """[(name, bytes)] as the writers take them, in the EDM layout: 00000/img00000000.png."""
    return [(f"{number // 1000:05d}/img{number:08d}.{extension}", content) for number, content in enumerate(contents)]


def write_zip(path, files, compression=zipfile.ZIP_STORED):
    """files: [(name, bytes)]."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files:
            archive.writestr(name, content)


def write_tar(path, files):
    """files: [(name, bytes)], or tarfile.TarInfo in place of a pair, for a member without content."""
    with tarfile.open(path, "w") as archive:
        for each in files:
            if isinstance(each, tarfile.TarInfo):
                archive.addfile(each)
                continue
            name, content = each
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def write_lmdb(path, values, keys=None, subdir=True):
    """values: bytes each.  keys: str each; by default the values' numbers, as CelebA-HQ has them."""
    import lmdb

    keys = [str(number) for number in range(len(values))] if keys is None else keys
    with lmdb.open(str(path), map_size=2**24, subdir=subdir, lock=False) as environment, environment.begin(write=True) as transaction:
        for key, value in zip(keys, values, strict=True):
            transaction.put(key.encode(), value)


def write_parquet(path, files, plain=False, **options):
    """files: [(name, bytes)].  plain: the column holds the bytes themselves, and not struct<bytes, path>.  options: of write_table."""
    import pyarrow
    import pyarrow.parquet

    rows = [content if plain else {"bytes": content, "path": name} for name, content in files]
    kind = pyarrow.binary() if plain else pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    table = pyarrow.table({"image": pyarrow.array(rows, kind), "label": list(range(len(rows)))})
    pyarrow.parquet.write_table(table, path, **options)


def write_folder(path, files):
    """files: [(name, bytes)]."""
    for name, content in files:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)


def refused(path, match, resident_gb=1, error=DataError):
    """Opening the path, or reading an image of it, raises the error; no file appears."""
    root = path.parent
    before = sorted(root.rglob("*")) + sorted(root.parent.iterdir())
    with pytest.raises(error, match=match) as raised:
        dataset = open_dataset(path, Model(resolution=16), resident_gb=resident_gb)
        dataset.__getitems__(list(range(len(dataset))))
    assert raised.value.exit_code == (3 if error is DataError else 5)
    assert sorted(root.rglob("*")) + sorted(root.parent.iterdir()) == before
    return str(raised.value)
