"""What this machine has: versions, devices, backends, engines and extras, and for each missing one the reason (`ddgan env`)."""

import importlib.metadata
import importlib.util
import os
import platform
import re
from pathlib import Path

THERE = "there"
EXTRAS = {  # extra: a module that it brings
    "toy": "sklearn",
    "data": "lmdb",
    "dali": "nvidia.dali",
    "onnx": "onnxruntime",
    "openvino": "openvino",
    "tensorrt": "tensorrt",
    "tensorrt-rtx": "tensorrt_rtx",
    "torch-tensorrt": "torch_tensorrt",
    "metrics": "torch_fidelity",
    "lite0": "efficientnet_lite_pytorch",
    "plots": "matplotlib",
    "hub": "huggingface_hub",
    "demo": "gradio",
    "serve": "litserve",
}
CORE = "torch", "numpy", "safetensors", "pillow", "tyro", "pyyaml", "tqdm", "triton"


def collect():
    """{section: {name: text}}; a part that is missing says why in its text. Imports torch, and none of the extras."""
    import torch

    from ddgan_fast import __version__
    from ddgan_fast.data import dali
    from ddgan_fast.engines import opening
    from ddgan_fast.ops import backend, extension
    from ddgan_fast.sampling import engine

    device, cpu = torch.device("cuda" if torch.cuda.is_available() else "cpu"), torch.device("cpu")
    devices = {"cpu": f"{device_name(cpu)}, {os.cpu_count()} cores"}
    if torch.cuda.is_available():
        devices |= {f"cuda:{i}": torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
    else:
        devices["cuda"] = f"none: {'torch is a CPU build' if torch.version.cuda is None else 'torch finds no CUDA device or driver'}"
    return {
        "versions": {"ddgan_fast": __version__, "python": platform.python_version(), "system": platform.platform()}
        | {name: _version(name) for name in CORE},
        "devices": devices,
        "backends": {"reference": THERE, "triton": _triton(), "cpp": extension.MISSING or THERE, "cpu": extension.MISSING or THERE}
        | ({"forced": name} if (name := backend.forced()) else {}),
        "extension": {"ddgan_fast/_C.so": extension.MISSING or THERE, "ddgan_fast/_cuda.so": _cuda_part()},
        "engines": {"auto": "{}: {}".format(*engine.choose(device))}
        | {name: engine.refuses(name, device) or THERE for name in engine.ENGINES}
        | {name: opening.refuses(name, device) or f"{THERE}, for a file of ddgan export" for name in engine.FROM_FILES},
        "loaders": {"torch": THERE, "dali": dali.refuses() or THERE},
        "extras": {extra: THERE if _importable(module) else f'pip install "ddgan_fast[{extra}]"' for extra, module in EXTRAS.items()},
    }


def device_name(device):
    """What a measured number's row calls its torch.device: the GPU's name, or the processor's and how many threads are in use."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    information = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", information.read_text()) if information.exists() else None
    processor = found[1].strip() if found else platform.processor() or platform.machine()
    return f"{processor}, {torch.get_num_threads()} threads"


def _triton():
    import torch

    from ddgan_fast.ops import backend

    if not backend.HAS_TRITON:
        return "triton is not installed (it comes with the CUDA build of torch)"
    return THERE if torch.cuda.is_available() else "no CUDA device: the kernels run on one"


def _cuda_part():
    from ddgan_fast.ops import extension

    if extension.MISSING_CUDA:
        return extension.MISSING_CUDA
    built = ", ".join(f"sm_{architecture}" for architecture in extension.ARCHITECTURES)
    return f"{THERE}, for {built}"


def _version(distribution):
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _importable(module):
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the parent package of a dotted name is missing
        return False
