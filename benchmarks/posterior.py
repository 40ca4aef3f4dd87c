"""The reverse step, the pair of training and the last step to bytes: plain torch, torch.compile and the extension.

Plain torch draws its noise with randn_like and does the arithmetic of the paper; the extension makes the noise from seeds. Bytes are
the compulsory ones: every tensor read or written once, no noise. A copy of as many bytes takes its turn with the rest. A row is written
after the extension's first image matched the reference, and the others' noise was standard normal. Writes results/<device>/posterior.csv.

`python -m benchmarks.posterior [--seconds 600] [--dtype float32]`
"""

import sys
import time
from dataclasses import dataclass
from functools import partial

import torch

from benchmarks.harness import LIMITS, Clock, Rows, arguments, results_folder
from ddgan_fast.diffusion import Schedule
from ddgan_fast.models import memory_format
from ddgan_fast.ops import backend, extension, posterior_final_uint8, posterior_step, q_sample_pair
from ddgan_fast.pictures import to_uint8

CASES = (100, 32), (16, 256), (64, 1024)  # (batch, size): as the paper times CIFAR-10, a 256-pixel batch, one beyond any cache
STEP = 2
SCHEDULE = Schedule(4)


def at(table, t):
    return (row[t].view(-1, 1, 1, 1) for row in table)


def eager_posterior(x0, x_t, t, table, seeds):
    a, b, s = at(table, t)
    return (a * x0 + b * x_t + s * torch.randn_like(x0)).to(x0.dtype)


def eager_pair(x0, x_t, t, table, seeds):
    scale, deviation, scale_tp1, deviation_tp1 = at(table, t)
    first = (scale * x0 + deviation * torch.randn_like(x0)).to(x0.dtype)
    return first, (scale_tp1 * first + deviation_tp1 * torch.randn_like(x0)).to(x0.dtype)


def eager_final(x0, x_t, t, table, seeds):
    a, b, _ = at(table, torch.zeros_like(t))
    return to_uint8((a * x0 + b * x_t).to(x0.dtype)).contiguous()


@dataclass(frozen=True)
class Op:
    """One op: plain torch, ours, its table, and the bytes that an element of x0 costs for an item of so many bytes."""

    eager: callable
    ours: callable
    table: torch.Tensor
    bytes_of: callable


OPS = {
    "posterior_step": Op(
        eager_posterior,
        lambda x0, x_t, t, table, seeds: posterior_step(x0, x_t, t, table, seeds=seeds, step=STEP),
        SCHEDULE.posterior,
        lambda item: 3 * item,
    ),
    "q_sample_pair": Op(
        eager_pair,
        lambda x0, x_t, t, table, seeds: q_sample_pair(x0, t, table, seeds=seeds, step=STEP, streams=(34, 33)),
        SCHEDULE.pair,
        lambda item: 3 * item,
    ),
    "posterior_final_uint8": Op(
        eager_final,
        lambda x0, x_t, t, table, seeds: posterior_final_uint8(x0, x_t, table),
        SCHEDULE.posterior,
        lambda item: item + 1,  # the coefficient of x_t is 0
    ),
}


def inputs(batch, size, dtype, device):
    x0, x_t = (torch.randn(batch, 3, size, size, dtype=dtype, device=device).to(memory_format=memory_format(device)) for _ in range(2))
    return x0, x_t, torch.full((batch,), STEP, device=device), torch.arange(batch, device=device)


def check(op, x0, x_t, t, table, seeds, provider, function):
    """Raises ValueError where the first image is not that of the reference; for noise of torch's own, where it is not normal."""
    first = x0[:1], x_t[:1], t[:1], table, seeds[:1]
    with backend.force("reference"):
        want = op.ours(*first)
    got = function(*first)
    pairs = zip(*(value if isinstance(value, tuple) else (value,) for value in (got, want)), strict=True)
    for one, other in pairs:
        if provider == "ours" or one.dtype == torch.uint8:
            error, limit = ((one.double() - other.double()).norm() / other.double().norm()).item(), LIMITS[x0.dtype]
        else:
            error, limit = abs(one.double().std() / other.double().std() - 1).item(), 5 / one.numel() ** 0.5
        if not error <= limit:
            raise ValueError(f"error {error:.1e} is above {limit:.0e}")


def measure(name, batch, size, dtype, clock):
    """{provider: columns}, and of a copy."""
    op = OPS[name]
    x0, x_t, t, seeds = inputs(batch, size, dtype, clock.device)
    table = op.table.to(clock.device)
    torch.compiler.reset()
    functions = {"eager": op.eager, "compile": torch.compile(op.eager, fullgraph=True, dynamic=False), "ours": op.ours}
    calls = {}
    for provider, function in functions.items():
        if provider == "compile" and not clock.gpu and size == CASES[-1][1]:
            continue  # on a CPU its noise takes about 80 ns an element, half a minute a call
        call = partial(function, x0, x_t, t, table, seeds)
        try:
            check(op, x0, x_t, t, table, seeds, provider, function)
            call()
        except Exception as problem:  # whatever one provider dies of, the others go on
            print(f"no row for {provider}, {name} {batch}x{size}: {type(problem).__name__}: {problem}", flush=True)
        else:
            calls[provider] = call
    moved = op.bytes_of(dtype.itemsize) * x0.numel()
    source, target = torch.randint(256, (2, moved // 2), dtype=torch.uint8, device=clock.device)
    calls["copy"] = partial(target.copy_, source)
    found = clock.turns(calls)
    for columns in found.values():
        columns["gb_per_s"] = round(moved / columns["ms"] / 1e6, 1)
        columns["percent_of_copy"] = round(100 * found["copy"]["ms"] / columns["ms"], 1)
        columns["times_eager"] = round(found["eager"]["ms"] / columns["ms"], 2)
    return found


@torch.no_grad()
def main(args):
    """Every op at every size until the seconds are over, the largest size last. Returns the number of measurements without `ours`."""
    if extension.MISSING or args.device.type == "cuda" and extension.MISSING_CUDA:
        raise SystemExit(f"no extension: {extension.MISSING or extension.MISSING_CUDA}")
    clock = Clock(args.device)
    rows = Rows("posterior", args.device, results_folder(args.device))
    start, failed = time.perf_counter(), 0
    for batch, size in CASES:
        for name in OPS:
            for dtype in dict.fromkeys((args.dtype, torch.float32)):
                if time.perf_counter() - start > args.seconds:
                    print(f"posterior: stopped after {args.seconds:.0f} s")
                    return failed
                found = measure(name, batch, size, dtype, clock)
                failed += "ours" not in found
                what = {"op": name, "case": f"{batch}x3x{size}x{size}", "dtype": str(dtype).removeprefix("torch.")}
                for provider, columns in found.items():
                    rows.add(what | {"provider": provider} | columns)
                text = (f"{key} {value['ms']} ms {value['percent_of_copy']} % x{value['times_eager']}" for key, value in found.items())
                print(*what.values(), *text, sep=", ", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main(arguments(__doc__)) > 0)
