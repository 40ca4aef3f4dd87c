"""The 3x3 convolutions of the generators on a CPU: torch's (oneDNN), and Winograd of the extension, whatever the op's rule says.

One thread, and the CPU time that it takes, the least of several turns: a busy machine adds little to it. A call has another weight
than the last, as in a network, where weights come from memory. error: |got - float64| / |float64|. Writes results/cpu/conv3x3.csv.

`python -m benchmarks.conv3x3 [--turns 15]`
"""

import argparse
import itertools
import time

import torch
import torch.nn.functional as F

from benchmarks.harness import write_rows
from ddgan_fast.ops import backend, conv3x3, extension, winograd_weight

CASES = [  # (batch, inputs, outputs, size)
    *((4, *case) for case in ((128, 128, 32), (256, 128, 32), (384, 128, 32), (128, 256, 16), (256, 256, 16), (512, 256, 16))),
    *((4, *case) for case in ((256, 256, 8), (512, 256, 8), (256, 256, 4), (512, 256, 4))),  # cifar10, four images
    *((1, *case) for case in ((64, 64, 256), (128, 64, 256), (128, 128, 128), (128, 128, 64), (256, 256, 32))),  # 256 pixels, one image
    *((4, *case) for case in ((3, 128, 32), (128, 3, 32), (16, 16, 32), (32, 32, 32), (64, 64, 8), (64, 64, 4), (256, 256, 2))),
]
BEYOND_CACHE = 64e6  # bytes of the transformed weights that take turns
LIMIT = 3e-6  # of the error of a row
LEAST_S = 0.02  # of one turn


def relative(got, want):
    return ((got.double() - want).norm() / want.norm()).item()


def measure(batch, inputs, outputs, size, turns):
    """Columns of a row."""
    x = F.silu(torch.randn(batch, inputs, size, size)).to(memory_format=torch.channels_last)
    count = max(1, min(8, int(BEYOND_CACHE / (36 * 4 * inputs * outputs))))
    weights = [torch.randn(outputs, inputs, 3, 3).to(memory_format=torch.channels_last) / (9 * inputs) ** 0.5 for _ in range(count)]
    pairs = itertools.cycle([(weight, winograd_weight(weight)) for weight in weights])
    want = F.conv2d(x.double(), weights[0].double(), padding=1)
    functions = {"onednn": lambda weight, _: F.conv2d(x, weight, padding=1), "ours": lambda *pair: conv3x3(x, *pair)}
    columns, calls = {"case": f"{batch}x{inputs}->{outputs}@{size}", "onednn_ms": 0.0, "ours_ms": 0.0, "times_onednn": 0.0}, {}
    for name, function in functions.items():
        error = relative(function(weights[0], winograd_weight(weights[0])), want)
        if not error <= LIMIT:
            raise SystemExit(f"{name} errs by {error:.1e}; limit {LIMIT:.0e}: no row")
        columns[f"{name}_error"] = f"{error:.1e}"
        start = time.process_time()
        function(*next(pairs))
        calls[name] = 1 + int(LEAST_S / max(time.process_time() - start, 1e-4))
    least = dict.fromkeys(functions, float("inf"))
    for _, (name, function) in itertools.product(range(turns), functions.items()):
        start = time.process_time()
        for pair in itertools.islice(pairs, calls[name]):
            function(*pair)
        least[name] = min(least[name], (time.process_time() - start) / calls[name])
    columns |= {f"{name}_ms": round(1e3 * seconds, 3) for name, seconds in least.items()}
    return columns | {"times_onednn": round(least["onednn"] / least["ours"], 2)}


@torch.no_grad()
def main(turns):
    if extension.MISSING:
        raise SystemExit(f"no extension: {extension.MISSING}")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with backend.force("cpu"):
        write_rows("conv3x3", torch.device("cpu"), (measure(*case, turns) for case in CASES))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--turns", type=int, default=15)
    main(parser.parse_args().turns)
