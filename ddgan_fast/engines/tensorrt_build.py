"""TensorRT plans built from an exported ONNX file, by TensorRT 11 or newer, whose networks are strongly typed.

Full TensorRT builds for the GPU that is here, TensorRT-RTX without a GPU too, for a compute capability. The types are those of the ONNX
graph, and float32 stays float32: TF32 is switched off.
"""

from pathlib import Path

import torch

from ddgan_fast.engines.export import MOST_IMAGES
from ddgan_fast.engines.tensorrt import DTYPES, LIBRARIES, MOST_LINES, RTX, gpu_here, last_words, library, logger_of, sized, tensor_facts
from ddgan_fast.errors import CheckpointError, InputError, MissingError


def profiles(batches):
    """[(min, opt, max)] of the optimisation profiles for batch sizes; together they cover each batch from 1 to the largest.

    (1, 16, 100) gives (1, 1, 1), (2, 16, 16), (17, 100, 100).  Raises InputError unless all are whole numbers from 1 to MOST_IMAGES.
    """
    if not batches or not all(isinstance(size, int) and 1 <= size <= MOST_IMAGES for size in batches):
        raise InputError(f"batches {batches!r}: give one or more whole numbers from 1 to {MOST_IMAGES}, as 1,16,100")
    sizes = sorted(set(batches))
    return [(below + 1, size, size) for below, size in zip([0, *sizes], sizes, strict=False)]


def build_plan(onnx_path, plan_path, batches, capability=None, timing_cache=None):
    """Build the plan of an ONNX file of export.write_onnx, and return its facts, a JSON object for the manifest.

    batches: see `profiles`.  capability: "8.9", a GPU's compute capability, for which TensorRT-RTX builds; None: the current CUDA device.
    timing_cache: a file of earlier timings, read where it fits this library and GPU, and written.
    Raises MissingError without a library or GPU, InputError for another capability, CheckpointError with TensorRT's words where it refuses.
    """
    onnx_path, ranges, (trt, built_for) = Path(onnx_path), profiles(batches), target_of(capability)
    logger = logger_of(trt)
    builder = trt.Builder(logger)
    network = builder.create_network()
    parser = trt.OnnxParser(network, logger)  # it owns the weights of the network
    if not parser.parse(onnx_path.read_bytes()):
        errors = [parser.get_error(index) for index in range(min(parser.num_errors, MOST_LINES))]
        raise _refused(onnx_path, "cannot parse it", [f"{error.node_name()}: {error.desc()}" for error in errors])
    tensors = _checked_tensors(network, onnx_path)
    config = _configure(trt, builder, tensors, ranges, built_for["capability"])
    if timing_cache:
        _read_timings(config, Path(timing_cache))
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise _refused(onnx_path, "cannot build it", logger.lines)
    Path(plan_path).write_bytes(plan)
    if timing_cache:
        Path(timing_cache).write_bytes(config.get_timing_cache().serialize())
    shapes = {name: tensor["shape"] for name, tensor in tensors.items() if tensor["io"] == "input"}
    return built_for | {
        "profiles": [list(sizes) for sizes in ranges],
        "layers": network.num_layers,
        "engine_bytes": plan.nbytes,
        "tensors": tensors,
        "notes": [f"the same by hand: {trtexec_command(onnx_path.name, Path(plan_path).name, shapes, batches)}"],
    }


def target_of(capability, names=LIBRARIES):
    """(the library that builds, {library, version, capability, gpu} of what it builds).

    capability: see `build_plan`.  gpu is None for TensorRT-RTX, whose plans run on each GPU of the capability.  Raises as `build_plan`.
    """
    trt = library((RTX,) if capability else names)
    name = f"{trt.__name__} {trt.__version__}"
    if capability is None and not torch.cuda.is_available():
        raise MissingError(f"{name} builds for this machine's GPU, and torch finds none; TensorRT-RTX takes --compute-capability, as 8.9")
    here = gpu_here() if capability is None else {"capability": capability, "gpu": None}
    if trt.__name__ == RTX:
        here["gpu"], known = None, [member[2:] for member in trt.ComputeCapability.__members__ if member.startswith("SM")]
        if here["capability"] not in (dotted := [f"{digits[:-1]}.{digits[-1]}" for digits in known]):
            raise InputError(f"compute capability {here['capability']!r}: {name} builds for {', '.join(dotted)}")
    return trt, {"library": trt.__name__, "version": trt.__version__} | here


def trtexec_command(onnx_name, plan_name, shapes, batches):
    """The line that builds the same plan with trtexec of full TensorRT.  shapes: {input: shape with -1 for the batch}."""
    words = ["trtexec", f"--onnx={onnx_name}", f"--saveEngine={plan_name}", "--noTF32"]
    for index, sizes in enumerate(profiles(batches)):
        words.append(f"--profile={index}")
        for flag, size in zip(("min", "opt", "max"), sizes, strict=True):
            of_each = (f"{name}:{'x'.join(map(str, sized(shape, size)))}" for name, shape in shapes.items())
            words.append(f"--{flag}Shapes={','.join(of_each)}")
    return " ".join(words)


def _configure(trt, builder, tensors, ranges, capability):
    """IBuilderConfig with an optimisation profile for each range of batch sizes."""
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    if trt.__name__ == RTX:
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.__members__[f"SM{capability.replace('.', '')}"], 0)
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)  # without it a run may allocate, which no CUDA graph captures
    for sizes in ranges:
        profile = builder.create_optimization_profile()
        for name, tensor in tensors.items():
            if tensor["io"] == "input":
                profile.set_shape(name, *(sized(tensor["shape"], size) for size in sizes))
        config.add_optimization_profile(profile)
    return config


def _checked_tensors(network, path):
    """{name: tensor_facts} of a parsed network. Raises CheckpointError unless it is one of ours."""
    inputs, outputs = map(network.get_input, range(network.num_inputs)), map(network.get_output, range(network.num_outputs))
    outputs = {value.name: tensor_facts(value.dtype, value.shape, "output") for value in outputs}
    tensors = {value.name: tensor_facts(value.dtype, value.shape, "input") for value in inputs} | outputs
    typed = all(tensor["dtype"] in DTYPES.values() for tensor in tensors.values())
    sized = all(tensor["shape"].count(-1) == 1 for tensor in tensors.values())
    if not (network.num_layers and typed and sized and [tensor["shape"][0] for tensor in outputs.values()] == [-1]):
        text = "; ".join(f"{tensor['io']} {name} {tensor['dtype']} {tensor['shape']}" for name, tensor in tensors.items())
        right = "an export has one output, float32 or int64, and one free size (-1) in each, the batch"
        raise CheckpointError(f"{path}: {network.num_layers} layers, {text}; {right}")
    return tensors


def _read_timings(config, path):
    """Give a build the timings of earlier ones; those of another library or GPU are left out."""
    cache = config.create_timing_cache(path.read_bytes() if path.exists() else b"")
    if cache is None or not config.set_timing_cache(cache, False):
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _refused(path, what, lines):
    compare = "layer by layer: ddgan export --format onnx, then polygraphy run model.onnx --onnxrt --trt"
    return CheckpointError(f"{path.name}: TensorRT {what}: {last_words(lines)}\n{compare}")
