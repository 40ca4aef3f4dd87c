"""What every benchmark shares: the device's name, timing, rows of a CSV that say where they were measured, and the kernel benchmark.

How kernels are timed, one rule for all of them: the providers of a case take turns (A, B, C, A, B, C, ...) after each has run
and its result was compared with the float64 reference. On a GPU the L2 cache is filled with other data before each call, whatever
its size, and the GPU is held until the host has queued the call, so that CUDA events time the kernels and the gaps between them
and not the host. On a CPU time.perf_counter times the call. A copy of as many bytes takes its turn with the rest.
"""

import argparse
import csv
import importlib
import inspect
import itertools
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest import mock

import torch

from ddgan_fast.config import preset
from ddgan_fast.environment import device_name
from ddgan_fast.models.discriminator import Discriminator
from ddgan_fast.models.generator import Generator
from ddgan_fast.ops import backend

RESULTS = Path(__file__).parent / "results"
LIMITS = {torch.bfloat16: 1e-2, torch.float16: 1e-2, torch.float32: 1e-3}  # of |got - want| / |want|, for a row to be written
ROUNDS = {"cuda": 40, "cpu": 5}
SLOW_S, SLOW_ROUNDS = 3.0, 10  # turns that have taken so many seconds end behind so many rounds
COMPILE_SHARE = 0.75  # of a benchmark's seconds; what comes later is measured without torch.compile, so that it gets its turn
CYCLES_PER_MS = 2e6  # of a GPU, at most: it is held for that many cycles, which then last as long as asked for or longer
OURS = {"cuda": "triton", "cpu": "reference"}
# (preset, batch), most important first; on a CPU a trial
NETWORKS = {"cuda": [("cifar10", 100), ("celebahq256", 16), ("cifar10", 1), ("celebahq256", 1)], "cpu": [("tiny", 2)]}


def commit():
    """Short hash of HEAD, with + where the tree differs from it."""
    command = ["git", "describe", "--always", "--dirty=+"]
    try:
        return subprocess.run(command, cwd=RESULTS.parent, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # no git, or no repository
        return "unknown"


def timings(run, device, warmup=1, repeats=5):
    """(median, 20 %, 80 %) of the milliseconds that `run()` takes, the device idle before and after."""
    synchronize = torch.cuda.synchronize if device.type == "cuda" else torch.cpu.synchronize

    def once():
        synchronize()
        start = time.perf_counter()
        run()
        synchronize()
        return 1e3 * (time.perf_counter() - start)

    return spread([once() for _ in range(warmup + repeats)][warmup:])


def spread(times):
    """(median, 20 %, 80 %)."""
    times = sorted(times)
    return statistics.median(times), times[int(0.2 * (len(times) - 1))], times[round(0.8 * (len(times) - 1))]


def results_folder(device):
    """benchmarks/results/cpu, meta, or gpu-<name of the GPU>; made where it is missing."""
    name = device.type if device.type != "cuda" else "gpu-" + re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name(device).lower())
    folder = RESULTS / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Rows:
    """<folder>/<name>.csv of one run: a row is written as soon as it is added, so that a run cut off keeps its rows.

    Rows are dicts with one set of keys; device, torch, triton and commit go behind.
    """

    def __init__(self, name, device, folder):
        self.path = folder / f"{name}.csv"
        triton = importlib.import_module("triton").__version__ if backend.HAS_TRITON else "none"
        where = "none" if device.type == "meta" else device_name(device)  # meta: counted or compiled, and run nowhere
        self.where = {"device": where, "torch": torch.__version__, "triton": triton, "commit": commit()}
        self.empty = True

    def add(self, row):
        with open(self.path, "w" if self.empty else "a", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, [*row, *self.where])
            if self.empty:
                table.writeheader()
            table.writerow(row | self.where)
        self.empty = False


def write_rows(name, device, rows, folder=None):
    """Print rows (dicts with one set of keys) and write them to <folder, or results folder>/<name>.csv, with device and versions behind."""
    table = Rows(name, device, folder or results_folder(device))
    for row in rows:
        table.add(row)
        print(*(f"{key}={value}" for key, value in row.items()))
    print(table.path)


def arguments(doc):
    """The options of a benchmark with a budget: device, dtype, seconds."""
    parser = argparse.ArgumentParser(description=doc.partition("\n")[0])
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    parser.add_argument("--dtype", type=partial(getattr, torch), default=torch.bfloat16, help="bfloat16, float16 or float32")
    parser.add_argument("--seconds", type=float, default=600, help="stop before so many seconds have passed")
    return parser.parse_args()


