"""TensorRT plans: built from an exported ONNX file, and run on torch tensors. TensorRT 11 or newer, whose networks are strongly typed.

Two libraries have the same API: full TensorRT builds for the GPU that is here, TensorRT-RTX without a GPU too, for a compute capability.
The types are those of the ONNX graph, and float32 stays float32: TF32 is switched off.
A plan is code: to load one is to run it. Load only a file whose hash its manifest names, and only where `refuses` has no objection.
"""

import contextlib
import importlib
from pathlib import Path

import torch

from ddgan_fast.engines.export import MOST_IMAGES
from ddgan_fast.errors import CheckpointError, DDGANError, InputError, MissingError

RTX = "tensorrt_rtx"
LIBRARIES = "tensorrt", RTX  # the first that can be imported is taken
DTYPES = {"FLOAT": "float32", "INT64": "int64"}  # of inputs and outputs
ALIGNMENT = 256  # bytes, of each address that TensorRT is given
MOST_LINES = 3  # of TensorRT's own words in an error


def library(names=LIBRARIES):
    """The module of the first library that can be imported. Raises MissingError with the pip lines and what each import says."""
    reasons = []
    for name in names:
        try:
            trt = importlib.import_module(name)
        except (ImportError, OSError) as error:
            reasons.append(f'pip install "ddgan_fast[{name.replace("_", "-")}]" ({name} cannot be imported: {error})')
            continue
        if name == RTX or int(trt.__version__.partition(".")[0]) >= 11:
            return trt
        reasons.append(f'pip install "ddgan_fast[{name}]" ({name} {trt.__version__} is here, and 11 is needed)')
    raise MissingError(" or ".join(reasons))


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
    logger = _logger(trt)
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
    shapes = {tensor["name"]: tensor["shape"] for tensor in tensors if tensor["io"] == "input"}
    return built_for | {
        "profiles": [list(sizes) for sizes in ranges],
        "layers": network.num_layers,
        "engine_bytes": plan.nbytes,
        "tensors": tensors,
        "notes": [f"the same by hand: {trtexec_command(onnx_path.name, Path(plan_path).name, shapes, batches)}"],
    }


def trtexec_command(onnx_name, plan_name, shapes, batches):
    """The line that builds the same plan with trtexec of full TensorRT.  shapes: {input: shape with -1 for the batch}."""
    words = ["trtexec", f"--onnx={onnx_name}", f"--saveEngine={plan_name}", "--noTF32"]
    for index, sizes in enumerate(profiles(batches)):
        words.append(f"--profile={index}")
        for flag, size in zip(("min", "opt", "max"), sizes, strict=True):
            of_each = (f"{name}:{'x'.join(map(str, _sized(shape, size)))}" for name, shape in shapes.items())
            words.append(f"--{flag}Shapes={','.join(of_each)}")
    return " ".join(words)


def refuses(facts, device):
    """Why a plan with these facts of `build_plan` cannot run on a torch.device here, with the remedy; None where it can. Reads no plan."""
    name, version, capability, gpu = (facts.get(key) for key in ("library", "version", "capability", "gpu"))
    built = f"the plan was built for {gpu or f'compute capability {capability}'} with {name} {version}"
    remedy = "export it again on this machine: ddgan export --format tensorrt"
    try:
        trt = library((name,) if name in LIBRARIES else LIBRARIES)
    except MissingError as error:
        return f"{built}: {error}"
    if (trt.__name__, trt.__version__) != (name, version):
        return f"{built}, and here is {trt.__name__} {trt.__version__}; {remedy}"
    if device.type != "cuda" or not torch.cuda.is_available():
        return f"{built}, and runs on a CUDA device, not on {device}"
    here = _gpu_here(device)
    if here["capability"] != capability or gpu not in (None, here["gpu"]):
        return f"{built}, and here is {here['gpu']}, compute capability {here['capability']}; {remedy}"
    return None


