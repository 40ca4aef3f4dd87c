"""The C++ and CUDA libraries of the ops: loaded where they are there and fit, and the reason where not.

MISSING and MISSING_CUDA are module constants, so that torch.compile can trace through the choice of a backend.
"""

import json
from pathlib import Path

import torch

from ddgan_fast.ops.backend import transformed, wants_gradient

PACKAGE = Path(__file__).parents[1]
ABI = b"ddgan_fast extension abi 2;"  # a text in csrc/posterior.cpp and .cu; it changes with any schema
OPS = (
    "posterior_step",
    "posterior_step_seeded",
    "posterior_final_uint8",
    "q_sample_pair",
    "q_sample_pair_seeded",
    "philox_normal",
    "philox_words",
)
CPU_OPS = "conv3x3", "group_norm", "residual_join", "fir_up2", "fir_down2", "fir_blur"  # of _C.so alone
REBUILD = "rebuild: pip install --no-cache-dir --force-reinstall --no-deps . (or -e . in place of the last point)"


def build_info(package=PACKAGE):
    """What setup.py wrote: {library: why it was not built, or None} and `architectures`; {} where it did not build here."""
    path = package / "_build.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def load(name, key, package=PACKAGE):
    """Load `package`/`name`, which implements the ops for a dispatch key. Returns why it cannot be used, or None."""
    path = package / name
    if not path.exists():
        return build_info(package).get(name) or f"{name} was never built; {REBUILD}"
    if ABI not in path.read_bytes():
        return f"{path} was built for another version of ddgan_fast; {REBUILD}"
    try:
        torch.ops.load_library(path)
    except OSError as error:
        return f"{path} does not fit torch {torch.__version__} or this machine ({error.__cause__ or error}); {REBUILD}"
    absent = [op for op in OPS + CPU_OPS * (key == "CPU") if not _registered(f"ddgan_cpp::{op}", key)]
    return f"{path} left out {', '.join(absent)} in torch {torch.__version__}; {REBUILD}" if absent else None


def _registered(op, key):
    return torch._C._dispatch_has_kernel(op) and torch._C._dispatch_has_kernel_for_dispatch_key(op, key)


MISSING = load("_C.so", "CPU")
MISSING_CUDA = MISSING or load("_cuda.so", "CUDA")


ARCHITECTURES = sorted(int(architecture.rstrip("af")) for architecture in build_info().get("architectures", ()))  # of _cuda.so


def gpu_refuses(index):
    """Why the CUDA part has no code for GPU `index`, or None. The code of one architecture serves the later ones of its generation, and
    the newest came as PTX too, which the driver compiles for any later GPU."""
    if not ARCHITECTURES:
        return f"_build.json does not say for which GPUs _cuda.so was built; {REBUILD}"
    properties = torch.cuda.get_device_properties(index)
    here = 10 * properties.major + properties.minor
    if here >= ARCHITECTURES[-1] or any(code // 10 == properties.major and code <= here for code in ARCHITECTURES):
        return None
    return f"_cuda.so was built for sm_{', '.join(map(str, ARCHITECTURES))}, and the GPU is sm_{here}; {REBUILD}"


def refuses(x, *others):
    """Why the extension cannot serve x and `others` (None among them is passed over), or None."""
    if MISSING:
        return MISSING
    if transformed():
        return "torch.func and forward-mode differentiation take plain torch"
    if x.device.type not in ("cpu", "cuda"):
        return f"tensors are on {x.device.type}; it serves cpu and cuda"
    if x.is_cuda and (reason := MISSING_CUDA or gpu_refuses(x.device.index)):
        return reason
    formats = [torch.contiguous_format, *([torch.channels_last] if x.dim() == 4 else [])]
    formats = [layout for layout in formats if x.is_contiguous(memory_format=layout)]
    for tensor in (x, *others):
        if tensor is None:
            continue
        if tensor.dtype not in (torch.float32, torch.bfloat16, torch.float16) or tensor.dtype != x.dtype:
            return f"dtypes {x.dtype} and {tensor.dtype}; it serves one dtype of float32, bfloat16 and float16"
        if not any(tensor.is_contiguous(memory_format=layout) for layout in formats):
            return f"strides {tuple(x.stride())} and {tuple(tensor.stride())}; it serves one layout, contiguous or channels_last"
    return None


def sampling_refuses(images, rows=()):
    """Why the ops that serve sampling on a CPU cannot take `images` with `rows` beside them (None in either is passed over), or None."""
    if MISSING:
        return MISSING
    if transformed():
        return "torch.func and forward-mode differentiation take plain torch"
    if wants_gradient(*images, *rows):
        return "it has no gradient, and one is wanted: call it under torch.no_grad()"
    for tensor in [image for image in images if image is not None]:
        if tensor.device.type != "cpu" or tensor.dtype != torch.float32:
            return f"tensors are {tensor.dtype} on {tensor.device.type}; it serves torch.float32 on cpu"
        if not tensor.is_contiguous(memory_format=torch.channels_last):
            return f"a tensor has strides {tuple(tensor.stride())}; it serves channels_last"
    return None
