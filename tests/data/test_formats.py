"""One set of images in every format: the same pixels, by whatever path, also in worker processes."""

import io
import json
import pickle
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch.utils.data import DataLoader

from ddgan_fast.config import Model
from ddgan_fast.data import open_dataset
from ddgan_fast.data.decode import Images, decode
from ddgan_fast.data.images import InMemory
from ddgan_fast.errors import DataError, InputError

from .packing import encoded, named, write_folder, write_lmdb, write_parquet, write_tar, write_zip

MODEL = Model(resolution=16)
FILES = named(encoded(21))
EXACT = encoded(21, 16)  # sets without files hold these
RAW = [np.asarray(Image.open(io.BytesIO(content))) for content in EXACT]


def pixels_of(contents):
    return torch.stack([decode(content, "", (3, 16, 16)) for content in contents])


def every_index(dataset):
    return dataset.__getitems__(list(range(len(dataset))))


def folder(place):
    write_folder(place / "set", FILES)
    (place / "set" / "dataset.json").write_text('{"labels": null}')
    return place / "set"


def stored_zip(place, compression=zipfile.ZIP_STORED):
    write_zip(place / "set.zip", [*reversed(FILES), ("dataset.json", b'{"labels": null}'), ("00000/", b"")], compression)
    return place / "set.zip"


def deflated_zip(place):
    return stored_zip(place, zipfile.ZIP_DEFLATED)


def tar_folder(place):
    (place / "set").mkdir()
    sidecar = [("00000/img00000000.json", b"{}"), ("00000/img00000000.txt", b"a caption"), ("00000/._img00000000.png", b"junk")]
    write_tar(place / "set" / "set-000000.tar", [*FILES[:12], *sidecar])
    write_tar(place / "set" / "set-000001.tar", FILES[12:])
    return place / "set"


def tar_file(place):
    write_tar(place / "set.tar", FILES)
    return place / "set.tar"


def tar_list(place):
    tar_folder(place)
    (place / "list.txt").write_text("# a comment\nset/set-000000.tar\n\nset/set-000001.tar\n")
    return place / "list.txt"


def tar_index(place):
    shards = [{"url": f"set-00000{number}.tar", "nsamples": count} for number, count in enumerate((12, 9))]
    (tar_folder(place) / "index.json").write_text(json.dumps({"wids_version": 1, "shardlist": shards}))
    return place / "set" / "index.json"


def tar_folder_with_index(place):
    return tar_index(place).parent


def lsun(place):
    write_lmdb(place / "set_lmdb", [content for _, content in FILES], keys=[name for name, _ in FILES])
    return place / "set_lmdb"


def lsun_folder(place):
    write_lmdb(place / "church_outdoor_train_lmdb", [content for _, content in FILES], keys=[name for name, _ in FILES])
    write_lmdb(place / "church_outdoor_val_lmdb", EXACT[:2])
    return place


def parquet_folder(place):
    (place / "data").mkdir()
    write_parquet(place / "data" / "train-00000-of-00002.parquet", FILES[:12], row_group_size=5)
    write_parquet(place / "data" / "train-00001-of-00002.parquet", FILES[12:], plain=True)
    write_parquet(place / "data" / "test-00000-of-00001.parquet", FILES[:3])
    return place


def parquet_subfolders(place):
    for split, files in (("train", FILES), ("test", FILES[:3])):
        (place / "default" / split).mkdir(parents=True)
        write_parquet(place / "default" / split / "0000.parquet", files, row_group_size=4)
    return place


def parquet_file(place):
    write_parquet(place / "images.parquet", FILES, row_group_size=10, compression="zstd")
    return place / "images.parquet"


def celeba_hq(place):
    write_lmdb(place / "set", [pixels.tobytes() for pixels in RAW])
    return place / "set"


def celeba_hq_folder(place):
    write_lmdb(place / "train.lmdb", [pixels.tobytes() for pixels in RAW])
    write_lmdb(place / "validation.lmdb", [RAW[0].tobytes()])
    return place


