"""Precisions by name, and the settings of cuDNN that go with them."""

from contextlib import contextmanager

import torch

PRECISIONS = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(network, precision, device):
    """The network as a function that computes in a precision of that name on the device; weights and results stay float32."""
    dtype = PRECISIONS[precision]
    if dtype == torch.float32:
        return network

    def run(*arguments, **options):
        with torch.autocast(device.type, dtype):
            return network(*arguments, **options).float()

    return run


@contextmanager
def convolutions(allow_tf32, benchmark):
    """Inside the block: whether float32 convolutions of a GPU may round their inputs to TF32, and whether cuDNN measures its algorithms."""
    cudnn = torch.backends.cudnn
    before = cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision, cudnn.benchmark
    precision = "tf32" if allow_tf32 else "ieee"
    cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision, cudnn.benchmark = precision, precision, benchmark  # torch wants both alike
    try:
        yield
    finally:
        cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision, cudnn.benchmark = before
