"""Engines: how a network runs. Each draws the same images up to rounding; `auto` is the fastest that this device has."""

import copy
import os
import shutil

import torch

from ddgan_fast.errors import InputError, MissingError
from ddgan_fast.models import memory_format
from ddgan_fast.models.inference import TRANSFORMATIONS, optimize_for_sampling
from ddgan_fast.ops import backend, extension
from ddgan_fast.precision import PRECISIONS
from ddgan_fast.sampling.generate import Sampler, WholeSampler
from ddgan_fast.sampling.graph import GraphSampler

# the plain network; its folded form (models/inference.py), operation by operation; that through torch.compile; that with all T steps in one
# CUDA graph
ENGINES = "eager", "folded", "compile", "graph"
FROM_FILES = "onnx", "openvino", "tensorrt", "torch-tensorrt", "aot"  # what runs a file of ddgan export


def refuses(engine, device):
    """Why an engine cannot run on a device, with the remedy; None where it can."""
    if engine == "graph" and device.type != "cuda":
        there = "move the model with --device cuda or pipe.to('cuda')" if torch.cuda.is_available() else "torch finds none here"
        return f"it needs a CUDA device: {there}"
    if engine == "compile":
        if device.type == "cpu" and not shutil.which(os.environ.get("CXX", "g++")):
            return "torch.compile needs a C++ compiler on a CPU: apt-get install g++, or set CXX"
        if device.type == "cuda" and not backend.HAS_TRITON:
            return "torch.compile needs Triton on a GPU: pip install triton"
    return None


def choose(device, network="unet"):
    """(the engine that `auto` stands for, why)."""
    if network != "unet":
        return "eager", "a network for points has nothing to fold"
    if device.type == "cuda":
        return "graph", "one launch per batch"
    return "folded", "the fewest operations" + ("" if extension.MISSING else ", and in float32 convolutions by Winograd")


def build(engine, generator, schedule, precision=None):
    """The Sampler of a generator (models.build_generator, in eval mode) on its device.

    engine: a name of ENGINES, or "auto".  precision: a name of PRECISIONS, or None for the generator's dtype, without TF32.
    Raises InputError for an unknown name and for what the network does not have, MissingError for what is not there on this machine.
    """
    network, device = generator.config.network, schedule.posterior.device
    if engine in FROM_FILES:
        raise InputError(f"engine {engine!r} runs a file: ddgan export writes one, and --engine-file (engine_file=) names its folder")
    if engine not in ("auto", *ENGINES):
        raise InputError(f"engine {engine!r}: there are auto, {', '.join(ENGINES)}")
    if precision not in (None, *PRECISIONS):
        raise InputError(f"precision {precision!r}: there are {', '.join(PRECISIONS)}")
    if precision == "tf32" and device.type != "cuda":
        raise MissingError("precision 'tf32': a CUDA device has it; take fp32")
    engine = choose(device, network)[0] if engine == "auto" else engine
    if network != "unet" and engine != "eager":
        raise InputError(f"engine {engine!r}: a network for points has no folded form; take eager or auto")
    if reason := refuses(engine, device):
        raise MissingError(f"engine {engine!r}: {reason}")
    dtype, allow_tf32 = PRECISIONS.get(precision, next(generator.parameters()).dtype), precision == "tf32"
    if engine == "eager":
        generator = generator if dtype == next(generator.parameters()).dtype else copy.deepcopy(generator).to(dtype)
        return Sampler(generator, schedule, dtype, memory_format(device), allow_tf32)
    form = optimize_for_sampling(generator, schedule, dtype, device, TRANSFORMATIONS if engine == "compile" else None)
    if engine == "compile":
        form.net.unet = _compiled(form.net.unet)
    return (GraphSampler if engine == "graph" else Sampler)(form, schedule, dtype, torch.channels_last, allow_tf32)


def sampler_of(file_format, target, device):
    """The kind of Sampler for a file of ddgan export: a plan's evaluations and the posterior steps between go into one CUDA graph."""
    if target == "sampler":
        return WholeSampler
    return GraphSampler if file_format == "tensorrt" and device.type == "cuda" else Sampler


def _compiled(unet):
    """torch.compile of a network on the plain torch operations, which it fuses itself."""
    run = torch.compile(unet, dynamic=False)

    def call(*arguments):
        with backend.force("reference"):
            return run(*arguments)

    return call
