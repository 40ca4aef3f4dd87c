"""Group norm with Swish for sampling on a CPU: plain torch in both memory formats, and the extension.

Inputs as in a residual block: bias and time embedding added before, or a skip concatenated, whose joined input is kept. Milliseconds
are of the processor, the smallest of many turns; the copy allocates its result too and moves the compulsory bytes, every tensor read
or written once. glibc is told to keep freed memory: new pages for each result would take longer than the norm. Writes
results/cpu/group_norm.csv.

`MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=4000000000 OMP_NUM_THREADS=1 python -m benchmarks.group_norm_cpu`
"""

import time
from functools import partial

import torch

from benchmarks.harness import write_rows
from ddgan_fast.ops import adaptive_group_norm, backend

# batch, channels, of these of skip, size: CIFAR-10 levels, then the two upper levels of a 256-pixel image
CASES = [
    *[(4, 128, 0, 32), (4, 256, 0, 32), (4, 256, 128, 32), (4, 256, 0, 16), (4, 512, 256, 16), (4, 256, 0, 8), (4, 256, 0, 4)],
    *[(1, 64, 0, 256), (1, 128, 0, 128)],
]
LIMIT = 2e-6  # over the largest value, for a row to be written
TURNS = 50


def inputs(batch, channels, beside, size):
    """Arguments of the norm in channels_last."""
    x, skip = (torch.randn(batch, part, size, size).to(memory_format=torch.channels_last) for part in (channels - beside, beside))
    scale, shift = torch.randn(batch, 2 * channels).chunk(2, dim=1)
    form = {"skip": skip, "concat": True} if beside else {"bias": torch.randn(channels), "embedding": torch.randn(batch, channels)}
    return {"x": x, "scale": scale, "shift": shift, "groups": min(channels // 4, 32), "swish": True} | form


def run(name, call):
    with backend.force(name):
        return adaptive_group_norm(**call)


def mapped(function, call):
    return {key: function(value) if isinstance(value, torch.Tensor) else value for key, value in call.items()}


def rows(case):
    call = inputs(*case)
    _, channels, beside, size = case
    calls = {
        "torch": partial(run, "reference", mapped(torch.Tensor.contiguous, call)),
        "torch channels_last": partial(run, "reference", call),
        "ours": partial(run, "cpu", call),
        "copy": torch.empty(case[0] * channels * size**2 * (3 if beside else 2) // 2).clone,
    }
    want = run("reference", mapped(torch.Tensor.double, call))
    want, times = want[0] if beside else want, dict.fromkeys(calls, float("inf"))
    for _ in range(TURNS):
        for provider, function in calls.items():
            start = time.process_time()
            function()
            times[provider] = min(times[provider], 1e3 * (time.process_time() - start))
    for provider, ms in times.items():
        got, error = calls[provider](), ""
        if provider != "copy":
            error = (((got[0] if beside else got) - want).abs().max() / want.abs().max()).item()
            if error > LIMIT:
                raise ValueError(f"{provider}, {case}: error {error:.1e} is above {LIMIT:.0e}")
        yield {
            "case": f"{case[0]}x{channels - beside}{f'+{beside}' if beside else ''}x{size}x{size}",
            "provider": provider,
            "ms": round(ms, 4),
            "times_torch": round(times["torch"] / ms, 2),
            "error": error and f"{error:.1e}",
        }


if __name__ == "__main__":
    with torch.no_grad():
        write_rows("group_norm", torch.device("cpu"), (row for case in CASES for row in rows(case)))
