"""LMDB, Parquet, npz, and images in any archive that are broken or of another layout: refused with path and key, row or member."""

import io
import multiprocessing
import os
import struct
import sys

import numpy as np
import pytest
from PIL import Image

from ddgan_fast.config import Model
from ddgan_fast.data import open_dataset
from ddgan_fast.data.formats.lmdb import Lmdb
from ddgan_fast.errors import DataError, MissingError

from .packing import encoded, named, refused, write_lmdb, write_parquet, write_tar, write_zip

MODEL = Model(resolution=16)
FILES = named(encoded(6, 20))
PNG = FILES[0][1]


def read_all(paths, results):
    for path in paths:
        try:
            source = Lmdb(path)
            results.put(f"{path}: read {len([source.read(index) for index in range(len(source))])}")
        except DataError as error:
            results.put(str(error))


def test_a_truncated_lmdb(tmp_path):
    """In a process of its own, as reading behind the end of a mapped file is a SIGBUS."""
    pytest.importorskip("lmdb")
    paths, wanted = [], []
    for kind, values in (("raw", [os.urandom(48 * 48 * 3) for _ in range(40)]), ("files", encoded(40, 48))):
        paths.append(tmp_path / f"{kind}.mdb")
        write_lmdb(paths[-1], values, subdir=False)
        wanted.append("read 40")
        whole = paths[-1].read_bytes()
        for cut in (24, 100, 4096, 6000, 8192, 12_288, len(whole) // 2, len(whole) - 4096, len(whole) - 1):
            paths.append(tmp_path / f"{kind}-{cut}.mdb")
            paths[-1].write_bytes(whole[:cut])
            wanted.append("truncated")
    fork = multiprocessing.get_context("fork")
    results = fork.SimpleQueue()
    child = fork.Process(target=read_all, args=(paths, results))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    for path, reason in zip(paths, wanted, strict=True):
        line = results.get()
        assert line.startswith(f"{path}: ") and reason in line


def test_keys_and_values_of_an_lmdb(tmp_path):
    pytest.importorskip("lmdb")
    raw = [os.urandom(16 * 16 * 3) for _ in range(12)]
    wanted = r"looked for an LMDB .data.mdb. whose values are image files .LSUN. or raw pixels \[H, W, 3\]"
    cases = {
        "empty": ([], None, f"the LMDB is empty; {wanted}"),
        "gap": (raw, [str(i) for i in range(13) if i != 5], "key 5 is missing; looked for"),
        "first": (raw, [str(i + 1) for i in range(12)], "key 0 is missing; looked for"),
        "names": (raw, [f"face{i}" for i in range(12)], "key 0 is missing; looked for"),
        "short": ([*raw[:7], raw[7][:-3], *raw[8:]], None, "key 7 holds 765 bytes; the first value is 16 x 16 RGB"),
        "text": ([b"hello"] * 3, None, f"key 0 holds 5 bytes, no image file and no square of RGB; {wanted}"),
        "nothing": ([b""] * 3, None, "key 0 holds 0 bytes, no image file"),
        "mixed": ([PNG, b"hello", PNG], None, "key 1: its content is no PNG, JPEG, WebP or BMP"),
    }
    for name, (values, keys, match) in cases.items():
        write_lmdb(tmp_path / name, values, keys)
        refused(tmp_path / name, f"{name}: {match}", resident_gb=0)
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "data.mdb").write_bytes(os.urandom(20_000))
    refused(tmp_path / "fake", "fake: cannot be opened .*truncated, or not an LMDB: looked for an LMDB")
    (tmp_path / "two").mkdir()
    for name in ("a_train_lmdb", "b_train_lmdb"):
        write_lmdb(tmp_path / "two" / name, [PNG])
    refused(tmp_path / "two", "two: several LMDB .a_train_lmdb, b_train_lmdb.; give the path of one")


