"""`ddgan data pack`: the pixels are the source's, and a pack that was stopped at any moment ends as an unbroken one."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from tempfile import TemporaryDirectory, TemporaryFile

import numpy as np
import pytest
import torch
from PIL import Image

from ddgan_fast.cli import main
from ddgan_fast.config import Model
from ddgan_fast.data import open_dataset
from ddgan_fast.data import pack as packing
from ddgan_fast.data.formats import shards
from ddgan_fast.data.pack import pack
from ddgan_fast.errors import DataError, InputError, MissingError

lmdb = pytest.importorskip("lmdb")
SHAPE = 3, 16, 16
SHARD = 20
KINDS = "lmdb", "shards"


@pytest.fixture
def faces(tmp_path):
    """A folder of 70 images of odd sizes: several shards, chunks and transactions, the last of each incomplete."""
    generator, folder = np.random.default_rng(0), tmp_path / "faces"
    folder.mkdir()
    for number in range(70):
        pixels = generator.integers(0, 256, (*generator.integers(9, 30, 2), 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")
    return folder


@pytest.fixture(autouse=True)
def small_transactions(monkeypatch):
    monkeypatch.setattr(packing, "_TRANSACTION_BYTES", 8 * 3 * 16 * 16)
    monkeypatch.setattr(packing, "_CHUNK_BYTES", 3 * 3 * 16 * 16)


def packed(source, out, kind="lmdb", shape=SHAPE, **options):
    return pack(str(source), out, shape, kind, shard_images=SHARD, workers=options.pop("workers", 0), **options)


def pixels(source, channels=3):
    dataset = open_dataset(source, Model(resolution=16, image_channels=channels))
    return dataset.__getitems__(list(range(len(dataset))))


def content(out):
    """What a pack holds: {name: bytes}, of an LMDB its keys and values: LMDB leaves unused bytes of its pages as they were."""
    held = {path.name: path.read_bytes() for path in out.iterdir()}
    if held.pop("data.mdb", None):
        with TemporaryDirectory() as copy:  # a process may open an environment once
            shutil.copy(out / "data.mdb", copy)
            with lmdb.open(copy, readonly=True, lock=False) as environment, environment.begin() as transaction:
                held |= dict(transaction.cursor())
    return held


def stop_after(count, error):
    """A `watch` that raises in place of the item after `count`."""

    def watch(results, total, start):
        for number, result in enumerate(results):
            if number == count:
                raise error
            yield result

    return watch


def noting(starts):
    """A `watch` that changes nothing and appends where the work begins."""

    def watch(results, total, start):
        starts.append(start)
        return results

    return watch


@pytest.mark.parametrize("kind", KINDS)
def test_the_pixels_are_those_of_the_source(tmp_path, faces, kind):
    count, bad, size = packed(faces, tmp_path / "out", kind)
    assert (count, bad) == (70, 0) and size == sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    assert torch.equal(pixels(tmp_path / "out"), pixels(faces))
    assert not list(tmp_path.glob(".*"))
    np.savez(tmp_path / "a.npz", images=pixels(faces)[:, :1].permute(0, 2, 3, 1).numpy())
    packed(tmp_path / "a.npz", tmp_path / "from_npz", kind)
    assert torch.equal(pixels(tmp_path / "from_npz"), pixels(faces)[:, :1].expand(-1, 3, -1, -1))


def test_worker_processes_change_nothing(tmp_path, faces):
    packed(faces, tmp_path / "alone")
    packed(faces, tmp_path / "shared", workers=2)
    assert content(tmp_path / "alone") == content(tmp_path / "shared")


def test_the_index_lists_the_shards(tmp_path, faces):
    packed(faces, tmp_path / "out", "shards", (1, 16, 16), max_images=50)
    listed = [{"url": f"00000{number}.tar", "nsamples": count} for number, count in enumerate((20, 20, 10))]
    assert json.loads((tmp_path / "out/index.json").read_text()) == {"wids_version": 1, "shardlist": listed}
    assert [shard.images for shard in shards.read(tmp_path / "out")] == [20, 20, 10]
    assert torch.equal(pixels(tmp_path / "out", 1), pixels(faces, 1)[:50])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [0, 7, 25, 69])
def test_goes_on_where_it_stopped(tmp_path, faces, kind, count):
    packed(faces, tmp_path / "whole", kind)
    for more in (count, 0):
        with pytest.raises(KeyboardInterrupt):
            packed(faces, tmp_path / "out", kind, watch=stop_after(more, KeyboardInterrupt))
        assert not (tmp_path / "out").exists() and (tmp_path / ".out.partial").exists()
    starts = []
    packed(faces, tmp_path / "out", kind, watch=noting(starts))
    assert starts == [count - count % (8 if kind == "lmdb" else SHARD)]
    assert content(tmp_path / "out") == content(tmp_path / "whole")


@pytest.mark.parametrize("kind", KINDS)
def test_stopped_before_its_last_step(tmp_path, faces, kind, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    packed(faces, tmp_path / "whole", kind)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "rename", stop)
        packed(faces, tmp_path / "out", kind)
    packed(faces, tmp_path / "out", kind, watch=stop_after(0, AssertionError("nothing is left to do")))
    assert content(tmp_path / "out") == content(tmp_path / "whole")


KILLED = """
import multiprocessing, os, signal, sys
from ddgan_fast.data import pack as packing

