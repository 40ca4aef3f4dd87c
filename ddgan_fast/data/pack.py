"""Any set of images at one resolution into one LMDB or tar shards, which training reads without resizing: `ddgan data pack`.

The work happens in a hidden folder beside the result, which is renamed at the end: the result is whole or absent. A pack that was killed
goes on where it was and ends in the same keys and values, or the same tar files byte by byte.
"""

import fcntl
import importlib.util
import io
import json
import logging
import math
import multiprocessing
import os
import signal
import tarfile
import threading
from hashlib import sha256
from itertools import groupby
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from ddgan_fast.checkpoint.folder import sweep, sync
from ddgan_fast.data.check import Pixels, open_images
from ddgan_fast.data.datasets import NAMES
from ddgan_fast.data.formats.shards import INDEX
from ddgan_fast.data.loader import SHARED_MEMORY
from ddgan_fast.errors import DataError, InputError, MissingError, ResourceError
from ddgan_fast.pictures import to_pil, whole_file

log = logging.getLogger(__name__)
RECORD = "pack.json"  # in the result: what it was made of
PROGRESS = "progress.json"  # in the folder of unfinished shards: how many images each finished one holds
POSITION = b"position"  # in an unfinished LMDB: [the next item, images written]
MOST_WORKERS = 16  # by default: about as many as one process can write for
_TRANSACTION_BYTES, _CHUNK_BYTES = 2**26, 2**22
GOES_ON = "the same command goes on where it stopped"


def pack(
    source,
    out,
    shape,
    kind="lmdb",
    shard_images=4096,
    workers=None,
    max_images=0,
    on_bad_image="error",
    watch=lambda results, total, start: results,
):
    """Write the images of a set, brought to `shape`, into a new folder. Returns (images in it, bad ones left out, bytes).

    source, max_images, on_bad_image: as `open_dataset` takes them.  shape: (C, R, R).
    kind: lmdb (raw RGB under keys 0, 1, ...) or shards (tars of PNG: `shard_images` items of the source each, less the bad ones).
    workers: processes that decode; None for one a core, 0 for this one.  watch: (results, total, start) -> the same results.
    Raises InputError for an `out` that exists or an unfinished one of other settings, DataError for a source that cannot be read or a
    bad image that is not skipped, MissingError without the package lmdb, ResourceError where the disk is full or cannot be written.
    """
    out, channels = Path(out), shape[0]
    _check(out, source, channels, kind, shard_images, workers)
    images = open_images(source, shape, on_bad_image, max_images)
    record = _record(images, source, kind, shard_images)
    partial = out.with_name(f".{out.name}.partial")

    def items(start):
        return watch(_good(images, _encoded(images, kind, start, workers)), len(images), start)

    try:
        partial.mkdir(parents=True, exist_ok=True)
        with open(partial / RECORD, "a+", encoding="utf-8") as file:
            _claim(file, partial, record)
            count = _write_lmdb(partial, images, items) if kind == "lmdb" else _write_shards(partial, images, items, shard_images)
            if not count:
                raise DataError(f"{source}: none of its {len(images)} images can be read")
            sync(partial)
            os.rename(partial, out)
            sync(out.parent)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"{out}: cannot become a folder: {error}; give another --out") from error
    except OSError as error:
        raise ResourceError(f"{partial}: cannot be written: {error}; {GOES_ON}") from error
    return count, len(images) - count, sum(path.stat().st_size for path in out.iterdir())


