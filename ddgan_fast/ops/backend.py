"""Which implementation of an op runs: the first that does not refuse, or the one that `force` or DDGAN_BACKEND names.

An op keeps a dict {backend name: (refuses, run)} in order of preference, the reference last. `refuses(*arguments)` returns
the reason why this backend cannot serve the call, or None; it reads module constants and tensor metadata alone, so that
torch.compile can trace through it.
"""

import importlib.util
import os
from contextlib import contextmanager

import torch

from ddgan_fast.errors import InputError, MissingError

NAMES = "reference", "triton", "cpp", "cpu"  # cpp: the extension; cpu: its kernels for sampling on a CPU, which have no gradient
HAS_TRITON = importlib.util.find_spec("triton") is not None
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # kernels run on CPU tensors, for tests
TRITON_DTYPES = torch.float16, torch.bfloat16, torch.float32, torch.float64
MOST_IMAGES = 65_535  # the limit of a launch grid
MOST_ELEMENTS = 2**29 - 1
FORMATS = torch.contiguous_format, torch.channels_last


def _known(name, source):
    if name not in (None, *NAMES):
        raise InputError(f"{source}: no backend {name!r}; there are {', '.join(NAMES)}")
    return name


_forced = _known(os.environ.get("DDGAN_BACKEND") or None, "DDGAN_BACKEND")


def pick(op, backends, *arguments):
    """The implementation of `op` for these arguments.

    A forced backend binds the ops that have it: MissingError where it refuses, never another in its place.
    """
    if _forced in backends:
        refuses, run = backends[_forced]
        if reason := refuses(*arguments):
            raise MissingError(f"{op}: backend {_forced!r} cannot run: {reason}")
        return run
    return next(run for refuses, run in backends.values() if refuses(*arguments) is None)


def forced():
    """The name that `force` or DDGAN_BACKEND gives, or None."""
    return _forced


@contextmanager
def force(name):
    """Inside the block every op that has the backend `name` runs on it, or raises MissingError with the reason; None: no force.

    Raises InputError for a name that no op knows.
    """
    global _forced
    before, _forced = _forced, _known(name, "force")
    try:
        yield
    finally:
        _forced = before


def always(*_):
    """The `refuses` of a backend that serves every call."""
    return None


def transformed():
    """Whether torch.func or forward-mode differentiation is at work, whose rules our operators do not have."""
    return torch._C._functorch.get_dynamic_layer_stack_depth() > 0 or torch.autograd.forward_ad._current_level >= 0


def wants_gradient(*tensors):
    """Whether autograd would record an op on these tensors (None among them is passed over)."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def triton_refuses(x, *others):
    """Why the Triton kernels cannot serve images x and `others` (None among them is passed over), or None."""
    if not HAS_TRITON:
        return "triton is not installed"
    if transformed():
        return "torch.func and forward-mode differentiation take plain torch"
    tensors = [tensor for tensor in (x, *others) if tensor is not None]
    if x.shape[0] > MOST_IMAGES:
        return f"a batch of {x.shape[0]}; the kernels take up to {MOST_IMAGES} images at once"
    if sum(tensor.numel() for tensor in tensors) > MOST_ELEMENTS * x.shape[0]:
        return f"images of more than {MOST_ELEMENTS} elements; the kernels count within one image, up to 4 times as large, in 32 bits"
    for tensor in tensors:
        forced_without_gpu = _forced == "triton" and (INTERPRETED or tensor.is_meta)
        if tensor.device.type != "cuda" and not forced_without_gpu:
            return f"tensors are on {tensor.device.type}, and the kernels run on a CUDA device"
        if tensor.dtype not in TRITON_DTYPES:
            return f"dtype {tensor.dtype} is not among {', '.join(map(str, TRITON_DTYPES))}"
        if not tensor.is_contiguous() and not tensor.is_contiguous(memory_format=torch.channels_last):
            return f"a tensor of strides {tuple(tensor.stride())} is neither contiguous nor channels_last"
        if not any(x.is_contiguous(memory_format=f) and tensor.is_contiguous(memory_format=f) for f in FORMATS):
            return "one tensor is contiguous and another channels_last"
    return None
