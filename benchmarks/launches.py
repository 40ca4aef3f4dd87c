"""What the kernels' launchers would launch, without a GPU: on meta tensors, with the launch itself recorded instead of made."""

import inspect
import math
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from unittest import mock

import torch
import triton
from torch.utils._python_dispatch import TorchDispatchMode
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TYPES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32", torch.float64: "fp64", torch.int64: "i64"}

# the launchers behind our ops: on meta tensors the ops themselves stop at the shapes
LAUNCHERS = {
    op._name: op._init_fn
    for name in ("fir", "group_norm", "pointwise_join", "residual")
    for op in vars(import_module(f"ddgan_fast.ops.{name}")).values()
    if isinstance(op, torch.library.CustomOpDef)
}  # fmt: skip


@dataclass(frozen=True)
class Launch:
    """One launch: the kernel, what Triton specialises it for, its grid and its warps."""

    kernel: object
    signature: tuple  # (name, type) of each argument
    constants: tuple  # (position, value) of constants, and of arguments that are None or 1
    aligned: tuple  # positions of arguments known to be multiples of 16
    grid: tuple
    warps: int
    bytes: int  # of all tensors that it is given

    @property
    def name(self):
        """module.function of the kernel."""
        return f"{self.kernel.fn.__module__.rpartition('.')[2]}.{self.kernel.fn.__name__}"

    def constant(self, name):
        """The value of a constant argument, None where the kernel has none of that name."""
        names = [name for name, _ in self.signature]
        return dict(self.constants).get(names.index(name)) if name in names else None

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


def size(value):
    """Bytes of a tensor, or of all tensors of a tuple; sizes that are expanded count once."""
    if isinstance(value, torch.Tensor):
        return math.prod(count for count, stride in zip(value.shape, value.stride(), strict=True) if stride) * value.itemsize
    return sum(map(size, value)) if isinstance(value, (tuple, list)) else 0


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
    return Launch(kernel, tuple(signature), tuple(constants), tuple(aligned), tuple(grid), warps, size(tuple(arguments.values())))


class Recorder(TorchDispatchMode):
    """Hands each launch of our ops, and each other op, to the methods below while a network runs on meta tensors in a memory format."""

    def __init__(self, layout):
        super().__init__()
        self.layout = layout

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func.namespace == "ddgan_fast":
            with recorded() as launches:
                LAUNCHERS[func.name().split("::")[1].split(".")[0]](*args)
            for launch in launches:
                self.launched(launch)
            return out
        self.other(func, args, out)
        if func is torch.ops.aten.convolution.default:
            return out.contiguous(memory_format=self.layout)  # as cuDNN gives it; on meta tensors the layout gets lost
        return out

    def launched(self, launch):
        """One launch of our kernels."""

    def other(self, func, args, out):
        """Any other op."""