class Plan:
    """A plan on its GPU: an execution context for each batch size, and one block of torch's memory that they share. One `run` at a time.

    `run` waits for nothing and allocates with torch, so that it can be captured in a CUDA graph after a first call of the same batch size;
    the graph reads the plan's weights and memory: keep the Plan as long as the graph.
    """

    def __init__(self, path, facts, device, trt=None):
        """facts: of `build_plan`, accepted by `refuses`.  device: torch.device.  trt: the library's module, by default the one in facts.

        Raises CheckpointError where TensorRT refuses the file, or the file has other inputs, outputs or profiles than facts say.
        """
        self.path, self.device, self.profiles = path, torch.device(device), facts["profiles"]
        self.inputs = [tensor for tensor in facts["tensors"] if tensor["io"] == "input"]
        self.output = next(tensor for tensor in facts["tensors"] if tensor["io"] == "output")
        trt = trt or library((facts["library"],))
        self.logger, self.name = _logger(trt), f"{trt.__name__} {trt.__version__}"
        self.runtime = trt.Runtime(self.logger)  # its engine_host_code_allowed is False and stays so
        with self._current_device():
            self.engine = self.runtime.deserialize_cuda_engine(Path(path).read_bytes())
            if self.engine is None:
                raise CheckpointError(f"{path}: {self.name} cannot load it: {_words(self.logger.lines)}")
            expected = {tensor["name"]: tensor for tensor in facts["tensors"]}
            if _engine_tensors(self.engine) != expected or self.engine.num_optimization_profiles != len(self.profiles):
                raise CheckpointError(f"{path}: has other inputs, outputs or profiles than its manifest says; export it again")
            self.memory = torch.empty(max(self.engine.device_memory_size_v2, 1), dtype=torch.uint8, device=self.device)
        self.trt, self.contexts = trt, {}  # of each batch size, because a captured graph wants a context that nothing else uses

    def run(self, inputs):
        """{name: tensor} of the graph's inputs, each of its port's dtype and shape -> float32 [B, ...] on the device.

        The work is on torch's current stream.  Raises InputError for other names, dtypes or shapes, and for a batch above the largest.
        """
        batch = self._batch(inputs)
        output = torch.empty(_sized(self.output["shape"], batch), dtype=torch.float32, device=self.device)
        # freed on return, while TensorRT may still read them: what torch puts there next is later on the same stream
        dense = {name: _aligned(tensor.to(self.device).contiguous()) for name, tensor in inputs.items()}
        with self._current_device():
            if batch not in self.contexts:
                self.contexts[batch] = self._context(next(at for at, (_, _, most) in enumerate(self.profiles) if batch <= most))
            context = self.contexts[batch]
            given = [context.set_input_shape(name, tuple(tensor.shape)) for name, tensor in dense.items()]
            given += [context.set_tensor_address(name, tensor.data_ptr()) for name, tensor in dense.items()]
            given += [context.set_tensor_address(self.output["name"], output.data_ptr())]
            if not (all(given) and context.execute_async_v3(self._stream())):
                raise DDGANError(f"{self.path}: {self.name} cannot run a batch of {batch}: {_words(self.logger.lines)}")
        return output

    def _batch(self, inputs):
        """The batch size of checked inputs."""
        expected = {port["name"]: port for port in self.inputs}
        if set(inputs) != set(expected):
            raise InputError(f"{self.path}: given {', '.join(inputs)}; its inputs are {', '.join(expected)}")
        first, axis = inputs[self.inputs[0]["name"]], self.inputs[0]["shape"].index(-1)
        batch = first.shape[axis] if first.ndim > axis else 0
        for name, port in expected.items():
            dtype, shape = inputs[name].dtype, list(inputs[name].shape)
            if dtype != getattr(torch, port["dtype"]) or shape != _sized(port["shape"], batch):
                right = f"{port['dtype']} {port['shape']}, with one batch size in place of each -1"
                raise InputError(f"{self.path}: input {name} is {dtype} {shape}; right would be {right}")
        most = self.profiles[-1][-1]
        if not 1 <= batch <= most:
            remedy = f"take --batch-size {most}, or export with a larger --batch"
            raise InputError(f"{self.path}: a batch of {batch}, and it was built for 1 to {most}: {remedy}")
        return batch

    def _context(self, profile):
        config, trt = self.engine.create_runtime_config(), self.trt
        config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if trt.__name__ == RTX:  # by default it runs slower kernels at first, and a captured graph would keep them
            config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        context = self.engine.create_execution_context(config)
        if context is None or not context.set_optimization_profile_async(profile, self._stream()):
            raise DDGANError(f"{self.path}: {self.name} cannot prepare profile {profile}: {_words(self.logger.lines)}")
        context.set_device_memory(self.memory.data_ptr(), self.engine.device_memory_size_v2)
        return context

    def _stream(self):
        return torch.cuda.current_stream(self.device).cuda_stream if self.device.type == "cuda" else 0

    def _current_device(self):
        return torch.cuda.device(self.device) if self.device.type == "cuda" else contextlib.nullcontext()


