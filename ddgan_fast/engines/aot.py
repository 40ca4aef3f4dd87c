"""A graph as an AOTInductor package: one .pt2 file of compiled kernels and weights, run from Python or from C++ (examples/cpp).

A .pt2 is code: to load one is to run it. Load only a file whose hash its manifest names, and only where `refuses` has no objection.
"""

import os
import shutil

import torch

from ddgan_fast.engines.export import quiet, torch_program
from ddgan_fast.errors import CheckpointError, MissingError

FACTS = {  # what a package is bound to: its name in a sentence
    "torch": "torch",
    "device": "device type",
    "gpu": "GPU",
    "cpu_capability": "CPU instructions",
}


def write_pt2(graph, path):
    """Compile a Graph, on the device of its module and for its processor, into the file `path`, which ends in .pt2.

    The package carries its ports as text (`port_texts`), so that a program reads the sizes from the file that it runs.
    Raises MissingError without a C++ compiler, CheckpointError where the compilation fails.
    """
    compiler = os.environ.get("CXX", "g++")
    if not shutil.which(compiler):
        raise MissingError(f"AOTInductor needs a C++ compiler, and {compiler} is not there: apt-get install g++, or set CXX")
    from torch._inductor.utils import fresh_cache  # heavy

    program = torch_program(graph)
    try:
        with quiet(), fresh_cache():  # two exports at once would write the same files of the common one
            options = {"aot_inductor.metadata": port_texts(graph)}
            torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=options)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: AOTInductor cannot compile this {graph.target}: {str(error).strip().splitlines()[0]}") from error


def port_texts(graph):
    """{"inputs": "x_T batch 1 8 8; z 4 batch 4", "output": "image batch 1 8 8"}: names and shapes, the inputs in their order."""

    def text(port):
        return " ".join(map(str, (port.name, *port.shape)))

    return {"inputs": "; ".join(map(text, graph.inputs)), "output": text(graph.output), "target": graph.target}


class Package:
    """A .pt2 file, loaded on a device of the type that it was compiled for. Loading runs code of the file: see above."""

    def __init__(self, path, device):
        self.device = torch.device(device)
        try:
            self.model = torch._inductor.aoti_load_package(str(path), device_index=-1 if self.device.index is None else self.device.index)
        except RuntimeError as error:
            raise CheckpointError(f"{path} is not a package that AOTInductor can load: {str(error).strip().splitlines()[0]}") from error

    def run(self, inputs):
        """{name: tensor} of the graph's inputs, each of its port's dtype and shape -> float32 [B, ...] on the device."""
        return self.model(**{name: tensor.to(self.device).contiguous() for name, tensor in inputs.items()})


def facts(device):
    """What a package compiled here for a torch.device is bound to, for its manifest: the keys of FACTS, with text or None."""
    return {
        "torch": torch.__version__,
        "device": device.type,
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def refuses(facts_there, device):
    """Why a package with these `facts` cannot run on a torch.device here; None where it can.

    torch is compared up to the minor version, CPU instructions by their class (AVX2, AVX512), for the host code of a GPU package too.
    """
    here = facts(device)
    for key, name in FACTS.items():
        there = facts_there.get(key)
        if _comparable(key, there) != _comparable(key, here[key]):
            return f"it was compiled for {name} {there or 'unknown'}, and here is {here[key] or 'none'}: export it again on this machine"
    return None


def _comparable(key, value):
    return str(value).split(".")[:2] if key == "torch" else value