def _check(out, source, channels, kind, shard_images, workers):
    if os.path.lexists(out):
        raise InputError(f"{out}: exists; give another --out, or delete it")
    if kind == "lmdb" and channels != 3:
        raise InputError(f"channels = {channels}: raw pixels in an LMDB are RGB, so 3; give --format shards for gray images")
    if kind == "lmdb" and importlib.util.find_spec("lmdb") is None:
        raise MissingError('writing LMDB needs the package lmdb: pip install "ddgan_fast[data]"; or give --format shards')
    if channels not in (1, 3):
        raise InputError(f"channels = {channels}: it must be 1 (gray) or 3 (RGB)")
    if shard_images < 1:
        raise InputError(f"shard_images = {shard_images}: it must be 1 or more")
    if workers is not None and workers < 0:
        raise InputError(f"workers = {workers}: it must be 0 or more")
    place = _place(source)
    if place and place.is_dir() and out.resolve().is_relative_to(place.resolve()):
        raise InputError(f"{out}: lies in {source}, the folder to pack, and would count as a part of it; give another --out")


def _place(source):
    """The path of a source, or None of one that is a NAME or NAME:PATH."""
    return None if source.partition(":")[0] in NAMES else Path(source).expanduser()


def _record(images, source, kind, shard_images):
    """The JSON object of all that decides the result: a pack goes on with the same alone."""
    place, names = _place(source), sha256()
    if place and place.is_file():
        names.update(f"{place.stat().st_size} {place.stat().st_mtime_ns}".encode())
    for index in range(len(images)):
        label = images.source.label(index).removeprefix(str(place or ""))  # the same for a path given in another way
        names.update(label.encode("utf-8", "backslashreplace") + b"\0")
    channels, size, _ = images.shape
    record = {"source": str(place.resolve()) if place else source, "items": len(images)}
    record |= {"names": names.hexdigest(), "resolution": size, "channels": channels, "format": kind}
    return record | {"shard_images": shard_images} if kind == "shards" else record