class Clock:
    """Times calls in turns, as the head of this file says."""

    def __init__(self, device):
        self.device, self.gpu = device, device.type == "cuda"
        if self.gpu:
            self.other_data = torch.zeros(torch.cuda.get_device_properties(device).L2_cache_size, device=device)  # 4 times the cache

    def turns(self, calls):
        """{name: {"ms": median, "ms_p20": ..., "ms_p80": ...}} of calls {name: function without arguments} that have run before."""
        once = self._gpu_ms if self.gpu else self._host_ms
        hold = {name: statistics.median(self._host_ms(call) for _ in range(3)) for name, call in calls.items()}
        times = {name: [] for name in calls}
        start = time.perf_counter()
        for done in range(ROUNDS[self.device.type]):
            if done >= SLOW_ROUNDS and time.perf_counter() - start > SLOW_S:
                break
            for name, call in calls.items():
                times[name].append(once(call, hold[name]))
        columns = "ms", "ms_p20", "ms_p80"
        return {name: dict(zip(columns, (round(ms, 5) for ms in spread(values)), strict=True)) for name, values in times.items()}

    def _host_ms(self, call, _=0):
        start = time.perf_counter()
        call()
        ms = 1e3 * (time.perf_counter() - start)
        if self.gpu:
            torch.cuda.synchronize()
        return ms

    def _gpu_ms(self, call, hold_ms):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.other_data.sum()
        torch.cuda._sleep(int(CYCLES_PER_MS * (2 * hold_ms + 0.02)))
        begin.record()
        call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end)


def meta_networks(name, batch):
    """[(network, inputs)]: generator and discriminator of a preset on the meta device, which knows shapes and computes nothing."""
    model = preset(name).model
    with torch.device("meta"):
        x = torch.empty(batch, *model.sample_shape).to(memory_format=torch.channels_last)
        t, z = torch.zeros(batch, dtype=torch.int64), torch.empty(batch, model.latent_dim)
        return [(Generator(model), (x, t, z)), (Discriminator(model), (x, t, x))]


def op_calls(name, batch, *ops):
    """[(op's name, arguments by name)]: the calls that the networks of a preset make of these functions of ddgan_fast.ops."""
    homes = [module for key, module in sys.modules.items() if key.startswith("ddgan_fast.models")]
    with ExitStack() as stack:
        spies = [
            (op, stack.enter_context(mock.patch.object(home, op.__name__, wraps=op)))
            for home, op in itertools.product(homes, ops)
            if vars(home).get(op.__name__) is op
        ]
        stack.enter_context(backend.force("reference"))
        stack.enter_context(torch.no_grad())
        for network, inputs in meta_networks(name, batch):
            network(*inputs)
    calls = [(op, inspect.signature(op).bind(*call.args, **call.kwargs)) for op, spy in spies for call in spy.call_args_list]
    return [(op.__name__, bound.arguments) for op, bound in calls]


@dataclass(frozen=True)
class Kernel:
    """A benchmark of one op. A case has a batch and a text; a function takes tensors by name and returns one or a tuple."""

    name: str
    cases: Callable  # (preset, batch) -> Counter of the cases in one pass of its networks
    inputs: Callable  # (case, dtype, device) -> {argument: tensor}, one of them x; all get a gradient in a backward pass
    op: Callable  # case -> function of ddgan_fast.ops: `ours`, and on the reference backend in float64 the truth
    others: Callable  # case -> {provider: function of torch or of another package}; those named compile... are compiled
    bytes_moved: Callable  # (case, itemsize, backward) -> compulsory bytes: every input read once, every output written once


