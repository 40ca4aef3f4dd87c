"""Launches and bytes of one generator forward, counted from the code without a GPU: plain torch, eager and contiguous; the kernels in
channels_last; and the folded form (models/inference.py), whose whole sampling run of T steps, noise included, is counted too.

The network runs on meta tensors. Rules: a view costs nothing; a convolution is one launch, and one more that reads and writes its output
where it has a bias; torch's group norm reads its input twice and writes once in 2 launches, 3 with scale and shift; attention is one
flash kernel; our ops launch what their launchers launch, those of the extension one kernel each; any other op is one launch that reads
its inputs and writes its outputs. What would wait for the device cannot run on meta tensors, so the counted run has no synchronisation.

`python -m benchmarks.traffic` writes results/meta/traffic.csv.
"""

from collections import Counter
from contextlib import ExitStack
from unittest import mock

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from benchmarks.harness import meta_networks, write_rows
from benchmarks.launches import Recorder, size
from ddgan_fast import ops
from ddgan_fast.config import preset
from ddgan_fast.diffusion import Schedule
from ddgan_fast.models.inference import optimize_for_sampling
from ddgan_fast.ops import backend
from ddgan_fast.sampling.generate import Sampler

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


def folded(network, batch, dtype=torch.bfloat16):
    """(the folded form on the meta device, its schedule, the inputs of `count`)."""
    (generator, inputs), _ = meta_networks(network, batch)
    schedule = Schedule.of(preset(network).diffusion).to("meta")
    return optimize_for_sampling(generator, schedule, dtype), schedule, inputs


@torch.no_grad()
def count_folded(network, batch, dtype=torch.bfloat16):
    """Traffic of one forward of the folded form, without what it does before the loop."""
    form, schedule, (x, _, z) = folded(network, batch, dtype)
    evaluate = form.bind(z.expand(schedule.steps, *z.shape))
    with backend.force("triton"), Traffic(torch.channels_last) as traffic, Attention(traffic):
        evaluate(x.to(dtype), 0)
    return traffic


def count_run(network, batch, dtype=torch.bfloat16):
    """Traffic of a whole sampling run of the folded form, from seeds to uint8 images: what one CUDA graph holds."""
    form, schedule, _ = folded(network, batch, dtype)
    sampler = Sampler(form, schedule, dtype, torch.channels_last)
    seeds = torch.empty(batch, dtype=torch.int64, device="meta")
    with ExitStack() as stack:
        traffic = Traffic(torch.channels_last)
        for name in ("philox_normal", "posterior_step", "posterior_final_uint8"):  # ops of the extension, which has no meta kernels
            stack.enter_context(mock.patch.object(ops, name, _one_kernel(traffic, name, getattr(ops, name))))
        for context in (backend.force("triton"), traffic, Attention(traffic)):
            stack.enter_context(context)
        sampler.draw(seeds, as_uint8=True)
    return traffic


def _one_kernel(traffic, name, op):
    """`op` counted as one launch that reads its inputs and writes its result."""

    def call(*args, **kwargs):
        traffic.paused = True
        out = op(*args, **kwargs)
        traffic.paused = False
        traffic.add(name, 1, size(args) + size(tuple(kwargs.values())) + size(out))
        return out

    return call


def main():
    totals, parts = [], []
    for network, batch in CASES:
        counts = {name: count(network, batch, name) for name in ("reference", "triton")}
        counts |= {"triton, folded": count_folded(network, batch), "triton, folded, whole run": count_run(network, batch)}
        for form, traffic in counts.items():
            where = {"network": network, "batch": batch, "dtype": "bfloat16", "form": form}
            total = {"launches": sum(traffic.launches.values()), "mb": round(sum(traffic.bytes.values()) / 1e6)}
            totals.append(where | {"op": "all"} | total)
            for name, moved in traffic.bytes.most_common():
                parts.append(where | {"op": name, "launches": traffic.launches[name], "mb": round(moved / 1e6)})
    write_rows("traffic", torch.device("meta"), totals + parts)


if __name__ == "__main__":
    main()
