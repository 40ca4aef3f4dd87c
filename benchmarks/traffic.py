"""Launches and bytes of one generator forward, counted from the code without a GPU: before (plain torch, eager, contiguous)
and after (the kernels, channels_last).

The network runs on meta tensors. Rules: a view costs nothing; a convolution is one launch, and one more that reads and writes its output
where it has a bias; torch's group norm reads its input twice and writes once in 2 launches, 3 with scale and shift; attention is one
flash kernel; our ops launch what their launchers launch; any other op is one launch that reads its inputs and writes its outputs.

`python -m benchmarks.traffic` writes results/meta/traffic.csv.
"""

from collections import Counter

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from benchmarks.harness import meta_networks, write_rows
from benchmarks.launches import Recorder, size
from ddgan_fast.ops import backend

CASES = [("cifar10", 100), ("cifar10", 1), ("celebahq256", 16), ("celebahq256", 1)]
FREE = {"detach", "empty", "empty_like", "new_empty", "_unsafe_view"}


class Attention(TorchFunctionMode):
    """Counts scaled_dot_product_attention as one kernel, and hides from `traffic` what it is made of on meta tensors."""

    def __init__(self, traffic):
        super().__init__()
        self.traffic = traffic

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        self.traffic.paused = True
        out = func(*args, **(kwargs or {}))
        self.traffic.paused = False
        self.traffic.add("scaled_dot_product_attention", 1, size(args) + size(out))
        return out


class Traffic(Recorder):
    """Launches and bytes by op, of a network in a memory format."""

    def __init__(self, layout):
        super().__init__(layout)
        self.launches, self.bytes = Counter(), Counter()
        self.paused = False

    def add(self, name, launches, moved):
        self.launches[name] += launches
        self.bytes[name] += moved

    def launched(self, launch):
        self.add(launch.name, 1, launch.bytes)

    def other(self, func, args, out):
        name = func.name().split("::")[1].split(".")[0]
        if self.paused or func.is_view or name in FREE or not size(args) + size(out):
            return
        if name == "convolution":
            self.add(name, 1, size(args[:2]) + size(out))
            if args[2] is not None:
                self.add("bias of convolution", 1, 2 * size(out) + size(args[2]))
        elif name == "native_group_norm":
            self.add(name, 2 + (args[1] is not None), 2 * size(args[0]) + size(out[0]))
        else:
            self.add(name, 1, size(args) + size(out))


@torch.no_grad()
def count(network, batch, backend_name, dtype=torch.bfloat16):
    """Traffic of one forward of the generator."""
    (generator, inputs), _ = meta_networks(network, batch)
    layout = torch.channels_last if backend_name == "triton" else torch.contiguous_format
    generator = generator.to(dtype=dtype, memory_format=layout)
    inputs = [tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in inputs]
    with backend.force(backend_name), Traffic(layout) as traffic, Attention(traffic):
        generator(*inputs)
    return traffic


def main():
    totals, parts = [], []
    for network, batch in CASES:
        for backend_name in ("reference", "triton"):
            traffic = count(network, batch, backend_name)
            where = {"network": network, "batch": batch, "dtype": "bfloat16", "backend": backend_name}
            total = {"launches": sum(traffic.launches.values()), "mb": round(sum(traffic.bytes.values()) / 1e6)}
            totals.append(where | {"op": "all"} | total)
            for name, moved in traffic.bytes.most_common():
                parts.append(where | {"op": name, "launches": traffic.launches[name], "mb": round(moved / 1e6)})
    write_rows("traffic", torch.device("meta"), totals + parts)


if __name__ == "__main__":
    main()