def run(kernel, args):
    """Measure the kernel's cases, forward, and with the backward pass for batches above 1, until the seconds are over.

    The heaviest case (calls * bytes) of every network comes first, then the second of every network, and so on.
    args: as `arguments` gives them; a trial on a CPU prints its rows and writes none.  Returns the number of passes without `ours`.
    """
    torch.manual_seed(0)
    torch.backends.cudnn.allow_tf32 = False  # rows say float32
    clock = Clock(args.device)
    rows = Rows(kernel.name, args.device, results_folder(args.device)) if clock.gpu else None
    counters = [kernel.cases(*network) for network in NETWORKS[args.device.type]]
    ranked = [sorted(found.items(), key=lambda item: -item[1] * kernel.bytes_moved(item[0], 1, False)) for found in counters]
    cases = [item for rank in itertools.zip_longest(*ranked) for item in rank if item]
    passes = [(case, calls, backward) for case, calls in cases for backward in (False, True)[: min(case.batch, 2)]]
    if not passes:
        raise SystemExit(f"{kernel.name}: the networks make no such call")
    start, took, failed = time.perf_counter(), [], 0
    for done, (case, calls, backward) in enumerate(passes):
        spent = time.perf_counter() - start
        if spent + max(took[1:][-2:], default=0) > args.seconds:  # the first pass is slow: everything starts up
            print(f"{kernel.name}: {done} of {len(passes)} passes were measured in {args.seconds:.0f} s")
            break
        try:
            found = _measure(kernel, case, backward, args.dtype, clock, compiling=spent < COMPILE_SHARE * args.seconds)
        except torch.OutOfMemoryError as problem:
            print(f"no rows for {case}: {problem}")
            continue
        what = {"dtype": str(args.dtype).removeprefix("torch."), "pass": "forward+backward" if backward else "forward"}
        for provider in found if rows else ():
            rows.add({"case": case, "calls": calls, "provider": provider} | what | found[provider])
        numbers = (f"{provider} {columns['ms']} ms {columns['percent_of_copy']} %" for provider, columns in found.items())
        print(f"{case} {what['pass']}: {', '.join(numbers)}", flush=True)
        failed += "ours" not in found
        took.append(time.perf_counter() - start - spent)
    return failed


def _measure(kernel, case, backward, dtype, clock, compiling):
    """{provider: columns} of the providers whose result is right, and of a copy; the others print why not."""
    inputs = {name: value.requires_grad_(backward) for name, value in kernel.inputs(case, dtype, clock.device).items()}
    torch.backends.cudnn.benchmark = False  # trying every float64 algorithm would take seconds
    upstream, want = _truth(backend.force("reference")(kernel.op(case)), inputs, backward)
    torch.backends.cudnn.benchmark = True
    functions = kernel.others(case) | {"ours": backend.force(OURS[clock.device.type])(kernel.op(case))}
    calls, errors = {}, {}
    torch.compiler.reset()  # every case is compiled for its own shape, and none counts as a recompilation
    for provider, function in functions.items():
        if provider not in ("eager", "ours") and not clock.gpu or provider.startswith("compile") and not compiling:
            continue
        if provider.startswith("compile"):
            function = torch.compile(function, fullgraph=True, dynamic=False)
        call = partial(_evaluate, function, inputs, upstream)
        try:
            errors[provider] = _error(call(), want)
            if not errors[provider] <= LIMITS[dtype]:
                raise ValueError(f"error {errors[provider]:.1e} is above {LIMITS[dtype]:.0e}")
        except Exception as problem:  # whatever one provider dies of, the others go on
            print(f"no row for {provider}, {case}: {type(problem).__name__}: {str(problem).strip().partition(chr(10))[0]}", flush=True)
        else:
            calls[provider] = call
    del want
    moved = kernel.bytes_moved(case, dtype.itemsize, backward)
    source, target = torch.randint(256, (2, moved // 2), dtype=torch.uint8, device=clock.device)
    calls["copy"], errors["copy"] = partial(target.copy_, source), 0.0
    found = clock.turns(calls)
    for provider, columns in found.items():
        columns["gb_per_s"] = round(moved / columns["ms"] / 1e6, 1)
        columns["percent_of_copy"] = round(100 * found["copy"]["ms"] / columns["ms"], 1)
        columns["max_error"] = f"{errors[provider]:.1e}"
    return found


def _evaluate(function, inputs, upstream):
    """Outputs; and with upstream gradients (one an output) the gradients of all inputs behind them."""
    with torch.set_grad_enabled(upstream is not None):
        outputs = function(**inputs)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return outputs if upstream is None else (*outputs, *torch.autograd.grad(outputs, list(inputs.values()), upstream))


def _truth(function, inputs, backward):
    """(upstream gradients in the inputs' dtype, or None; what `_evaluate` returns in float64)."""
    wide = {name: value.detach().double().requires_grad_(backward) for name, value in inputs.items()}
    outputs = _evaluate(function, wide, None)
    if not backward:
        return None, outputs
    upstream = [torch.randn_like(output, dtype=inputs["x"].dtype, memory_format=torch.channels_last) for output in outputs]
    return upstream, _evaluate(function, wide, [gradient.double() for gradient in upstream])


@torch.no_grad()
def _error(got, want):
    """The largest |got - want| / |want| over the tensors, in Euclidean norms; NaN where one is."""
    return torch.stack([(one.double() - other).norm() / other.norm() for one, other in zip(got, want, strict=True)]).max().item()
