"""What this machine can do at best, to read the other results by: copies, matrix products, launches, convolutions.

- copy: GB/s (read and written) over sizes; matmul: TFLOP/s of a large product in bfloat16 and in float32 by TF32.
- eager: microseconds per operation of a chain of tiny ones, by the wall clock: what the host needs to launch one.
- convolution: TFLOP/s of cuDNN on every distinct convolution of generator and discriminator, channels_last, no bias, forward; the
  shapes are read off the networks, the heaviest come first. Writes results/<device>/calibration.csv.

`python -m benchmarks.calibration [--seconds 600] [--dtype bfloat16]`
"""

import itertools
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.harness import NETWORKS, Clock, Rows, arguments, meta_networks, results_folder, timings
from ddgan_fast.ops import backend

COPIES_MIB = {"cuda": (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024, 4096), "cpu": (1, 4)}  # read and written together
MATMUL_SIZES = {"cuda": (4096, 8192), "cpu": (256,)}
CHAIN = 1000


@dataclass(frozen=True)
class Convolution:
    network: str
    x: tuple[int, ...]
    weight: tuple[int, ...]
    stride: int
    padding: int

    def __str__(self):
        outputs, _, height, width = self.weight
        return f"{self.network} {'x'.join(map(str, self.x))} to {outputs}, {height}x{width}, stride {self.stride}"

    @property
    def flop(self):
        """2 per multiplication and addition."""
        outputs, inputs, height, width = self.weight
        pixels = [(size + 2 * self.padding - kernel) // self.stride + 1 for size, kernel in zip(self.x[2:], (height, width), strict=True)]
        return 2 * self.x[0] * pixels[0] * pixels[1] * outputs * inputs * height * width


class Convolutions(TorchDispatchMode):
    """Counts the dense convolutions of the block in `found`, under the name of a network."""

    def __init__(self, network):
        super().__init__()
        self.network, self.found = network, Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution.default:
            x, weight, _, stride, padding, _, _, _, groups = args
            if groups == 1:
                self.found[Convolution(self.network, tuple(x.shape), tuple(weight.shape), stride[0], padding[0])] += 1
        return func(*args, **(kwargs or {}))


def convolutions(name, batch):
    """[(Convolution, calls per pass)] of a preset's generator and discriminator, heaviest first."""
    found = Counter()
    for kind, (network, inputs) in zip(("generator", "discriminator"), meta_networks(name, batch), strict=True):
        with Convolutions(f"{name} {kind}") as mode, backend.force("reference"), torch.no_grad():
            network(*inputs)
        found += mode.found
    return sorted(found.items(), key=lambda item: -item[1] * item[0].flop)


def copies(clock):
    for mib in COPIES_MIB[clock.device.type]:
        source, target = torch.randint(256, (2, mib * 2**19), dtype=torch.uint8, device=clock.device)
        times = clock.turns({"copy": partial(target.copy_, source)})["copy"]
        yield {"measure": "copy", "case": f"{mib} MiB"} | times | {"gb_per_s": round(mib * 2**20 / times["ms"] / 1e6, 1)}


def matmuls(clock):
    torch.set_float32_matmul_precision("high")  # TF32
    for size, (name, dtype) in itertools.product(
        MATMUL_SIZES[clock.device.type], {"bfloat16": torch.bfloat16, "tf32": torch.float32}.items()
    ):
        a, b = torch.randn(2, size, size, device=clock.device, dtype=dtype)
        call = partial(torch.matmul, a, b, out=torch.empty_like(a))
        call()
        times = clock.turns({name: call})[name]
        yield {"measure": "matmul", "case": f"{size}^3", "dtype": name} | times | {"tflop_per_s": round(2 * size**3 / times["ms"] / 1e9, 2)}


def eager(clock):
    x = torch.zeros(1, device=clock.device)

    def chain():
        for _ in range(CHAIN):
            x.add_(1)

    ms, p20, p80 = timings(chain, clock.device, repeats=20)
    times = {"ms": round(ms, 5), "ms_p20": round(p20, 5), "ms_p80": round(p80, 5)}
    yield {"measure": "eager", "case": f"{CHAIN} times add_", "dtype": "float32"} | times | {"us_per_op": round(1e3 * ms / CHAIN, 3)}


def convolution_rows(clock, dtype):
    ranked = [convolutions(*network) for network in NETWORKS[clock.device.type]]
    for case, calls in [item for rank in itertools.zip_longest(*ranked) for item in rank if item]:
        x, weight = (
            torch.randn(shape, device=clock.device, dtype=dtype).to(memory_format=torch.channels_last) for shape in (case.x, case.weight)
        )
        call = partial(F.conv2d, x, weight, stride=case.stride, padding=case.padding)
        call()  # cuDNN chooses its kernel
        times = clock.turns({"convolution": call})["convolution"]
        what = {"measure": "convolution", "case": case, "calls": calls, "dtype": str(dtype).removeprefix("torch.")}
        yield what | times | {"tflop_per_s": round(case.flop / times["ms"] / 1e9, 2)}


@torch.no_grad()
def main(args):
    """Print, and on a GPU write, rows until the seconds are over."""
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = True, False  # rows say float32
    start, clock = time.perf_counter(), Clock(args.device)
    table = Rows("calibration", args.device, results_folder(args.device)) if clock.gpu else None
    columns = "measure", "case", "calls", "dtype", "ms", "ms_p20", "ms_p80", "gb_per_s", "tflop_per_s", "us_per_op"
    for row in itertools.chain(copies(clock), matmuls(clock), eager(clock), convolution_rows(clock, args.dtype)):
        print(*(f"{key}={value}" for key, value in row.items()), flush=True)
        if table:
            table.add({column: row.get(column, "") for column in columns})
        if time.perf_counter() - start > args.seconds - 1:
            print(f"calibration: {args.seconds:.0f} s are over")
            break


if __name__ == "__main__":
    main(arguments(__doc__))
