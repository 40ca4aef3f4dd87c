"""Tar shards, their lists and zips that are broken, truncated or made to harm: refused with path and member, and nothing is written."""

import io
import json
import os
import struct
import tarfile
import zipfile

import pytest

from ddgan_fast.config import Model
from ddgan_fast.data import open_dataset

from .packing import encoded, named, refused, write_tar, write_zip

MODEL = Model(resolution=16)
FILES = named(encoded(6, 20))
PNG = FILES[0][1]


def special(name, kind, target="", **values):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    for key, value in values.items():
        setattr(member, key, value)
    return member


NAMES = {
    "../out.png": "leads out of the archive",
    "a/../../out.png": "leads out of the archive",
    "/tmp/out.png": "leads out of the archive",
    "..\\out.png": "leads out of the archive",
    "C:\\out.png": "leads out of the archive",
    FILES[0][0]: "two members have this name",
    "./" + FILES[0][0].replace("/", "//"): "two members have this name",
    "weights.pkl": "neither one of the images .* nor a sidecar",
    "code.pyd": "neither one of the images .* nor a sidecar",
    "a.pth": "neither one of the images .* nor a sidecar",
    "noextension": "neither one of the images .* nor a sidecar",
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("write", [write_tar, write_zip])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names(tmp_path, write, name):
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / f"set.{write.__name__[6:]}"
    write(path, [*FILES, (name, PNG)])
    text = refused(path, f"refused: .*{NAMES[name]}")
    assert text.startswith(f"{path}:{name}:")


SPECIAL = {
    "symlink": special("link.png", tarfile.SYMTYPE, "/etc/passwd"),
    "hidden symlink": special(".link.png", tarfile.SYMTYPE, "/etc"),
    "hardlink": special("link.png", tarfile.LNKTYPE, "/etc/passwd"),
    "character device": special("zero.png", tarfile.CHRTYPE, devmajor=1, devminor=5),
    "block device": special("disk.png", tarfile.BLKTYPE, devmajor=8, devminor=0),
    "fifo": special("pipe.png", tarfile.FIFOTYPE),
}


@pytest.mark.parametrize("kind", SPECIAL)
def test_special_members_of_a_tar(tmp_path, kind):
    (tmp_path / "in").mkdir()
    member = SPECIAL[kind]
    write_tar(tmp_path / "in" / "set.tar", [*FILES, member])
    refused(tmp_path / "in" / "set.tar", f"set.tar:{member.name}: refused: a link, a device or another special member")


def test_a_sparse_member_of_a_tar(tmp_path):
    for name, headers in (
        ("new", {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "a.png", "GNU.sparse.realsize": str(2**40)}),
        ("old", {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(2**40)}),
    ):
        member = tarfile.TarInfo("a.png")
        content = b"1\n0\n1\n".ljust(512, b"\0") + b"x"
        member.size, member.pax_headers = len(content), headers
        path = tmp_path / f"{name}.tar"
        with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
            archive.addfile(member, io.BytesIO(content))
        refused(path, f"{name}.tar:a.png: .*(special member|1,099,511,627,776 bytes)")
    header = bytearray(tarfile.TarInfo("a.png").tobuf(tarfile.GNU_FORMAT))
    header[156:157], header[482:483] = tarfile.GNUTYPE_SPARSE, b"\x01"  # more of it follows, and does not
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "cut.tar").write_bytes(header)
    refused(tmp_path / "cut.tar", "cut.tar: cannot be read")


@pytest.mark.parametrize("name", ["a.png", "a.json", "folder"])
@pytest.mark.parametrize("size", [-512, 50_000_001])
@pytest.mark.parametrize("extended", [False, True])
def test_sizes_in_a_tar(tmp_path, name, size, extended):
    """A size below 0 would send tarfile back to a header that it has read, for ever."""
    member = tarfile.TarInfo(name)
    if name == "folder":
        member.type = tarfile.DIRTYPE
    if extended:
        member.pax_headers = {"size": str(size)}
    else:
        member.size = size
    header = member.tobuf(tarfile.PAX_FORMAT if extended else tarfile.GNU_FORMAT)
    (tmp_path / "set.tar").write_bytes(header + bytes(1024))
    refused(tmp_path / "set.tar", f"set.tar: cannot be read .*{size:,} bytes|set.tar:{name}: {size:,} bytes; it must be 0 to 50,000,000")