def celeba_hq_file(place):
    write_lmdb(place / "set.mdb", [pixels.tobytes() for pixels in RAW], subdir=False)
    return place / "set.mdb"


def npz_images(place, name="images", save=np.savez):
    save(place / "set.npz", labels=np.arange(len(RAW)), **{name: np.stack(RAW)})
    return place / "set.npz"


def npz_arr_0(place):
    return npz_images(place, "arr_0", np.savez_compressed)


OF_FILES = [
    *(folder, stored_zip, deflated_zip, tar_folder, tar_file, tar_list, tar_index, tar_folder_with_index),
    *(lsun, lsun_folder, parquet_folder, parquet_subfolders, parquet_file),
]
OF_PIXELS = [celeba_hq, celeba_hq_folder, celeba_hq_file]
OF_ARRAYS = [npz_images, npz_arr_0]


def needs(make):
    """Skip where the package of the format is missing."""
    name = make.__name__
    for package, words in (("lmdb", ("lsun", "celeba")), ("pyarrow", ("parquet",))):
        if name.startswith(words):
            pytest.importorskip(package)


@pytest.mark.parametrize("make", OF_FILES + OF_PIXELS, ids=lambda make: make.__name__)
def test_the_same_pixels_in_every_format(tmp_path, make):
    needs(make)
    path = make(tmp_path)
    want = pixels_of([content for _, content in FILES] if make in OF_FILES else EXACT)
    resident, on_access = open_dataset(path, MODEL), open_dataset(path, MODEL, resident_gb=0)
    assert isinstance(resident, InMemory) and isinstance(on_access, Images)
    assert resident.name == on_access.name == path.name or make is lsun_folder or make is celeba_hq_folder
    assert torch.equal(every_index(resident), want)
    assert torch.equal(on_access.__getitems__([20, 3, 3]), want[[20, 3, 3]])
    assert len({on_access.source.label(index) for index in range(21)}) == 21
    first = open_dataset(path, MODEL, resident_gb=0, max_images=13)
    assert len(first) == 13 and torch.equal(every_index(first), want[:13])


@pytest.mark.parametrize("make", OF_ARRAYS, ids=lambda make: make.__name__)
def test_arrays(tmp_path, make):
    dataset = open_dataset(make(tmp_path), MODEL, resident_gb=0)
    assert isinstance(dataset, InMemory) and dataset.name == "set"
    assert torch.equal(every_index(dataset), pixels_of(EXACT))
    smaller = open_dataset(tmp_path / "set.npz", Model(resolution=8))
    assert torch.equal(every_index(smaller), torch.stack([decode(content, "", (3, 8, 8)) for content in EXACT]))


@pytest.mark.parametrize("make", OF_FILES + OF_PIXELS, ids=lambda make: make.__name__)
def test_a_pickled_set_and_worker_processes_read_the_same(tmp_path, make):
    needs(make)
    dataset = open_dataset(make(tmp_path), MODEL, resident_gb=0)
    want = every_index(dataset)  # the parent has the file open when its workers start
    assert torch.equal(every_index(pickle.loads(pickle.dumps(dataset))), want)
    for _ in range(2):  # new workers, when others have ended
        got = torch.cat(list(DataLoader(dataset, batch_size=4, num_workers=2, collate_fn=torch.as_tensor)))
        assert torch.equal(got, want)
    assert torch.equal(every_index(dataset), want)


COLD = """
import pickle, sys
from concurrent.futures import ThreadPoolExecutor
dataset = pickle.load(sys.stdin.buffer)
with ThreadPoolExecutor(8) as pool:
    list(pool.map(dataset.source.read, list(range(8)) * 8))
"""


