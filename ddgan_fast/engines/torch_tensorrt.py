"""A graph through torch-tensorrt, for programs that stay in torch: TensorRT engines inside a torch module, in memory or in one .pt2 file.

torch-tensorrt traces the module itself, by keyword, at the usual batch: TensorRT takes its range of sizes from that trace. Its networks are
strongly typed, so each operation runs in the precision that the graph gives it. Needs torch-tensorrt 2.13, the first in which several
inputs share the size of the batch.
"""

import torch

from ddgan_fast.engines.export import BATCH, quiet, require
from ddgan_fast.errors import CheckpointError, MissingError
from ddgan_fast.ops import backend


def compile_generator(graph, batches):
    """A torch module that is called as module(**{name: tensor of its port}) and gives float32 [B, ...].

    graph: export.Graph on a CUDA device.  batches: sizes that it is for; the largest is the limit, and it is tuned for the middle one.
    Raises MissingError without torch-tensorrt or a CUDA device, CheckpointError where the compilation fails.
    """
    device = next(graph.module.parameters()).device
    torch_tensorrt = _library(device)
    settings = {"arg_inputs": [], "kwarg_inputs": specifications(graph, batches), "device": device, "disable_tf32": True}
    try:
        with backend.force("reference"), torch.no_grad(), quiet():
            return torch_tensorrt.compile(graph.module, ir="dynamo", **settings)
    except Exception as error:  # its errors share no base class
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"torch-tensorrt cannot compile this {graph.target}: {reason}") from error


def specifications(graph, batches):
    """{name: torch_tensorrt.Input}: batch 1 to the largest of `batches`, usually the middle one, the same in all inputs."""
    torch_tensorrt = require("torch_tensorrt", "torch-tensorrt")
    ordered = sorted(batches)
    usual, most = ordered[len(ordered) // 2], ordered[-1]

    def specification(port):
        sizes = {"min_shape": port.sized(1), "opt_shape": port.sized(usual), "max_shape": port.sized(most)}
        shared = {port.batch_axis: BATCH} if most > 1 else {}
        return torch_tensorrt.Input(**sizes, shared_dims=shared, dtype=getattr(torch, port.dtype), name=port.name)

    return {port.name: specification(port) for port in graph.inputs}


def write(graph, batches, path):
    """Compile as `compile_generator` and save into `path`, which ends in .pt2. Raises what that raises."""
    module = compile_generator(graph, batches)
    torch_tensorrt = require("torch_tensorrt", "torch-tensorrt")
    with torch.no_grad(), quiet():
        form = {"output_format": "exported_program", "arg_inputs": [], "kwarg_inputs": specifications(graph, batches)}
        torch_tensorrt.save(module, str(path), **form)


class Module:
    """A file of `write` on a CUDA device. TensorRT engines are code: load only a file whose hash its manifest names."""

    def __init__(self, path, device):
        """Raises MissingError without torch-tensorrt or a CUDA device, CheckpointError for a file that it cannot load."""
        self.device = torch.device(device)
        torch_tensorrt = _library(self.device)
        try:
            self.module = torch_tensorrt.load(str(path)).module()
        except ValueError as error:
            raise CheckpointError(f"{path} is not a program that torch-tensorrt can load: {str(error).splitlines()[0]}") from error

    def run(self, inputs):
        """{name: tensor} of the graph's inputs, each of its port's dtype and shape -> float32 [B, ...] on the device."""
        with torch.no_grad():
            return self.module(**{name: tensor.to(self.device).contiguous() for name, tensor in inputs.items()})


def facts(device):
    """What a file written here for a torch.device is bound to, for its manifest."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {"torch": torch.__version__, "torch-tensorrt": require("torch_tensorrt", "torch-tensorrt").__version__, "gpu": gpu}


def refuses(facts_there, device):
    """Why a file with these `facts` cannot run on a torch.device here; None where it can."""
    for name, here in facts(device).items():
        if facts_there.get(name) != here:
            return f"it was compiled for {name} {facts_there.get(name)}, and here is {here}: export it again on this machine"
    return None


def _library(device):
    if device.type != "cuda":
        raise MissingError(f"torch-tensorrt compiles for and runs on a CUDA device, and this is {device.type}: take --device cuda")
    return require("torch_tensorrt", "torch-tensorrt")