source, out, kind, side, last, workers = sys.argv[1:]

def watch(results, total, start):
    for number, result in enumerate(results):
        if number == int(last):
            print(*(child.pid for child in multiprocessing.active_children()), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        yield result

if __name__ == "__main__":
    packing._TRANSACTION_BYTES = 8 * 3 * 16 * 16
    packing.pack(source, out, (3, int(side), int(side)), kind, shard_images=20, workers=int(workers), watch=watch)
"""


def killed(*words):
    """The processes that a pack had started when it killed itself."""
    with TemporaryFile("w+") as file:  # a pipe would stay open as long as they run
        code = subprocess.run([sys.executable, "-c", KILLED, *map(str, words)], stdout=file).returncode
        file.seek(0)
        pids = file.read().split()
    assert code == -signal.SIGKILL
    return [int(pid) for pid in pids]


@pytest.mark.parametrize("kind", KINDS)
def test_killed(tmp_path, faces, kind):
    killed(faces, tmp_path / "out", kind, 16, 45, 0)
    assert not (tmp_path / "out").exists()
    starts = []
    packed(faces, tmp_path / "out", kind, watch=noting(starts))
    assert starts == [40]
    packed(faces, tmp_path / "whole", kind)
    assert content(tmp_path / "out") == content(tmp_path / "whole")


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")
def test_the_workers_of_a_killed_pack_end(tmp_path, faces):
    workers = killed(faces, tmp_path / "out", "lmdb", 256, 0, 1)
    assert workers
    deadline = time.monotonic() + 20
    while any(map(is_running, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_running, workers))


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"  # nobody may be there to reap it
    except OSError:
        return False


@pytest.mark.parametrize("kind", KINDS)
def test_bad_images(tmp_path, faces, kind, caplog):
    want = pixels(faces)
    bad = [0, 33, *range(40, 60)]  # the third shard is nothing but bad ones
    for number in bad:
        (faces / f"{number:03d}.png").write_bytes(b"hello")
    with pytest.raises(DataError, match="000.png: .*skip, which goes on"):
        packed(faces, tmp_path / "out", kind)
    count, left_out, _ = packed(faces, tmp_path / "out", kind, on_bad_image="skip")
    assert (count, left_out) == (48, 22) and caplog.text.count("left out") == 22
    assert torch.equal(pixels(tmp_path / "out"), want[[number for number in range(70) if number not in bad]])
    if kind == "lmdb":
        assert content(tmp_path / "out").keys() == {"pack.json", *(str(number).encode() for number in range(48))}
    for path in faces.iterdir():
        path.write_bytes(b"hello")
    with pytest.raises(DataError, match="none of its 70 images"):
        packed(faces, tmp_path / "none", kind, on_bad_image="skip")
    assert not (tmp_path / "none").exists()


CHANGES = {
    "resolution": lambda faces: {"shape": (3, 8, 8)},
    "format": lambda faces: {"kind": "lmdb"},
    "items = 70, and this is 50": lambda faces: {"max_images": 50},
    "items of other names": lambda faces: (faces / "000.png").rename(faces / "new.png") and {},
    "source": lambda faces: faces.rename(faces.parent / "other") and {"source": faces.parent / "other"},
}


@pytest.mark.parametrize("name", CHANGES)
def test_other_settings_are_refused(tmp_path, faces, name):
    with pytest.raises(KeyboardInterrupt):
        packed(faces, tmp_path / "out", "shards", watch=stop_after(30, KeyboardInterrupt))
    before = content(tmp_path / ".out.partial")
    changed = {"source": faces, "kind": "shards"} | CHANGES[name](faces)
    with pytest.raises(InputError, match=f"begun with {name}.*delete it, or give the same settings"):
        packed(out=tmp_path / "out", **changed)
    assert content(tmp_path / ".out.partial").keys() <= before.keys()


def test_a_path_given_in_another_way_is_the_same_source(tmp_path, faces, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        packed(faces, tmp_path / "out", watch=stop_after(30, KeyboardInterrupt))
    monkeypatch.chdir(tmp_path)
    assert packed("./faces/", tmp_path / "out")[0] == 70


def test_two_at_once_are_refused(tmp_path, faces):
    def watch(results, total, start):
        with pytest.raises(InputError, match="another process"):
            packed(faces, tmp_path / "out")
        return results

    assert packed(faces, tmp_path / "out", watch=watch)[0] == 70


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk(tmp_path, faces, kind, capsys):
    words = ["data", "pack", faces, "--out", tmp_path / "out", "--resolution", 128, "--format", kind, "--workers", 0]
    words = [str(word) for word in words]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, limits[1]))
    try:
        code = main(words)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    errors = capsys.readouterr().err
    assert code == 6 and "the same command goes on" in errors
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "70 images of 128x128" in out and f"ddgan train --data {tmp_path / 'out'}" in out
    assert not list(tmp_path.glob("**/.*"))


def test_without_the_package_lmdb(tmp_path, faces, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingError, match=r'pip install "ddgan_fast\[data\]"; or give --format shards'):
        packed(faces, tmp_path / "out")
    assert not list(tmp_path.glob(".*"))


def test_wrong_input_leaves_nothing(tmp_path, faces):
    (tmp_path / "empty").mkdir()
    for options, reason in [
        ({"out": faces}, "exists"),
        ({"out": faces / "in" / "it"}, "lies in"),
        ({"out": faces / "000.png" / "x", "source": "digits"}, "cannot become a folder"),
        ({"shape": (1, 16, 16)}, "--format shards for gray"),
        ({"shape": (2, 16, 16), "kind": "shards"}, "1 .gray. or 3"),
        ({"shape": (3, 4, 4)}, "8 to 8000"),
        ({"workers": -1}, "workers = -1"),
        ({"source": "gaussians25"}, "2-D points"),
    ]:
        with pytest.raises(InputError, match=reason):
            packed(**{"source": faces, "out": tmp_path / "out"} | options)
    with pytest.raises(InputError, match="shard_images = 0"):
        pack(str(faces), tmp_path / "out", SHAPE, "shards", shard_images=0)
    with pytest.raises(DataError, match="nothing to train on"):
        packed(tmp_path / "empty", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "faces"]