@pytest.mark.parametrize("make", [stored_zip, parquet_file, lsun], ids=lambda make: make.__name__)
def test_threads_of_a_process_that_has_not_opened_it(tmp_path, make):
    needs(make)
    dataset = open_dataset(make(tmp_path), MODEL, resident_gb=0)
    done = subprocess.run([sys.executable, "-c", COLD], input=pickle.dumps(dataset), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("make", [stored_zip, tar_file, parquet_file, lsun, celeba_hq_file, npz_images], ids=lambda make: make.__name__)
def test_a_set_that_was_replaced_is_read_anew(tmp_path, monkeypatch, make):
    needs(make)
    for place in ("old", "new"):
        (tmp_path / place).mkdir()
    old = make(tmp_path / "old")
    first = every_index(open_dataset(old, MODEL, resident_gb=0))
    monkeypatch.setitem(globals(), "FILES", FILES[1:])
    monkeypatch.setitem(globals(), "RAW", RAW[1:])
    new = make(tmp_path / "new")
    old.rename(tmp_path / "was")
    new.rename(old)
    assert torch.equal(every_index(open_dataset(old, MODEL, resident_gb=0)), first[1:])


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "BMP"])
def test_other_kinds_of_images(tmp_path, kind):
    contents = encoded(3, 20, kind)
    write_zip(tmp_path / "set.zip", named(contents, kind.lower()))
    assert torch.equal(every_index(open_dataset(tmp_path / "set.zip", MODEL)), pixels_of(contents))
    pytest.importorskip("lmdb")
    write_lmdb(tmp_path / "set_lmdb", contents)
    assert torch.equal(every_index(open_dataset(tmp_path / "set_lmdb", MODEL)), pixels_of(contents))


@pytest.mark.parametrize("orientation", range(10))
def test_photos_are_turned_as_pillow_turns_them(orientation):
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.fromarray(RAW[0]).save(file, "PNG", exif=exif)
    want = np.array(ImageOps.exif_transpose(Image.open(file)))
    assert torch.equal(decode(file.getvalue(), "", (3, 16, 16)), torch.from_numpy(want).permute(2, 0, 1))


def test_raw_pixels_that_begin_as_a_bmp_does(tmp_path):
    pytest.importorskip("lmdb")
    raw = RAW[0].copy()
    raw.reshape(-1)[:2] = tuple(b"BM")
    write_lmdb(tmp_path / "set", [raw.tobytes(), RAW[1].tobytes()])
    want = torch.from_numpy(np.stack([raw, RAW[1]])).permute(0, 3, 1, 2)
    assert torch.equal(every_index(open_dataset(tmp_path / "set", MODEL)), want)


def test_raw_pixels_are_resized(tmp_path):
    pytest.importorskip("lmdb")
    path = celeba_hq(tmp_path)
    want = torch.stack([decode(content, "", (1, 8, 8)) for content in EXACT])
    assert torch.equal(every_index(open_dataset(path, Model(resolution=8, image_channels=1))), want)


def test_gray_arrays(tmp_path):
    gray = np.stack(RAW)[..., :1]
    np.savez(tmp_path / "set.npz", images=gray)
    got = every_index(open_dataset(tmp_path / "set.npz", MODEL))
    assert torch.equal(got, torch.from_numpy(gray).permute(0, 3, 1, 2).expand(-1, 3, -1, -1))


def test_a_remote_index_is_for_streams(tmp_path):
    entry = {"url": "https://example.org/set-000000.tar", "nsamples": 12}
    (tmp_path / "index.json").write_text(json.dumps({"shardlist": [entry]}))
    with pytest.raises(InputError, match="https://example.org/set-000000.tar: lies elsewhere .*--shuffle-buffer"):
        open_dataset(tmp_path / "index.json", MODEL)


LOOKED_FOR = "CIFAR-10 .*idx files .*LMDB .*LSUN or CelebA-HQ.*Parquet with a column 'image'.*tar shards.*png jpg.*zip, npz.*list of shards"


def test_what_was_looked_for(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.doc").write_text("x")
    cases = (("absent", "no such path"), ("empty", "nothing to train on"), ("notes.doc", "a file of another kind"))
    for name, reason in cases:
        with pytest.raises(DataError, match=f"{name}: {reason}.*{LOOKED_FOR}") as raised:
            open_dataset(tmp_path / name, MODEL)
        assert raised.value.exit_code == 3
