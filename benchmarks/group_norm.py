"""Adaptive group norm, and what is fused to it, in every form that the CIFAR-10 and 256-pixel generators call.

Forms: with bias and embedding added before, with Swish, with FIR resampling of both branches, with a second input concatenated. They
are read off the networks. Writes results/<device>/group_norm.csv.

`python -m benchmarks.group_norm [--seconds 600] [--dtype bfloat16]`
"""

import sys
from collections import Counter
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from benchmarks import fir as resampling
from benchmarks.harness import Kernel, arguments, op_calls, run
from ddgan_fast.models.layers import EPS
from ddgan_fast.ops import adaptive_group_norm


@dataclass(frozen=True)
class Case:
    """One call. skip: channels of a second input; rows: which of scale's, bias' and embedding's rows are per sample or given at all."""

    network: str
    batch: int
    channels: int
    height: int
    width: int
    groups: int
    swish: bool
    fir: str | None
    skip: int
    concat: bool
    adaptive: bool
    bias: bool
    embedding: bool

    def __str__(self):
        channels = f"{self.channels}+{self.skip}" if self.skip else self.channels
        parts = {
            "adaptive": self.adaptive, "bias": self.bias, "embedding": self.embedding, "swish": self.swish,
            self.fir: self.fir, "concat": self.concat,
        }  # fmt: skip
        shape = f"{self.network} {self.batch}x{channels}x{self.height}x{self.width} {self.groups} groups"
        return " ".join([shape, *(name for name, there in parts.items() if there)])

    @property
    def elements(self):
        return self.batch * (self.channels + self.skip) * self.height * self.width


def cases(network, batch):
    """Counter of the cases in one pass of the generator."""
    found = Counter()
    for _, call in op_calls(network, batch, adaptive_group_norm):
        given = {name: call.get(name) is not None for name in ("bias", "embedding")}
        found[
            Case(
                network,
                *call["x"].shape,
                groups=call["groups"],
                swish=call.get("swish", False),
                fir=call.get("fir"),
                skip=0 if call.get("skip") is None else call["skip"].shape[1],
                concat=call.get("concat", False),
                adaptive=call["scale"].dim() == 2,
                **given,
            )
        ] += 1
    return found


def bytes_moved(case, itemsize, backward):
    """Of activations: the rows of scales and shifts are as good as nothing beside them.

    Forward reads x (and skip) and writes every output; backward reads x and every output's gradient and writes that of x.
    """
    results = 2 * {"up": 4, "down": 0.25}[case.fir] if case.fir else 1 + case.concat
    passes = 1 + results + ((1 + results + 1) if backward else 0)
    return int(passes * case.elements) * itemsize


def inputs(case, dtype, device):
    def images(channels, mean):
        shape = case.batch, channels, case.height, case.width
        return torch.randn(shape, device=device, dtype=dtype).add_(mean).to(memory_format=torch.channels_last)

    total = case.channels + case.skip
    style = torch.randn(*(case.batch,) * case.adaptive, 2 * total, device=device, dtype=dtype)
    scale, shift = style.chunk(2, dim=-1)  # with the strides that they have in the network
    given = {"x": images(case.channels, 0.5), "scale": scale, "shift": shift}
    if case.skip:
        given["skip"] = images(case.skip, -0.5)
    if case.bias:
        given["bias"] = torch.randn(total, device=device, dtype=dtype)
    if case.embedding:
        given["embedding"] = torch.randn(case.batch, total, device=device, dtype=dtype)
    return given


def ours(case):
    options = {"groups": case.groups, "eps": EPS, "swish": case.swish, "fir": case.fir, "concat": case.concat}
    return lambda **given: adaptive_group_norm(**given, **options)


def plain(case, resample):
    """The same in the functions of torch, as a user would write it; resample: the FIR filter for both branches, or None."""

    def call(x, scale, shift, skip=None, bias=None, embedding=None):
        if skip is not None:
            x = torch.cat((x, skip), dim=1)
        rows = [row for row in (bias, embedding) if row is not None]
        moved = x + sum(rows[1:], rows[0])[..., None, None] if rows else x
        if case.adaptive:
            y = scale[..., None, None] * F.group_norm(moved, case.groups, eps=EPS) + shift[..., None, None]
        else:
            y = F.group_norm(moved, case.groups, scale, shift, EPS)
        y = F.silu(y) if case.swish else y
        if resample:
            return resample(y), resample(x)
        return (y, x) if case.concat else y

    return call


def apex(case):
    """NVIDIA's kernel for channels_last: scale and shift per channel only, and Swish."""

    def call(x, scale, shift):
        from apex.contrib.group_norm import GroupNorm

        if case.groups not in GroupNorm.SUPPORTED_GROUPS or case.channels not in GroupNorm.SUPPORTED_CHANNELS:
            raise NotImplementedError(f"it has no kernel for {case.channels} channels in {case.groups} groups")
        norm = GroupNorm(case.groups, case.channels, EPS, device=x.device, dtype=x.dtype, act="silu" if case.swish else "")
        return torch.func.functional_call(norm, {"weight": scale, "bias": shift}, (x,))

    return call


def others(case):
    eager = plain(case, case.fir and resampling.convolution(case.fir, case.channels))
    found = {"eager": eager, "compile": eager}
    if case.fir:
        found["compile-slices"] = plain(case, resampling.slices(case.fir))
    if not (case.adaptive or case.skip or case.bias or case.embedding or case.fir):
        found["apex"] = apex(case)
    return found


KERNEL = Kernel("group_norm", cases, inputs, ours, others, bytes_moved)

if __name__ == "__main__":
    sys.exit(run(KERNEL, arguments(__doc__)) > 0)
