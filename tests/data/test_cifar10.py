"""CIFAR-10 in both formats, each pickle protocol, and the files that must be refused."""

import os
import pickle
import struct

import numpy as np
import pytest
import torch

from ddgan_fast.config import Model
from ddgan_fast.data import cifar10, open_dataset
from ddgan_fast.errors import DataError

MODEL = Model()
ROWS = np.random.default_rng(0).integers(0, 256, (5, 4, 3072), dtype=np.uint8)  # five batches of four images


def every_index(dataset):
    return dataset.__getitems__(list(range(len(dataset))))


def write_python(folder, protocol=2, keys=bytes):
    folder.mkdir(exist_ok=True)
    for i, rows in enumerate(ROWS, 1):
        batch = {"batch_label": f"batch {i}", "labels": [1, 2, 3, 4], "data": rows, "filenames": ["a.png"] * 4}
        if keys is bytes:
            batch = {key.encode(): value for key, value in batch.items()}
        (folder / f"data_batch_{i}").write_bytes(pickle.dumps(batch, protocol=protocol))
    return folder


def write_binary(folder):
    folder.mkdir()
    for i, rows in enumerate(ROWS, 1):
        labels = np.full((4, 1), i, np.uint8)
        (folder / f"data_batch_{i}.bin").write_bytes(np.concatenate([labels, rows], axis=1).tobytes())
    return folder


def python2_batch(rows):
    """The opcodes that Python 2's cPickle wrote at protocol 2: its str for keys, for the array's bytes and for dtype codes."""

    def text(value):
        return b"U" + struct.pack("<B", len(value)) + value

    content = rows.tobytes()
    dtype = b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R" + b"(K\x03" + text(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
    shape = b"".join(b"M" + struct.pack("<H", side) for side in rows.shape) + b"\x86"
    state = b"(K\x01" + shape + dtype + b"\x89T" + struct.pack("<i", len(content)) + content + b"tb"
    return b"\x80\x02}(" + text(b"data") + array + state + text(b"labels") + b"](K\x06K\x09eu."


@pytest.mark.parametrize("keys", [bytes, str])
@pytest.mark.parametrize("protocol", range(2, 6))
def test_python_batches_of_every_protocol(tmp_path, protocol, keys):
    write_python(tmp_path / "c", protocol, keys)
    dataset = open_dataset(f"cifar10:{tmp_path / 'c'}", MODEL)
    assert len(dataset) == 20 and dataset.name == "cifar10"
    assert torch.equal(every_index(dataset), torch.from_numpy(ROWS).view(20, 3, 32, 32))


def test_batches_written_by_python2_and_in_fortran_order(tmp_path):
    write_python(tmp_path)
    (tmp_path / "data_batch_1").write_bytes(python2_batch(ROWS[0]))
    for protocol, number in ((4, 2), (5, 3)):
        batch = {"data": np.asfortranarray(ROWS[number - 1]), "labels": [np.int64(1)], "raw": bytearray(b"x"), "tags": {1, 2}}
        (tmp_path / f"data_batch_{number}").write_bytes(pickle.dumps(batch, protocol=protocol))
    assert torch.equal(every_index(open_dataset(tmp_path, MODEL)), torch.from_numpy(ROWS).view(20, 3, 32, 32))


@pytest.mark.parametrize("write, unpacked", [(write_python, "cifar-10-batches-py"), (write_binary, "cifar-10-batches-bin")])
def test_the_folder_and_its_parent_give_the_same_images(tmp_path, write, unpacked):
    write(tmp_path / unpacked)
    want = torch.from_numpy(ROWS).view(20, 3, 32, 32)
    for source in (tmp_path, tmp_path / unpacked, f"cifar10:{tmp_path}"):
        assert torch.equal(every_index(open_dataset(source, MODEL)), want)


def test_resized_and_gray(tmp_path):
    write_binary(tmp_path / "c")
    assert every_index(open_dataset(tmp_path / "c", Model(resolution=16, image_channels=1))).shape == (20, 1, 16, 16)


class _Call:
    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize(
    "made, named",
    [
        (lambda canary: _Call(os.mkdir, canary), f"{os.mkdir.__module__}.mkdir"),
        (lambda canary: _Call(os.system, f"mkdir {canary}"), f"{os.system.__module__}.system"),
        (lambda canary: _Call(eval, f"__import__('os').mkdir({canary!r})"), r"\w+\.eval"),
        (lambda canary: _Call(np.load, canary), "numpy.load"),
        (lambda canary: _Call(getattr, "", "join"), r"\w+\.getattr"),
    ],
    ids=["mkdir", "system", "eval", "numpy.load", "getattr"],
)
def test_a_malicious_pickle_is_refused_by_name_and_not_run(tmp_path, protocol, made, named):
    write_python(tmp_path)
    canary = tmp_path / "run"
    (tmp_path / "data_batch_3").write_bytes(pickle.dumps({"data": made(str(canary))}, protocol=protocol))
    with pytest.raises(DataError, match=rf"data_batch_3: refused.* {named}"):
        open_dataset(tmp_path, MODEL)
    assert not canary.exists()


def test_an_array_of_addresses_is_not_made(tmp_path):
    """numpy's own `scalar` would take the 8 bytes for the address of an object."""
    write_python(tmp_path)
    scalar = np.float64(0).__reduce__()[0]
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps({"data": _Call(scalar, np.dtype("O"), b"\x10" * 8)}))
    with pytest.raises(DataError, match="data_batch_1: not a readable pickle"):
        open_dataset(tmp_path, MODEL)


