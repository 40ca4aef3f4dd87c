"""What every benchmark shares: the device's name, timing, and rows of a CSV that say where they were measured."""

import csv
import platform
import re
import statistics
import subprocess
import time
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"


def device_name(device):
    """The GPU's name, or the processor's with the threads in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text()) if Path("/proc/cpuinfo").exists() else None
    return f"{found[1].strip() if found else platform.processor()}, {torch.get_num_threads()} threads"


def commit():
    """Short hash of HEAD, with + where the tree differs from it."""
    found = subprocess.run(["git", "describe", "--always", "--dirty=+"], cwd=RESULTS.parent, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def timings(run, device, warmup=1, repeats=5):
    """(median, 20 %, 80 %) of the milliseconds that `run()` takes, the device idle before and after."""

    def once():
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return 1e3 * (time.perf_counter() - start)

    for _ in range(warmup):
        once()
    times = sorted(once() for _ in range(repeats))
    return statistics.median(times), times[int(0.2 * (repeats - 1))], times[round(0.8 * (repeats - 1))]


def results_folder(device):
    """benchmarks/results/cpu, or gpu-<name of the GPU>; made where it is missing."""
    name = "cpu" if device.type == "cpu" else "gpu-" + re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name(device).lower())
    folder = RESULTS / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_rows(name, device, rows):
    """Print rows (dicts with one set of keys) and write them to <results folder>/<name>.csv, with device, torch and commit behind."""
    where = {"device": device_name(device), "torch": torch.__version__, "commit": commit()}
    path = results_folder(device) / f"{name}.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, [*rows[0], *where])
        table.writeheader()
        for row in rows:
            table.writerow(row | where)
            print(*(f"{key}={value}" for key, value in row.items()))
    print(path)