def _claim(file, partial, record):
    """Take the folder for this process, and write the record into `file` where the work is new. Raises InputError where it is another's."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(f"{partial}: another process is packing here; wait for it, or give another --out") from None
    sweep(partial)
    if set(os.listdir(partial)) == {RECORD}:  # new, or killed before its first image
        file.truncate(0)
        file.write(json.dumps(record, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
        return
    file.seek(0)
    try:
        found = dict(json.load(file))
    except (ValueError, TypeError):
        raise InputError(f"{partial / RECORD}: cannot be read, so what was begun there is not known; delete {partial}") from None
    for name in record | found:
        if found.get(name) != record.get(name):
            began = "with items of other names" if name == "names" else f"with {name} = {found.get(name)}, and this is {record.get(name)}"
            raise InputError(f"{partial}: was begun {began}; delete it, or give the same settings")


class _Encode:
    """Items as they are stored: (index, bytes), or (index, DataError) for a bad one; raised in a worker, it would lose its type."""

    def __init__(self, images, kind):
        self.images, self.kind = images, kind

    def __getitems__(self, indices):
        return [(index, self._encoded(index)) for index in indices]

    def _encoded(self, index):
        try:
            pixels = self.images.decode(index).permute(1, 2, 0).numpy()  # [R, R, C]
        except DataError as error:
            return error
        if self.kind == "lmdb":
            return pixels.tobytes()
        file = io.BytesIO()
        to_pil(pixels).save(file, "PNG")
        return file.getvalue()


def _encoded(images, kind, start, workers):
    """Yield what `_Encode` returns for the items from `start` on, in order."""
    count, chunk = len(images), min(64, max(1, _CHUNK_BYTES // math.prod(images.shape)))
    if workers is None:
        workers = min(os.cpu_count() or 1, MOST_WORKERS)
    workers = min(workers, (count - start) // chunk)
    if isinstance(images.source, Pixels):  # decoded already, and too large to hand over
        workers = 0
    if workers and not os.access(SHARED_MEMORY, os.W_OK):
        raise ResourceError(f"worker processes need {SHARED_MEMORY}, which cannot be written; give --workers 0")
    loader = DataLoader(
        _Encode(images, kind),
        batch_sampler=(range(first, min(first + chunk, count)) for first in range(start, count, chunk)),
        num_workers=workers,
        collate_fn=list,
        multiprocessing_context="spawn" if workers else None,  # a forked child of a process with threads may hang
        worker_init_fn=_begin_worker,
        generator=torch.Generator(),  # or DataLoader draws from the global one
    )
    try:
        for results in loader:
            yield from results
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise ResourceError(f"a worker process was killed; out of memory? {GOES_ON}, with fewer --workers") from error


def _begin_worker(worker):
    """Tie a worker process to the one that started it."""

    def end_with_parent():
        multiprocessing.parent_process().join()
        os._exit(1)  # the worker waits for ever to hand its results over to a process that was killed

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal; the first one ends the others
    threading.Thread(target=end_with_parent, daemon=True).start()


def _good(images, results):
    """Yield (index, bytes), with None in place of the bytes of a bad image. Raises its DataError unless bad ones are skipped."""
    for index, content in results:
        if isinstance(content, DataError):
            if not images.skips:
                raise DataError(f"{content}; or give --on-bad-image skip, which goes on from here")
            log.warning("left out: %s", content)
            content = None
        yield index, content


def _write_lmdb(folder, images, items):
    """Fill the LMDB from where it stopped. Returns how many images it holds.

    A transaction holds images and the position behind them, so one never runs ahead of the other; at the end it has no position.
    """
    import lmdb

    size = math.prod(images.shape)
    per_transaction = min(512, max(1, _TRANSACTION_BYTES // size))
    map_size = 2**26 + len(images) * (size // 4096 + 2) * 4096  # the most that it may grow to: whole pages, and one for each key
    try:
        with lmdb.open(str(folder), map_size=map_size, lock=False) as environment:  # `_claim` has locked the folder
            with environment.begin() as transaction:
                saved, held = transaction.get(POSITION), transaction.stat()["entries"]
            if held and not saved:
                return held
            start, written = json.loads(saved) if saved else (0, 0)
            for _, group in groupby(items(start), lambda item: item[0] // per_transaction):
                with environment.begin(write=True) as transaction:
                    for index, content in group:
                        if content is not None:
                            transaction.put(str(written).encode(), content)
                            written += 1
                        position = index + 1
                    transaction.put(POSITION, json.dumps([position, written]).encode())
            with environment.begin(write=True) as transaction:
                transaction.delete(POSITION)
            return written
    except (lmdb.InvalidError, lmdb.CorruptedError) as error:
        raise InputError(f"{folder}: is broken ({error}); delete it, and start again") from error
    except lmdb.Error as error:
        raise ResourceError(f"{folder}: cannot be written: {error}; {GOES_ON}") from error


def _write_shards(folder, images, items, shard_images):
    """Write the shards that are missing, then the index of all. Returns how many images they hold."""
    index, progress = folder / INDEX, folder / PROGRESS
    if not index.exists():
        counts = json.loads(progress.read_text()) if progress.exists() else []
        for number, group in groupby(items(len(counts) * shard_images), lambda item: item[0] // shard_images):
            counts.append(_write_shard(folder / f"{number:06d}.tar", group))
            _write_json(progress, counts)
        listed = [{"url": f"{number:06d}.tar", "nsamples": count} for number, count in enumerate(counts) if count]
        _write_json(index, {"wids_version": 1, "shardlist": listed})
    progress.unlink(missing_ok=True)
    return sum(entry["nsamples"] for entry in json.loads(index.read_text())["shardlist"])


def _write_shard(path, items):
    """Write a tar of PNG files, each called by its number in the source. Returns how many; without any there is no file."""
    count = 0
    with whole_file(path) as temporary:
        with tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
            for index, content in items:
                if content is not None:
                    member = tarfile.TarInfo(f"{index:09d}.png")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
                    count += 1
        sync(temporary)
    if not count:
        path.unlink()
    sync(path.parent)
    return count


def _write_json(path, value):
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(value) + "\n", encoding="utf-8")
        sync(temporary)
    sync(path.parent)
