"""What the kernels' launchers would launch, without a GPU: on meta tensors, with the launch itself recorded instead of made."""

import inspect
from contextlib import contextmanager
from dataclasses import dataclass
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TYPES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32", torch.float64: "fp64", torch.int64: "i64"}


@dataclass(frozen=True)
class Launch:
    """One launch: the kernel, what Triton specialises it for, its grid and its warps."""

    kernel: object
    signature: tuple  # (name, type) of each argument
    constants: tuple  # (position, value) of constants, and of arguments that are None or 1
    aligned: tuple  # positions of arguments known to be multiples of 16
    grid: tuple
    warps: int

    def compile(self, architecture):
        """The compiled kernel for an architecture such as 90."""
        attributes = {(i,): [["tt.divisibility", 16]] for i in self.aligned}
        constants = {(i,): value for i, value in self.constants}
        source = ASTSource(fn=self.kernel, signature=dict(self.signature), constexprs=constants, attrs=attributes)
        return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options={"num_warps": self.warps})


@contextmanager
def recorded():
    """A list that the launches of the block are put into; nothing runs. The block works on meta tensors."""
    launches = []

    def record(kernel, *args, grid, warmup=False, num_warps=4, **kwargs):
        launches.append(_launch(kernel, inspect.signature(kernel.fn).bind(*args, **kwargs).arguments, grid, num_warps))

    with mock.patch.object(triton.runtime.jit.JITFunction, "run", record):
        yield launches


def _launch(kernel, arguments, grid, warps):
    signature, constants, aligned = [], [], []
    for i, (parameter, (name, value)) in enumerate(zip(kernel.params, arguments.items(), strict=True)):
        kind = "constexpr"
        if parameter.is_constexpr or value is None or (type(value) is int and value == 1):
            constants.append((i, value))
        elif isinstance(value, torch.Tensor):
            kind = f"*{TYPES[value.dtype]}"
            aligned.append(i)  # as every allocation of torch is; views of rows may not be, and compile once more
        else:
            kind = "fp32" if isinstance(value, float) else "i32"
            if type(value) is int and value % 16 == 0:
                aligned.append(i)
        signature.append((name, kind))
    return Launch(kernel, tuple(signature), tuple(constants), tuple(aligned), tuple(grid), warps)
