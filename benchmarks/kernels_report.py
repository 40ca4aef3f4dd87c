"""Every Triton kernel compiled ahead of time for every architecture and dtype, without a GPU: registers, spills, shared memory, SASS.

The launches are those of the CIFAR-10 and 256-pixel networks, forward and backward, and of the folded generator, recorded on meta
tensors (launches.py). Each kernel is compiled in the form with the largest tile and the most inputs, once for each set of its switches;
`--all` compiles every form, `--sm 90` for that architecture alone.

`python -m benchmarks.kernels_report [--all] [--sm N ...]` (`make kernels-report`) prints the table and writes results/meta/kernels.csv.
The exit code is 1 where a kernel spills or needs more shared memory than an architecture has.
"""

import argparse
import math
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import torch
import triton

from benchmarks.harness import meta_networks, write_rows
from benchmarks.launches import Recorder
from benchmarks.traffic import folded
from ddgan_fast.ops import backend

SHARED_KB = {80: 163, 90: 227, 100: 227, 120: 99}  # of a block, by architecture (CUDA programming guide, compute capabilities)
DTYPES = torch.bfloat16, torch.float16, torch.float32
CASES = [("cifar10", 100), ("cifar10", 1), ("celebahq256", 16), ("celebahq256", 1)]
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
COUNTED = {"ldg_128": r"\bLDG\.E\S*\.128\b", "stg_128": r"\bSTG\.E\S*\.128\b", "local": r"\b(LDL|STL)\b", "mufu": r"\bMUFU\b"}


class Forms(Recorder):
    """The distinct forms in which kernels are launched."""

    def __init__(self, layout):
        super().__init__(layout)
        self.forms = {}

    def launched(self, launch):
        self.forms[launch.name, launch.signature, launch.constants, launch.aligned, launch.warps] = launch


def forms(dtype):
    """Launches of the networks, forward and backward, and of the folded generator, one for each distinct form."""
    recorder = Forms(torch.channels_last)
    for preset, batch in CASES:
        for network, inputs in meta_networks(preset, batch):
            network.to(dtype=dtype, memory_format=torch.channels_last)
            inputs = [tensor.to(dtype).requires_grad_() if tensor.is_floating_point() else tensor for tensor in inputs]
            with backend.force("triton"), recorder:
                network(*inputs).sum().backward()
        if dtype != torch.float32:  # in which the form's joins are left to convolutions
            form, schedule, (x, _, z) = folded(preset, batch, dtype)
            with torch.no_grad(), backend.force("triton"), recorder:
                form.bind(z.expand(schedule.steps, *z.shape))(x.to(dtype), 0)
    return list(recorder.forms.values())


def most_demanding(launches):
    """For each kernel and set of switches, the launch with the largest tile for a warp, and among these the most tensors."""
    best = {}
    for launch in launches:
        values = [value for _, value in launch.constants]
        switches = launch.name, tuple(value for value in values if isinstance(value, bool)), launch.constant("STEP")
        tile = math.prod(launch.constant(name) or 1 for name in "GCPW") / launch.warps
        demand = tile, sum(kind.startswith("*") for _, kind in launch.signature)
        if switches not in best or demand > best[switches][0]:
            best[switches] = demand, launch
    return [launch for _, launch in best.values()]


_jobs = []  # of a worker


def _inherit(jobs):
    _jobs.extend(jobs)


def examine(i):
    """The row of job i: a launch, its dtype, an architecture."""
    launch, dtype, architecture = _jobs[i]
    compiled = launch.compile(architecture)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        dump = partial(subprocess.run, capture_output=True, text=True, check=True)
        usage = dump([CUOBJDUMP, "-res-usage", file.name])
        sass = dump([CUOBJDUMP, "-sass", file.name]).stdout
    found = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", usage.stdout + usage.stderr))
    tile = "x".join(f"{name}{value}" for name in "GCPW" if (value := launch.constant(name)))
    return {
        "kernel": launch.name,
        "form": " ".join([tile, *(name.lower() for name in ("SWISH", "NORM") if launch.constant(name))]),
        "dtype": str(dtype).removeprefix("torch."),
        "sm": architecture,
        "warps": launch.warps,
        "registers": int(found["REG"]),
        "spill_bytes": int(found["STACK"]) + int(found["LOCAL"]),
        "shared_bytes": compiled.metadata.shared,
        "instructions": len(re.findall(r"/\*[0-9a-f]{4,}\*/\s+\S", sass)),
    } | {name: len(re.findall(pattern, sass)) for name, pattern in COUNTED.items()}


def main(every, architectures, out):
    jobs = []
    for dtype in DTYPES:
        launches = forms(dtype) if every else most_demanding(forms(dtype))
        jobs += [(launch, dtype, architecture) for launch in launches for architecture in architectures]
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TRITON_CACHE_DIR"] = cache
        # forked workers inherit the jobs, since kernels cannot be pickled
        with multiprocessing.get_context("fork").Pool(initializer=_inherit, initargs=(jobs,)) as pool:
            rows = sorted(pool.map(examine, range(len(jobs))), key=lambda row: (row["kernel"], row["form"], row["dtype"], row["sm"]))
    write_rows("kernels", torch.device("meta"), rows, out)
    bad = [row for row in rows if row["spill_bytes"] or row["local"] or row["shared_bytes"] > 1024 * SHARED_KB[row["sm"]]]
    for row in bad:
        print(
            f"{row['kernel']} {row['form']} {row['dtype']} sm_{row['sm']}: spills {row['spill_bytes']} bytes, shared {row['shared_bytes']}"
        )
    return 1 if bad else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--all", action="store_true", help="every form, not the most demanding ones")
    parser.add_argument("--sm", type=int, nargs="+", choices=SHARED_KB, default=list(SHARED_KB), help="architectures, all by default")
    parser.add_argument("--out", type=Path, help="folder of kernels.csv, in place of results/meta")
    args = parser.parse_args()
    sys.exit(main(args.all, args.sm, args.out))