def target_of(capability, names=LIBRARIES):
    """(the library that builds, {library, version, capability, gpu} of what it builds).

    capability: see `build_plan`.  gpu is None for TensorRT-RTX, whose plans run on each GPU of the capability.  Raises as `build_plan`.
    """
    trt = library((RTX,) if capability else names)
    name = f"{trt.__name__} {trt.__version__}"
    if capability is None and not torch.cuda.is_available():
        raise MissingError(f"{name} builds for this machine's GPU, and torch finds none; TensorRT-RTX takes --compute-capability, as 8.9")
    here = _gpu_here() if capability is None else {"capability": capability, "gpu": None}
    if trt.__name__ == RTX:
        here["gpu"], known = None, [member[2:] for member in trt.ComputeCapability.__members__ if member.startswith("SM")]
        if here["capability"] not in (dotted := [f"{digits[:-1]}.{digits[-1]}" for digits in known]):
            raise InputError(f"compute capability {here['capability']!r}: {name} builds for {', '.join(dotted)}")
    return trt, {"library": trt.__name__, "version": trt.__version__} | here


def _gpu_here(device=None):
    return {"capability": "{}.{}".format(*torch.cuda.get_device_capability(device)), "gpu": torch.cuda.get_device_name(device)}


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
        for tensor in tensors:
            if tensor["io"] == "input":
                profile.set_shape(tensor["name"], *(_sized(tensor["shape"], size) for size in sizes))
        config.add_optimization_profile(profile)
    return config


def _checked_tensors(network, path):
    """[{name, dtype, shape with -1 for the batch, io}] of a parsed network. Raises CheckpointError unless it is one of ours."""
    inputs, outputs = map(network.get_input, range(network.num_inputs)), map(network.get_output, range(network.num_outputs))
    outputs = [_tensor(value.name, value.dtype, value.shape, "output") for value in outputs]
    tensors = [_tensor(value.name, value.dtype, value.shape, "input") for value in inputs] + outputs
    typed = all(tensor["dtype"] in DTYPES.values() for tensor in tensors)
    sized = all(tensor["shape"].count(-1) == 1 for tensor in tensors)
    if not (network.num_layers and typed and sized and len(outputs) == 1 and outputs[0]["shape"][0] == -1):
        text = "; ".join(f"{tensor['io']} {tensor['name']} {tensor['dtype']} {tensor['shape']}" for tensor in tensors)
        right = "an export has one output, float32 or int64, and one free size (-1) in each, the batch"
        raise CheckpointError(f"{path}: {network.num_layers} layers, {text}; {right}")
    return tensors


def _engine_tensors(engine):
    """{name: the same} of a loaded engine."""
    tensors = {}
    for name in map(engine.get_tensor_name, range(engine.num_io_tensors)):
        io = engine.get_tensor_mode(name).name.lower()
        tensors[name] = _tensor(name, engine.get_tensor_dtype(name), engine.get_tensor_shape(name), io)
    return tensors


def _tensor(name, dtype, shape, io):
    return {"name": name, "dtype": DTYPES.get(dtype.name, dtype.name), "shape": list(shape), "io": io}


def _read_timings(config, path):
    """Give a build the timings of earlier ones; those of another library or GPU are left out."""
    cache = config.create_timing_cache(path.read_bytes() if path.exists() else b"")
    if cache is None or not config.set_timing_cache(cache, False):
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _sized(shape, batch):
    return [batch if size == -1 else size for size in shape]


def _aligned(tensor):
    return tensor if tensor.data_ptr() % ALIGNMENT == 0 else tensor.clone()


def _logger(trt):
    """An ILogger that keeps the errors, as `lines`."""

    class Logger(trt.ILogger):
        def __init__(self):
            trt.ILogger.__init__(self)
            self.lines = []

        def log(self, severity, message):
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.lines.append(message.strip())

    return Logger()


def _refused(path, what, lines):
    compare = f"layer by layer: ddgan export --format onnx, then polygraphy run {path.name} --onnxrt --trt"
    return CheckpointError(f"{path.name}: TensorRT {what}: {_words(lines)}\n{compare}")


def _words(lines):
    return "; ".join(lines[-MOST_LINES:]) or "it gives no reason"  # the last say why: without a GPU the first complain of that