def test_a_truncated_or_broken_parquet(tmp_path):
    pytest.importorskip("pyarrow")
    write_parquet(tmp_path / "set.parquet", FILES, row_group_size=2, compression="none", use_dictionary=False)
    whole, path = (tmp_path / "set.parquet").read_bytes(), tmp_path / "cut.parquet"
    for cut in (4, 7, 12, 100, len(whole) // 2, len(whole) - 4, len(whole) - 1):
        path.write_bytes(whole[:cut])
        refused(path, "cut.parquet: cannot be read .*truncated, or not Parquet")
    path.write_bytes(whole[:4] + b"\xff" * 40 + whole[44:])
    refused(path, "cut.parquet: row group 0 cannot be read", resident_gb=0)


def test_columns_and_rows_of_a_parquet(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "set.parquet"
    wanted = "looked for Parquet files with a column 'image' of struct<bytes, path> or of bytes"
    struct_kind = arrow.struct({"bytes": arrow.binary(), "path": arrow.string()})
    cases = (
        ({"photo": [PNG], "label": [1]}, f"no column 'image', it has photo, label; {wanted}"),
        ({"image": ["a.png"]}, f"column 'image' is string; {wanted}"),
        ({"image": [[1, 2]]}, f"column 'image' is list.*; {wanted}"),
        ({"image": [{"path": "a.png"}]}, f"column 'image' is struct.*; {wanted}"),
        ({"image": [{"bytes": "text"}]}, f"column 'image' is struct.*; {wanted}"),
        ({"image": arrow.array([], arrow.binary())}, "set.parquet: no rows in its 1 Parquet files"),
        ({"image": arrow.array([PNG, None])}, "row 1 of row group 0: no bytes in it"),
        (
            {"image": arrow.array([{"bytes": None, "path": "/etc/passwd"}], struct_kind)},
            "row 0 of row group 0: no bytes in it; a path alone",
        ),
        ({"image": arrow.array([{"bytes": PNG, "path": "a"}, None], struct_kind)}, "row 1 of row group 0: no bytes in it"),
        ({"image": [PNG, b""]}, "row 1 of row group 0: empty"),
        ({"image": [PNG, b"hello"]}, "row 1 of row group 0: its content is no PNG"),
        ({"image": [bytes(5_000_000)]}, "row group 0 unpacks .*write smaller ones"),
    )
    for columns, match in cases:
        parquet.write_table(arrow.table(columns), path, use_dictionary=False, compression="zstd")
        refused(path, f"set.parquet: .*{match}|^{match}", resident_gb=0)


def test_a_repeated_value_of_a_parquet_is_kept_once(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    path, count = tmp_path / "set.parquet", 100
    write_parquet(path, [("a.png", encoded(1, 300)[0])] * count)
    before = arrow.total_allocated_bytes()
    source = open_dataset(path, MODEL, resident_gb=0).source
    assert source.read(0) == source.read(count - 1)
    assert path.stat().st_size < 1_000_000 and arrow.total_allocated_bytes() - before < 5_000_000  # and not 27 MB


def test_arrays(tmp_path):
    images = np.zeros((4, 16, 16, 3), np.uint8)
    path = tmp_path / "set.npz"
    wanted = r"looked for an npz with images or arr_0 uint8 \[N, H, W, C\]"
    cases = (
        ({"images": np.array([{"a": 1}], object)}, "cannot be read .Object arrays cannot be loaded when allow_pickle=False"),
        ({"images": images.astype(np.float32)}, rf"'images' is float32 \[4, 16, 16, 3\]; {wanted}"),
        ({"images": images[0]}, rf"'images' is uint8 \[16, 16, 3\]; {wanted}"),
        ({"images": images.transpose(0, 3, 1, 2)}, rf"'images' is uint8 \[4, 3, 16, 16\]; {wanted}, C = 1 or 3"),
        ({"images": images[:0]}, rf"'images' is uint8 \[0, 16, 16, 3\]; {wanted}"),
        ({"photos": images}, f"no array images or arr_0, it has photos; {wanted}"),
    )
    for arrays, match in cases:
        np.savez(path, **arrays)
        refused(path, f"set.npz: {match}")
    np.savez(path, images=images)
    whole = path.read_bytes()
    for cut in (4, 60, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        refused(path, "set.npz: cannot be read .*truncated, or not an npz")
    np.savez_compressed(path, images=np.zeros((1000, 64, 64, 3), np.uint8))
    refused(path, "set.npz:images.npy: .* bytes unpack to .*more than 200 times")
    header = b"\x93NUMPY\x01\x00" + struct.pack("<H", 118)
    for text in (
        b"{'descr': '|u1', 'fortran_order': False, 'shape': (99999999, 99999, 99999, 3), }",
        b"{'descr': '|u1', (((",
        b"\xff",
        b"{[]: 1}",
        b"a\n  b\n c",
    ):
        write_zip(path, [("images.npy", header + text.ljust(117) + b"\n")])
        refused(path, "set.npz: cannot be read")
    write_zip(path, [("images", b"raw bytes")])
    refused(path, "set.npz: 'images' is no array")


def animated():
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "WEBP", save_all=True, append_images=[Image.new("RGB", (16, 16), "red")])
    return file.getvalue()


IMAGES = {
    "empty": (b"", "empty"),
    "text": (b"hello", "its content is no PNG, JPEG, WebP or BMP"),
    "cut": (PNG[:-200], "broken or truncated image"),
    "huge": (PNG[:16] + struct.pack(">2I", 60_000, 60_000) + PNG[24:], "broken or truncated|above the limit of 64 megapixels|no PNG"),
    "animated": (animated(), "an animated image of 2 frames"),
}


@pytest.mark.parametrize("write", [write_zip, write_tar, write_parquet, write_lmdb])
@pytest.mark.parametrize("resident_gb", [1, 0])
def test_bad_images_in_an_archive(tmp_path, write, resident_gb):
    kind = write.__name__[6:]
    pytest.importorskip({"parquet": "pyarrow"}.get(kind, kind) if kind in ("parquet", "lmdb") else "zipfile")
    for name, (content, match) in IMAGES.items():
        path = tmp_path / f"{name}.{kind}"
        files = [*FILES[:2], ("b/bad.png", content), ("c.png", PNG)]
        write(path, [content for _, content in files] if write is write_lmdb else files)
        member = {"parquet": "row 2 of row group 0", "lmdb": "key 2"}.get(kind, "b/bad.png")
        refused(path, f"{name}.{kind}: ?{member}: .*({match})", resident_gb)
        skipping = open_dataset(path, MODEL, resident_gb=resident_gb, on_bad_image="skip")
        assert len(skipping) == 4
        skipping.__getitems__(list(range(len(skipping))))


def test_cmyk_and_16_bits_in_an_archive(tmp_path):
    files = []
    for name, image, kind in (
        ("a.jpg", Image.new("CMYK", (20, 20), (0, 255, 255, 0)), "JPEG"),
        ("b.png", Image.fromarray(np.full((20, 20), 0x80FF, np.uint16)), "PNG"),
    ):
        file = io.BytesIO()
        image.save(file, kind)
        files.append((name, file.getvalue()))
    write_zip(tmp_path / "set.zip", files)
    red, gray = open_dataset(tmp_path / "set.zip", MODEL).items
    assert red[0].min() > 200 and red[1:].max() < 55 and gray.eq(0x80).all()


@pytest.mark.parametrize("package, name", [("lmdb", "set.mdb"), ("pyarrow.parquet", "set.parquet")])
def test_a_missing_package(tmp_path, monkeypatch, package, name):
    pytest.importorskip(package)
    if package == "lmdb":
        write_lmdb(tmp_path / name, [PNG], subdir=False)
    else:
        write_parquet(tmp_path / name, FILES)
    monkeypatch.setitem(sys.modules, package, None)
    refused(tmp_path / name, r'needs the package (lmdb|pyarrow): pip install "ddgan_fast\[data\]"', error=MissingError)
