"""Samples to files: a PNG per seed, one npz, or one picture. What is under its name is complete, and a run that was killed goes on.

Writing overlaps with the device: while a batch is encoded, the next one is drawn.
"""

import json
import os
import shutil
import zipfile
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch

from ddgan_fast.distributed import barrier, rank_and_world
from ddgan_fast.errors import InputError, ResourceError
from ddgan_fast.pictures import density, grid, to_uint8, whole_file, write_png

GRID_MOST = 4096
PENDING = 4  # batches that may wait for their PNG encoders
RECORD = "samples.json"  # beside the files: from what they were drawn


def write(draw, seeds, out, kind, shape, batch_size, origin=None):
    """Write the samples of `seeds` and return the path: png: folder `out`; npz and grid: file `out`.

    draw: (seeds, batch_size) -> iterable of (seeds, samples [b, *shape], images also uint8 [b, H, W, C]).
    origin: JSON object of what decides the samples (model, precision). PNGs, and a whole npz or its parts, of the same origin are kept and
    not drawn again; a grid is. Under torchrun each rank draws its share, batch by batch, and returns when all are done; a grid is drawn by
    the first alone.
    Raises InputError where kind and shape do not fit or the files there have another origin, ResourceError for a full disk.
    """
    points = len(shape) == 1
    if kind == "png" and points:
        raise InputError("format png: this model draws 2-D points; use npz (the points) or grid (a density picture)")
    if kind == "grid" and not points and len(seeds) > GRID_MOST:
        raise InputError(f"format grid: {len(seeds)} images; a grid holds at most {GRID_MOST}, use png or npz")
    out = Path(out)
    if out.exists() and out.is_dir() != (kind == "png"):
        raise InputError(
            f"{out}: format {kind} writes {'a folder' if kind == 'png' else 'a file'}, and this is the other; give another --out"
        )
    barrier()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        {"png": write_pngs, "npz": write_npz, "grid": write_grid}[kind](draw, seeds, out, shape, batch_size, origin)
        barrier()
    except OSError as error:
        raise ResourceError(f"{out}: cannot be written: {error}") from error
    return out


def sweep(folder, names):
    """Remove what a killed run left of files of these names."""
    for path in folder.glob(".tmp-*"):
        if path.name.rpartition("-")[2] in names:
            path.unlink(missing_ok=True)


def share(seeds, batch_size):
    """The batches of this rank: [(where the first seed stands, seeds)]."""
    rank, world = rank_and_world()
    return [(start, seeds[start : start + batch_size]) for start in range(rank * batch_size, len(seeds), world * batch_size)]


def claim(folder, origin, files):
    """Make `folder` the place of files of this origin; files of a run that stopped stay. Raises InputError where there are others."""
    folder.mkdir(exist_ok=True)
    record, has_files = folder / RECORD, any(folder.glob(files))  # in this order: another rank may be writing both
    if record.exists():
        try:
            found = json.loads(record.read_text(encoding="utf-8"))
        except ValueError:
            found = None
        if found != origin:
            raise InputError(f"{folder}: its files were drawn from {found}, and this would be {origin}; give another --out or remove it")
    elif has_files:
        raise InputError(f"{folder}: holds {files} of which no {RECORD} says the origin; give another --out or remove them")
    else:
        with whole_file(record) as temporary:
            temporary.write_text(json.dumps(origin), encoding="utf-8")


def to_host(batches):
    """(seeds, numpy array) of each (seeds, samples): images uint8 [b, H, W, C], points float32 [b, 2].

    The copy of a batch is queued behind it and waited for when the next one has been queued too.
    """
    waiting = deque()

    def finished():
        seeds, copy, done = waiting.popleft()
        if done is not None:
            done.synchronize()
        return seeds, copy.numpy()

    failure = None
    try:
        for seeds, samples in batches:
            values = samples.float() if samples.dim() == 2 else to_uint8(samples)
            done = None
            if values.is_cuda:
                with torch.cuda.device(values.device):
                    values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(values, non_blocking=True)
                    done = torch.cuda.Event()
                    done.record()
            waiting.append((seeds, values.contiguous(), done))
            if len(waiting) > 1:
                yield finished()
    except Exception as error:  # what was drawn before is still handed over
        failure = error
    while waiting:
        yield finished()
    if failure:
        raise failure


