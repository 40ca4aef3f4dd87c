"""The tables of README.md that hold measured numbers, written from the files in results/.

`python -m benchmarks.tables` replaces what stands between `<!-- NAME -->` and `<!-- end -->`; with `--check` it changes nothing, and its
exit code is 1 where a table differs from the files.
"""

import argparse
import csv
import re
import sys
from pathlib import Path

from benchmarks.harness import RESULTS

README = Path(__file__).parents[1] / "README.md"
TABLES = {  # name: (file, columns {heading: column of the file}, which rows)
    "sample": (
        "sample.csv",
        {"preset": "preset", "engine": "engine", "precision": "precision", "images": "batch", "NFE": "nfe", "ms (p50)": "ms_p50",
         "ms (p90)": "ms_p90", "images/s": "images_per_s", "% of matmul peak": "percent_of_matmul_peak", "error of a call": "max_error"},
        lambda row: row["protocol"] == "images",
    ),
    "waterfall": (
        "waterfall.csv",
        {"preset": "preset", "images": "batch", "technique, on top of those above": "technique", "ms (p50)": "ms_p50",
         "times plain": "times_plain", "error of a call": "max_error"},
        lambda row: True,
    ),
    "train": (
        "train.csv",
        {"preset": "preset", "images": "batch", "technique, on top of those above": "technique", "precision": "precision",
         "ms a step": "ms", "D": "ms_d", "D with R1": "ms_d_r1", "G": "ms_g", "images/s": "images_per_s", "times plain": "times_plain",
         "MB": "memory_mb", "error of the first steps": "error"},
        lambda row: True,
    ),
    "kept": (
        "kept.csv",
        {"preset": "preset", "images": "batch", "form": "form", "MB kept for the backward pass": "kept_mb",
         "MB with weights, gradients, moments": "total_mb", "share of plain": "share_of_plain"},
        lambda row: True,
    ),
    "scaling": (
        "scaling.csv",
        {"preset": "preset", "how": "kind", "ranks": "ranks", "images a rank": "images_a_rank", "ms a step": "step_ms",
         "MB summed": "sum_mb", "ms of the sums": "sum_ms", "images/s": "images_per_s", "efficiency": "efficiency"},
        lambda row: True,
    ),
    "data": (
        "data.csv",
        {"images": "images", "loader": "loader", "cores": "cores", "images/s": "images_per_s", "times torch": "over_torch",
         "levels from torch": "max_levels"},
        lambda row: True,
    ),
    "engines": (
        "engines.csv",
        {"preset": "preset", "engine": "engine", "of target": "target", "images": "batch", "ms (p50)": "ms_p50", "ms (p90)": "ms_p90",
         "images/s": "images_per_s", "times plain": "times_plain", "times eager": "times_eager", "largest error": "largest_error"},
        lambda row: True,
    ),
    "engine_exports": (
        "engine_exports.csv",
        {"preset": "preset", "target": "target", "s of ddgan export": "seconds", "peak MB": "peak_mb", "MB of the file": "file_mb"},
        lambda row: True,
    ),
    "edit": (
        "edit.csv",
        {"preset": "preset", "NFE k": "nfe", "of T": "of_steps", "ms": "ms", "ms (p20)": "ms_p20", "ms (p80)": "ms_p80",
         "ms of sampling": "sampling_ms", "k/T of it": "share_ms", "over that": "overhead_ms"},
        lambda row: True,
    ),
    "serve": (
        "serve.csv",
        {"test": "test", "preset": "preset", "clients": "clients", "images at once": "batch_size", "requests": "requests", "lost": "lost",
         "mixed up": "mixed_up", "ms (p50)": "ms_p50", "ms (p99)": "ms_p99", "requests/s": "requests_per_s",
         "% memory grown": "memory_growth_percent"},
        lambda row: True,
    ),
    "table1": (
        "table1.csv",
        {"sampler": "sampler", "NFE": "nfe", "images": "batch", "evaluations timed": "steps_timed", "s for the batch": "seconds_per_batch",
         "times DDGAN": "times_ddgan"},
        lambda row: True,
    ),
    "traffic": (
        "traffic.csv",
        {"preset": "network", "images": "batch", "form": "form", "launches": "launches", "MB": "mb"},
        lambda row: row["op"] == "all",
    ),
    "figure6": (
        "figure6.csv",
        {"method": "method", "NFE": "NFE", "modes of 25": "modes", "within 3 sigma": "high_quality", "KL": "kl", "steps": "iterations",
         "points a step": "batch_size", "ms a step": "ms_per_step", "s for 10,000 points": "seconds"},
        lambda row: True,
    ),
    "table2-fashion": (
        "table2-fashion.csv",
        {"variant": "variant", "NFE": "NFE", "classifier-FID": "classifier-FID", "std of FID": "classifier-FID std",
         "classifier-IS": "classifier-IS", "std of IS": "classifier-IS std", "classifier-recall": "classifier-recall",
         "std of recall": "classifier-recall std", "classifier-precision": "classifier-precision",
         "paper's FID, CIFAR-10": "paper FID, CIFAR-10", "its IS": "paper IS", "its recall": "paper recall"},
        lambda row: True,
    ),
    "table3-fashion": (
        "table3-fashion.csv",
        {"model": "model", "NFE": "NFE", "modes of 1,000": "fashion-mnist-modes", "KL": "fashion-mnist-KL",
         "modes of real images": "modes of real images", "KL of real images": "KL of real images",
         "classifier's accuracy": "classifier accuracy", "s for 100 images": "seconds per 100 images"},
        lambda row: row["source"] == "measured",
    ),
}  # fmt: skip


def table(name):
    """Markdown: one table for each device that has the file, the device above it."""
    file, columns, wanted = TABLES[name]
    lines = []
    for path in sorted(RESULTS.glob(f"*/{file}")):
        rows = [row for row in csv.DictReader(path.open(encoding="utf-8")) if wanted(row)]
        measured = "counted without a GPU" if path.parent.name == "meta" else rows[0]["device"]
        measured += f", torch {rows[0]['torch']}" if "torch" in rows[0] else ""  # tables of `ddgan experiment` have no such column
        lines += [f"{measured} ([csv](benchmarks/results/{path.parent.name}/{file})):", ""]
        lines += [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
        lines += [f"| {' | '.join(_cell(row[column]) for column in columns.values())} |" for row in rows]
        lines.append("")
    return "\n".join(lines)


def _cell(text):
    """A number below 10,000 with four decimals or more has four significant digits."""
    return f"{float(text):.4g}" if re.fullmatch(r"-?\d{1,4}\.\d{4,}", text) else text


def filled(text):
    """README's text with every table as the files have it."""
    for name in TABLES:
        place = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.S)
        text = place.sub(lambda found, name=name: found[1] + table(name) + found[2], text)
    return text


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    before = README.read_text(encoding="utf-8")
    after = filled(before)
    if not check:
        README.write_text(after, encoding="utf-8")
    sys.exit(check and before != after)
