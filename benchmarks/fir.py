"""FIR resampling (up, down, blur) at every shape of the CIFAR-10 and 256-pixel networks.

Both branches of each norm with a FIR filter count as plain resampling; then the input pyramid and the discriminator's blocks.
Writes results/<device>/fir.csv.

`python -m benchmarks.fir [--seconds 600] [--dtype bfloat16]`
"""

import sys
from collections import Counter
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from benchmarks.harness import Kernel, arguments, op_calls, run
from ddgan_fast.ops import adaptive_group_norm, fir_blur, fir_down2, fir_up2

OPS = {"up": fir_up2, "down": fir_down2, "blur": fir_blur}


@dataclass(frozen=True)
class Case:
    network: str
    kind: str
    batch: int
    channels: int
    height: int
    width: int

    def __str__(self):
        return f"{self.network} {self.kind} {self.batch}x{self.channels}x{self.height}x{self.width}"

    @property
    def outputs(self):
        """Elements of the result."""
        height, width = {
            "up": (2 * self.height, 2 * self.width),
            "down": (self.height // 2, self.width // 2),
            "blur": (self.height + 1, self.width + 1),
        }[self.kind]
        return self.batch * self.channels * height * width


def cases(network, batch):
    """Counter of the cases in one pass of the generator and one of the discriminator."""
    found = Counter()
    for op, call in op_calls(network, batch, adaptive_group_norm, *OPS.values()):
        kind = call.get("fir") if op == "adaptive_group_norm" else op.removeprefix("fir_").removesuffix("2")
        if kind:
            found[Case(network, kind, *call["x"].shape)] += 2 if op == "adaptive_group_norm" else 1
    return found


def bytes_moved(case, itemsize, backward):
    elements = case.batch * case.channels * case.height * case.width + case.outputs
    return elements * itemsize * (2 if backward else 1)  # backward reads a gradient of the output's size and writes one of the input's


def inputs(case, dtype, device):
    shape = case.batch, case.channels, case.height, case.width
    return {"x": torch.randn(shape, device=device, dtype=dtype).to(memory_format=torch.channels_last)}


def convolution(kind, channels):
    """FIR resampling as a depthwise convolution whose taps lie ready, made at the first call."""
    options = {"up": {"stride": 2, "padding": 1}, "down": {"stride": 2, "padding": 1}, "blur": {"padding": 2}}[kind]
    convolve = F.conv_transpose2d if kind == "up" else F.conv2d
    row = torch.tensor([1.0, 3.0, 3.0, 1.0]) / (4 if kind == "up" else 8)
    kernel = torch.outer(row, row).expand(channels, 1, 4, 4)
    ready = {}

    def call(x):
        if x.device not in ready:
            ready[x.device] = kernel.to(x.device, x.dtype)
        return convolve(x, ready[x.device], groups=channels, **options)

    return call


def slices(kind):
    """FIR resampling as sums of shifted slices, one axis after the other: a compiler can fuse it, unlike a convolution."""

    def axis(x, dim):
        pad = {"up": 1, "down": 1, "blur": 2}[kind]
        size = x.shape[dim]
        wide = F.pad(x, (0, 0, pad, pad) if dim == 2 else (pad, pad))
        if kind == "up":
            before, here, after = (wide.narrow(dim, start, size) for start in range(3))
            return torch.stack(((before + 3 * here) / 4, (3 * here + after) / 4), dim=dim + 1).flatten(dim, dim + 1)
        step, count = (2, size // 2) if kind == "down" else (1, size + 1)
        taps = [wide.narrow(dim, start, step * (count - 1) + 1) for start in range(4)]
        a, b, c, d = (tap[:, :, ::step] if dim == 2 else tap[..., ::step] for tap in taps)
        return (a + 3 * (b + c) + d) / 8

    return lambda x: axis(axis(x.float(), 2), 3).to(x.dtype).contiguous(memory_format=torch.channels_last)


def others(case):
    plain = convolution(case.kind, case.channels)
    return {"eager": plain, "compile": plain, "compile-slices": slices(case.kind)}


KERNEL = Kernel("fir", cases, inputs, lambda case: OPS[case.kind], others, bytes_moved)

if __name__ == "__main__":
    sys.exit(run(KERNEL, arguments(__doc__)) > 0)
