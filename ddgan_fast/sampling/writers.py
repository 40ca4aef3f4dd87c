"""Batches of samples to files: a PNG per seed, one npz, or one picture. What is under its name is complete."""

import zipfile
from pathlib import Path

import numpy as np

from ddgan_fast.errors import InputError, ResourceError
from ddgan_fast.pictures import density, grid, to_uint8, whole_file, write_png

GRID_MOST = 4096


def write(batches, out, kind, count, shape):
    """Write `count` samples of `shape` and return the path: png: folder `out`, npz and grid: file `out`.

    batches: iterable of (seeds, samples).  Raises InputError where kind and shape do not fit, ResourceError for a full disk.
    """
    points = len(shape) == 1
    if kind == "png" and points:
        raise InputError("format png: this model draws 2-D points; use npz (the points) or grid (a density picture)")
    if kind == "grid" and not points and count > GRID_MOST:
        raise InputError(f"format grid: {count} images; a grid holds at most {GRID_MOST}, use png or npz")
    out = Path(out)
    if out.exists() and out.is_dir() != (kind == "png"):
        raise InputError(
            f"{out}: format {kind} writes {'a folder' if kind == 'png' else 'a file'}, and this is the other; give another --out"
        )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        {"png": write_pngs, "npz": write_npz, "grid": write_grid}[kind](batches, out, count, shape)
    except OSError as error:
        raise ResourceError(f"{out}: cannot be written: {error}") from error
    return out


def write_pngs(batches, out, count, shape):
    """out/<seed>.png for each image."""
    out.mkdir(exist_ok=True)
    for seeds, samples in batches:
        for seed, image in zip(seeds, to_uint8(samples).cpu().numpy(), strict=True):
            write_png(out / f"{seed:08d}.png", image)


def write_npz(batches, out, count, shape):
    """One npz, written batch by batch: `images` uint8 [N, H, W, C] (or `points` float32 [N, 2]) and `seeds` int64 [N]."""
    name, kind, item = ("points", "<f4", shape) if len(shape) == 1 else ("images", "|u1", (*shape[1:], shape[0]))
    seen = []
    with whole_file(out) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, {"descr": kind, "fortran_order": False, "shape": (count, *item)})
            for seeds, samples in batches:
                seen.extend(seeds)
                values = samples.float() if name == "points" else to_uint8(samples)
                member.write(values.cpu().numpy().tobytes())
        with archive.open("seeds.npy", "w") as member:
            np.lib.format.write_array(member, np.array(seen, np.int64))


def write_grid(batches, out, count, shape):
    """One PNG: a grid of the images, or the density of the points."""
    if len(shape) == 1:
        write_png(out, density(np.concatenate([samples.float().cpu().numpy() for _, samples in batches])))
    else:
        write_png(out, grid(np.concatenate([to_uint8(samples).cpu().numpy() for _, samples in batches])))