def write_pngs(draw, seeds, out, shape, batch_size, origin):
    """out/<seed>.png for each image; those that are there are not drawn again."""
    claim(out, origin, "*.png")
    names = {_png(seed): seed for _, part in share(seeds, batch_size) for seed in part}
    sweep(out, names)
    there = set(os.listdir(out))
    missing = [seed for name, seed in names.items() if name not in there]
    if not missing:
        return
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        pending = deque()
        for part, images in to_host(draw(missing, batch_size)):
            pending.append([pool.submit(write_png, out / _png(seed), image) for seed, image in zip(part, images, strict=True)])
            while len(pending) > PENDING:
                _results(pending.popleft())
        for encoded in pending:
            _results(encoded)


def _png(seed):
    return f"{seed:08d}.png"


def _results(futures):
    for future in futures:
        future.result()


def write_npz(draw, seeds, out, shape, batch_size, origin):
    """One npz: `images` uint8 [N, H, W, C] (or `points` float32 [N, 2]) and `seeds` int64 [N]; its batches lie in <out>.parts until all
    are there."""
    parts, numbers = out.with_name(f"{out.name}.parts"), np.array(seeds, np.int64)
    record = {"origin": origin, "seeds": sha256(numbers.tobytes()).hexdigest()}
    if not _is_complete(out, record):
        claim(parts, record | {"batch_size": batch_size}, "*.npy")
        _draw_parts(draw, share(seeds, batch_size), parts, shape, batch_size)
        barrier()
        if rank_and_world()[0] == 0:
            _join(parts, numbers, out, shape, batch_size, record)
    if rank_and_world()[0] == 0:
        shutil.rmtree(parts, ignore_errors=True)


def _is_complete(out, record):
    """Whether `out` is the npz of this record. Raises InputError where it is another file."""
    if not out.exists():
        return False
    try:
        with zipfile.ZipFile(out) as archive:
            found = json.loads(archive.read(RECORD))
    except (zipfile.BadZipFile, KeyError, ValueError):
        found = None
    if found != record:
        raise InputError(f"{out}: is a file of other seeds, another model or precision; give another --out or remove it")
    return True


def _draw_parts(draw, own, parts, shape, batch_size):
    """Write the parts of this rank that are missing."""
    missing = [(start, part) for start, part in own if not (parts / _part(start)).exists()]
    if not missing:
        return
    sweep(parts, {_part(start) for start, _ in missing})
    drawn = to_host(draw([seed for _, part in missing for seed in part], batch_size))
    left = np.empty((0, *_item(shape)))
    for start, part in missing:
        while len(left) < len(part):  # batches are smaller than parts where memory was short
            values = next(drawn)[1]
            left = np.concatenate((left, values)) if len(left) else values
        with whole_file(parts / _part(start)) as temporary, open(temporary, "wb") as file:
            np.save(file, left[: len(part)])
        left = left[len(part) :]


def _part(start):
    """The name of the part whose first seed stands at `start`."""
    return f"{start:09d}.npy"


def _item(shape):
    """The shape of one sample as it is stored."""
    return shape if len(shape) == 1 else (*shape[1:], shape[0])


def _join(parts, seeds, out, shape, batch_size, record):
    """The parts into one npz, part by part."""
    sweep(out.parent, {out.name})
    name, kind = ("points", "<f4") if len(shape) == 1 else ("images", "|u1")
    with whole_file(out) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, {"descr": kind, "fortran_order": False, "shape": (len(seeds), *_item(shape))})
            for start in range(0, len(seeds), batch_size):
                member.write(np.load(parts / _part(start)).tobytes())
        with archive.open("seeds.npy", "w") as member:
            np.lib.format.write_array(member, seeds)
        archive.writestr(RECORD, json.dumps(record))


def write_grid(draw, seeds, out, shape, batch_size, origin):
    """One PNG: a grid of the images, or the density of the points; the first rank draws it."""
    if rank_and_world()[0] == 0:
        samples = np.concatenate([values for _, values in to_host(draw(seeds, batch_size))])
        write_png(out, density(samples) if len(shape) == 1 else grid(samples))
