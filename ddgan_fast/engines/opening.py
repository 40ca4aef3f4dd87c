"""The engine in a folder of ddgan export, ready to be called in the place of the network."""

import importlib.util

import torch

from ddgan_fast.checkpoint.model import fingerprint
from ddgan_fast.engines import aot, onnxruntime, openvino, tensorrt, torch_tensorrt
from ddgan_fast.engines.export import EXPORTED_PRECISIONS, TARGETS, ports
from ddgan_fast.engines.manifest import read_engine
from ddgan_fast.engines.networks import SamplerNetwork, StepNetwork
from ddgan_fast.errors import CheckpointError, InputError, MissingError

# format of a file: the engines that run it, the first by default. An ONNX file runs on TensorRT by ONNX Runtime's provider
ENGINES_OF = {"onnx": ("onnx", "openvino", "tensorrt"), "tensorrt": ("tensorrt",), "torch-tensorrt": ("torch-tensorrt",), "pt2": ("aot",)}
MODULES = {
    "onnx": ("onnxruntime",),
    "openvino": ("openvino",),
    "tensorrt": ("tensorrt", "tensorrt_rtx"),
    "torch-tensorrt": ("torch_tensorrt",),
}
CODE = {"tensorrt": tensorrt, "pt2": aot, "torch-tensorrt": torch_tensorrt}  # formats whose files are code, with what refuses them


def refuses(engine, device):
    """Why an engine that runs files cannot run on a device, with the remedy; None where it can. Imports none of them."""
    if engine == "aot":
        return None
    if not any(importlib.util.find_spec(module) for module in MODULES[engine]):
        return f'pip install "ddgan_fast[{engine}]"'
    if engine in ("tensorrt", "torch-tensorrt") and device.type != "cuda":
        return "it runs on a CUDA device; without one TensorRT-RTX can build engines"
    return None


def default_engine(kind, precision, device):
    """The engine that runs a format where none is named: ONNX Runtime has no bfloat16 convolution on a CPU, and OpenVINO does."""
    return "openvino" if kind == "onnx" and precision == "bf16" and device.type == "cpu" else ENGINES_OF[kind][0]


def start(path, kind, engine, facts, precision, device):
    """What runs the file `path` of a format: an object with `run` ({name: tensor} -> tensor).

    facts: what the manifest says of what the file was built with.  Raises CheckpointError where it does not fit this machine, before it is
    read, and MissingError where what runs it is not there.
    """
    if kind in CODE:
        if reason := refuses(ENGINES_OF[kind][0], device):
            raise MissingError(f"{path}: {reason}")
        if reason := CODE[kind].refuses(facts, device):
            raise CheckpointError(f"{path}: not loaded: {reason}")
    if kind == "tensorrt":
        return tensorrt.Plan(path, facts, device)
    if kind == "pt2":
        return aot.Package(path, device)
    if kind == "torch-tensorrt":
        return torch_tensorrt.Module(path, device)
    if engine == "openvino":
        return openvino.Session(path, device, precision)
    return onnxruntime.Session(path, device, "tensorrt" if engine == "tensorrt" else None)


def open_engine(folder, engine, precision, generator, config, schedule):
    """(StepNetwork or SamplerNetwork of an engine of ddgan export, its manifest).

    engine: one that runs this format, or "auto".  precision: that of the export, or None.  generator, config: of the model that it was
    exported from.  schedule: on the device.  Raises CheckpointError for a damaged folder and for the engine of
    another model, GPU or version, InputError for words that do not fit it, MissingError where something is not there.
    """
    path, manifest = read_engine(folder)
    kind, target, exported = (manifest.get(name) for name in ("format", "target", "precision"))
    device = schedule.posterior.device
    if target not in TARGETS or exported not in EXPORTED_PRECISIONS:
        raise CheckpointError(f"{folder}: target {target!r}, precision {exported!r} in its manifest; export it again")
    if precision not in (None, exported):
        raise InputError(f"{folder}: exported in {exported}, not {precision}; leave the precision out, or export again")
    if (dtype := next(generator.parameters()).dtype) != torch.float32:
        raise InputError(f"{folder}: the pipeline's weights are {dtype} by now; load the model anew, the file has its own precision")
    if manifest.get("model") != fingerprint(generator, config):
        raise CheckpointError(f"{folder}: exported from another model ({manifest.get('name')}); export it from this one")
    engine = default_engine(kind, exported, device) if engine == "auto" else engine
    if engine not in ENGINES_OF[kind]:
        raise InputError(f"engine {engine!r} does not run {path.name}: take auto, {', '.join(ENGINES_OF[kind])}")
    built = manifest["built"] if isinstance(manifest.get("built"), dict) else {}
    runner = start(path, kind, engine, built, exported, device)
    if target == "step":
        return StepNetwork(runner.run, config.model), manifest
    inputs, _ = ports(config.model, schedule.steps, target)
    return SamplerNetwork(runner.run, config.model, {port.name: port.batch_axis for port in inputs}), manifest
