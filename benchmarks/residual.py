"""A residual join and the norm behind it, as a pair, at every shape where a norm follows in the CIFAR-10 and 256-pixel generators.

out = (x + h) / sqrt(2), then AdaGN and Swish of out; the statistics of out are handed from one to the other. Writes
results/<device>/residual.csv.

`python -m benchmarks.residual [--seconds 600] [--dtype bfloat16]`
"""

import math
import sys
from collections import Counter
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from benchmarks.harness import Kernel, arguments, op_calls, run
from ddgan_fast.models.layers import EPS, groups_of
from ddgan_fast.ops import adaptive_group_norm, residual_join


@dataclass(frozen=True)
class Case:
    network: str
    batch: int
    channels: int
    height: int
    width: int

    def __str__(self):
        return f"{self.network} {self.batch}x{self.channels}x{self.height}x{self.width}"


def cases(network, batch):
    """Counter of the cases in one pass of the generator: the joins that a norm follows."""
    return Counter(Case(network, *call["x"].shape) for _, call in op_calls(network, batch, residual_join) if call.get("with_stats"))


def bytes_moved(case, itemsize, backward):
    """Forward reads x and h and writes out and y; backward reads out and both gradients and writes that of x, which is that of h.

    Two kernels move one more: the norm reads out again.
    """
    return (8 if backward else 4) * case.batch * case.channels * case.height * case.width * itemsize


def inputs(case, dtype, device):
    shape = case.batch, case.channels, case.height, case.width
    x, h = (torch.randn(shape, device=device, dtype=dtype).to(memory_format=torch.channels_last) for _ in range(2))
    scale, shift = torch.randn(case.batch, 2 * case.channels, device=device, dtype=dtype).chunk(2, dim=1)
    return {"x": x, "h": h, "scale": scale, "shift": shift}


def ours(case):
    def call(x, h, scale, shift):
        out, stats = residual_join(x, h, with_stats=True)
        return out, adaptive_group_norm(out, scale, shift, groups_of(case.channels), EPS, swish=True, stats=stats)

    return call


def others(case):
    groups = groups_of(case.channels)

    def eager(x, h, scale, shift):
        out = (x + h) * math.sqrt(0.5)
        return out, F.silu(scale[..., None, None] * F.group_norm(out, groups, eps=EPS) + shift[..., None, None])

    return {"eager": eager, "compile": eager}


KERNEL = Kernel("residual", cases, inputs, ours, others, bytes_moved)

if __name__ == "__main__":
    sys.exit(run(KERNEL, arguments(__doc__)) > 0)
