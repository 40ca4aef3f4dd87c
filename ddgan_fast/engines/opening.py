"""The engine in a folder of ddgan export, ready to be called in the place of the network."""

import importlib.util

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

    facts: what the manifest says of what the file was built with.  Raises MissingError where it cannot run here, before the file is read.
    """
    if kind in ("tensorrt", "pt2"):
        module = tensorrt if kind == "tensorrt" else aot
        if reason := module.refuses(facts, device):
            raise MissingError(f"{path}: {reason}")
        return tensorrt.Plan(path, facts, device) if kind == "tensorrt" else aot.Package(path, device)
    if kind == "torch-tensorrt":
        return torch_tensorrt.Module(path, device)
    if engine == "openvino":
        return openvino.Session(path, device, precision)
    return onnxruntime.Session(path, device, "tensorrt" if engine == "tensorrt" else None)


def open_engine(folder, engine, generator, config, schedule):
    """(StepNetwork or SamplerNetwork of an engine of ddgan export, its engine's name, its manifest).

    engine: one that runs this format, or "auto".  generator, config: of the model that it was exported from.
    schedule: on the device.  Raises CheckpointError for a damaged folder and for the engine of another model, InputError for an engine that
    does not run the format, MissingError where it cannot run here.
    """
    path, manifest = read_engine(folder)
    kind, target, precision = (manifest.get(name) for name in ("format", "target", "precision"))
    device = schedule.posterior.device
    if target not in TARGETS or precision not in EXPORTED_PRECISIONS:
        raise CheckpointError(f"{folder}: target {target!r}, precision {precision!r} in its manifest; export it again")
    if manifest.get("model") != fingerprint(generator, config):
        raise CheckpointError(f"{folder}: exported from another model ({manifest.get('name')}); export it from this one")
    engine = default_engine(kind, precision, device) if engine == "auto" else engine
    if engine not in ENGINES_OF[kind]:
        raise InputError(f"engine {engine!r} does not run {path.name}: take auto, {', '.join(ENGINES_OF[kind])}")
    built = manifest["built"] if isinstance(manifest.get("built"), dict) else {}
    runner = start(path, kind, engine, built, precision, device)
    if target == "step":
        return StepNetwork(runner.run, config.model), engine, manifest
    inputs, _ = ports(config.model, schedule.steps, target)
    axes = {port.name: port.shape.index("batch") for port in inputs}
    return SamplerNetwork(runner.run, config.model, axes), engine, manifest