@pytest.mark.parametrize(
    "content, reason",
    [
        (pickle.dumps({"data": ROWS[0]})[:5000], "not a readable pickle"),
        (b"", "not a readable pickle"),
        (b"<html>404</html>", "not a readable pickle"),
        (pickle.dumps([1, 2]), "no array 'data'"),
        (pickle.dumps({"data": [1, 2]}), "no array 'data'"),
        (pickle.dumps({"data": ROWS[0][:, :3000]}), r"uint8 \[4, 3000\]; it must be uint8 \[n, 3072\]"),
        (pickle.dumps({"data": ROWS[0].astype(np.int64)}), r"int64 \[4, 3072\]"),
        (pickle.dumps({"data": ROWS[0][:0]}), r"uint8 \[0, 3072\]"),
    ],
)
def test_a_broken_python_batch_is_named(tmp_path, content, reason):
    write_python(tmp_path)
    (tmp_path / "data_batch_4").write_bytes(content)
    with pytest.raises(DataError, match=f"data_batch_4: .*{reason}"):
        open_dataset(f"cifar10:{tmp_path}", MODEL)


@pytest.mark.parametrize("content", [b"", b"\0" * 3072, b"\0" * 3074, b"\x0a" + b"\0" * 3072], ids=["empty", "short", "long", "label 10"])
def test_a_broken_binary_batch_is_named(tmp_path, content):
    write_binary(tmp_path / "c")
    (tmp_path / "c" / "data_batch_2.bin").write_bytes(content)
    with pytest.raises(DataError, match="data_batch_2.bin: .*not a CIFAR-10 binary batch"):
        open_dataset(tmp_path / "c", MODEL)


def test_missing_batches(tmp_path):
    with pytest.raises(DataError, match="cifar10:DIR"):
        open_dataset("cifar10", MODEL)
    with pytest.raises(DataError, match="looked for .*data_batch_1.*cifar-10-batches-py"):
        open_dataset(f"cifar10:{tmp_path}", MODEL)
    write_python(tmp_path)
    (tmp_path / "data_batch_5").unlink()
    with pytest.raises(DataError, match="incomplete, no data_batch_5"):
        cifar10.find(tmp_path)