def test_headers_of_a_tar_that_never_end(tmp_path):
    global_header = special("x", tarfile.XGLTYPE).tobuf(tarfile.USTAR_FORMAT)
    long_name = special("x", tarfile.GNUTYPE_LONGNAME, size=2**33).tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "many.tar").write_bytes(global_header * 5000)
    (tmp_path / "long.tar").write_bytes(long_name + bytes(1024))
    refused(tmp_path / "many.tar", "many.tar: cannot be read")
    refused(tmp_path / "long.tar", "long.tar: cannot be read .*a header of 8,589,934,592 bytes")


def test_a_truncated_tar(tmp_path):
    write_tar(tmp_path / "set.tar", FILES)
    whole, path = (tmp_path / "set.tar").read_bytes(), tmp_path / "cut.tar"
    end = whole.index(bytes(1024), len(whole) - 10240)
    for cut in (300, 512, 600, 512 + len(PNG), 5000, end // 1024 * 512, end - 1, end // 512 * 512):
        path.write_bytes(whole[:cut])
        refused(path, "cut.tar: cannot be read .*truncated")
    path.write_bytes(b"")
    refused(path, "cut.tar: empty or not a regular file")


def test_a_broken_header_does_not_end_a_tar(tmp_path):
    write_tar(tmp_path / "set.tar", FILES)
    content = bytearray((tmp_path / "set.tar").read_bytes())
    content[content.index(FILES[3][0].encode()) + 3] ^= 1
    (tmp_path / "set.tar").write_bytes(content)
    refused(tmp_path / "set.tar", "set.tar: cannot be read .bad checksum at byte")


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_compressed_tars(tmp_path, kind):
    with tarfile.open(tmp_path / f"set.tar.{kind}", f"w:{kind}") as archive:
        member = tarfile.TarInfo("a.png")
        member.size = len(PNG)
        archive.addfile(member, io.BytesIO(PNG))
    refused(tmp_path / f"set.tar.{kind}", f"set.tar.{kind}: a compressed tar; unpack it to a plain one")
    (tmp_path / f"set.tar.{kind}").rename(tmp_path / "set.tar")
    refused(tmp_path, "set.tar: cannot be read .*compressed")


def test_folders_of_what_is_no_shard(tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "set.tar").write_text("hello" * 200)
    refused(tmp_path / "text", "set.tar: cannot be read")
    (tmp_path / "empty").mkdir()
    write_tar(tmp_path / "empty" / "set.tar", [("a.json", b"{}")])
    refused(tmp_path / "empty", "empty: no images in its 1 shards")
    for name in ("set.tar", "set.parquet"):
        (tmp_path / "fifo").mkdir(exist_ok=True)
        os.mkfifo(tmp_path / "fifo" / name)
        refused(tmp_path / "fifo", f"{name}: empty or not a regular file")
        (tmp_path / "fifo" / name).unlink()


LISTS = {
    "missing.json": ('{"shardlist": [{"url": "absent.tar", "nsamples": 3}]}', "lists .*absent.tar, where no file is"),
    "bad.json": ("{", "cannot be read .JSONDecodeError"),
    "deep.json": ("[" * 100_000, "cannot be read .RecursionError|cannot be read .JSONDecodeError"),
    "other.json": ('{"labels": []}', "KeyError: 'shardlist'.; it must be a list of tar shards"),
    "list.json": ("[1, 2]", "TypeError"),
    "text.json": ('{"shardlist": "abc"}', "TypeError"),
    "none.json": ('{"shardlist": []}', "no shards in it"),
    "uncounted.json": ('{"shardlist": [{"url": "set.tar"}]}', "KeyError: 'nsamples'"),
    "negative.json": ('{"shardlist": [{"url": "set.tar", "nsamples": -1}]}', "nsamples must be a whole number, 1 to"),
    "huge.json": ('{"shardlist": [{"url": "set.tar", "nsamples": 10000000000000}]}', "nsamples must be a whole number, 1 to"),
    "words.json": ('{"shardlist": [{"url": "set.tar", "nsamples": "3"}]}', "nsamples must be a whole number, 1 to"),
    "missing.txt": ("set.tar\nabsent.tar\n", "lists .*absent.tar, where no file is"),
    "remote.txt": ("https://example.org/a.tar\n", "without its number of images"),
    "none.txt": ("\n# nothing\n", "no shards in it"),
    "binary.txt": (b"\xff\xfe\x00", "cannot be read .UnicodeDecodeError"),
    "nul.txt": ("a\0b.tar", "where no file is"),
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_of_shards(tmp_path, name):
    content, match = LISTS[name]
    write_tar(tmp_path / "set.tar", FILES)
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(tmp_path / name, f"{name}: .*({match})")


def patched_zip(path, at_local, at_central, value):
    """The archive with a field of its last member overwritten, in the member's own header and in the directory."""
    content = bytearray(path.read_bytes())
    for signature, place in ((b"PK\x03\x04", at_local), (b"PK\x01\x02", at_central)):
        start = content.rindex(signature) + place
        content[start : start + len(value)] = value
    path.write_bytes(content)


def test_members_of_a_zip(tmp_path):
    path = tmp_path / "set.zip"
    name = FILES[-1][0]
    cases = (
        ((6, 8, struct.pack("<H", 1)), "encrypted"),
        ((8, 10, struct.pack("<H", 14)), "packed by method 14; it must be stored"),
        ((22, 24, struct.pack("<I", 300 * len(FILES[-1][1]))), "unpack to .*more than 200 times"),
        ((22, 24, struct.pack("<I", 60_000_000)), "60,000,000"),
    )
    for patch, match in cases:
        write_zip(path, FILES)
        patched_zip(path, *patch)
        refused(path, f"set.zip:{name}: .*{match}", resident_gb=0)
    write_zip(path, [*FILES, ("bomb.png", bytes(10_000_000))], zipfile.ZIP_DEFLATED)
    refused(path, "set.zip:bomb.png: .* bytes unpack to 10,000,000, more than 200 times")
    write_zip(path, [*FILES, ("large.png", os.urandom(50_000) * 1001)])
    refused(path, "set.zip:large.png: 50,050,000 bytes, above the limit of 50,000,000")
    write_zip(path, [("dataset.json", b"{}")])
    refused(path, "set.zip: no images in it")
    write_zip(path, FILES, zipfile.ZIP_LZMA)
    refused(path, f"set.zip:{FILES[0][0]}: packed by method 14")


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_truncated_or_broken_zip(tmp_path, compression):
    write_zip(tmp_path / "set.zip", FILES, compression)
    whole, path = (tmp_path / "set.zip").read_bytes(), tmp_path / "cut.zip"
    for cut in (4, 30, 100, len(whole) // 2, len(whole) - 100, len(whole) - 1):
        path.write_bytes(whole[:cut])
        refused(path, "cut.zip: cannot be read .*truncated")
    middle = whole.index(FILES[2][0].encode()) + 300
    path.write_bytes(whole[:middle] + b"\xff\0\xff\0" + whole[middle + 4 :])
    refused(path, f"cut.zip:{FILES[2][0]}: cannot be unpacked", resident_gb=0)


def test_fewer_in_an_archive_than_its_index_says_is_left_to_streams(tmp_path):
    write_tar(tmp_path / "set.tar", FILES)
    (tmp_path / "index.json").write_text(json.dumps({"shardlist": [{"url": "set.tar", "nsamples": 99}]}))
    assert len(open_dataset(tmp_path / "index.json", MODEL)) == len(FILES)
