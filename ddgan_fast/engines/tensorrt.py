"""TensorRT plans run on torch tensors, by full TensorRT (11 or newer) or TensorRT-RTX, which have the same API.

A plan is code: to load one is to run it. Load only a file whose hash its manifest names, and only where `refuses` has no objection.
"""

import bisect
import contextlib
import importlib
from pathlib import Path

import torch

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


def refuses(facts, device):
    """Why a plan with these facts of tensorrt_build.build_plan cannot run on a torch.device here, with the remedy; None where it can."""
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
    here = gpu_here(device)
    if here["capability"] != capability or gpu not in (None, here["gpu"]):
        return f"{built}, and here is {here['gpu']}, compute capability {here['capability']}; {remedy}"
    return None


class Plan:
    """A plan on its GPU: an execution context for each batch size, and one block of torch's memory that they share. One `run` at a time.

    `run` waits for nothing and allocates with torch, so that it can be captured in a CUDA graph after a first call of the same batch size;
    the graph reads the plan's weights and memory: keep the Plan as long as the graph.
    """

    def __init__(self, path, facts, device, trt=None):
        """facts: of tensorrt_build.build_plan, accepted by `refuses`.  device: torch.device.  trt: the library, by default that of facts.

        Raises CheckpointError where TensorRT refuses the file, or the file has other inputs, outputs or profiles than facts say.
        """
        self.path, self.device = path, torch.device(device)
        trt = trt or library((facts["library"],))
        self.logger, self.name = logger_of(trt), f"{trt.__name__} {trt.__version__}"
        self.runtime = trt.Runtime(self.logger)  # its engine_host_code_allowed is False and stays so
        with self._current_device():
            self.engine = self.runtime.deserialize_cuda_engine(Path(path).read_bytes())
            if self.engine is None:
                raise CheckpointError(f"{path}: {self.name} cannot load it: {last_words(self.logger.lines)}")
            tensors = _engine_tensors(self.engine)
            if facts.get("tensors") != tensors or facts.get("profiles") != (profiles := _engine_profiles(self.engine)):
                raise CheckpointError(f"{path}: has other inputs, outputs or profiles than its manifest says; export it again")
            self.memory = torch.empty(max(self.engine.device_memory_size_v2, 1), dtype=torch.uint8, device=self.device)
        self.inputs = {name: tensor for name, tensor in tensors.items() if tensor["io"] == "input"}
        [self.output] = tensors.keys() - self.inputs.keys()
        self.shape, self.most = tensors[self.output]["shape"], [most for _, _, most in profiles]
        self.trt, self.contexts = trt, {}  # of each batch size, because a captured graph wants a context that nothing else uses

    def run(self, inputs):
        """{name: tensor} of the graph's inputs, each of its port's dtype and shape -> float32 [B, ...] on the device.

        The work is on torch's current stream.  Raises InputError for other names, dtypes or shapes, and for a batch above the largest.
        """
        batch = self._batch(inputs)
        output = torch.empty(sized(self.shape, batch), dtype=torch.float32, device=self.device)
        # freed on return, while TensorRT may still read them: what torch puts there next is later on the same stream
        dense = {name: tensor.to(self.device).contiguous() for name, tensor in inputs.items()}
        dense = {name: tensor.clone() if tensor.data_ptr() % ALIGNMENT else tensor for name, tensor in dense.items()}
        with self._current_device():
            if batch not in self.contexts:
                self.contexts[batch] = self._context(bisect.bisect_left(self.most, batch))
            context = self.contexts[batch]
            given = [context.set_input_shape(name, tuple(tensor.shape)) for name, tensor in dense.items()]
            given += [context.set_tensor_address(name, tensor.data_ptr()) for name, tensor in dense.items()]
            given += [context.set_tensor_address(self.output, output.data_ptr())]
            if not (all(given) and context.execute_async_v3(self._stream())):
                raise DDGANError(f"{self.path}: {self.name} cannot run a batch of {batch}: {last_words(self.logger.lines)}")
        return output

    def _batch(self, inputs):
        """The batch size of checked inputs."""
        if set(inputs) != set(self.inputs):
            raise InputError(f"{self.path}: given {', '.join(inputs)}; its inputs are {', '.join(self.inputs)}")
        name, port = next(iter(self.inputs.items()))
        first, axis = inputs[name], port["shape"].index(-1)
        batch = first.shape[axis] if first.ndim > axis else 0
        for name, port in self.inputs.items():
            dtype, shape = inputs[name].dtype, list(inputs[name].shape)
            if dtype != getattr(torch, port["dtype"]) or shape != sized(port["shape"], batch):
                right = f"{port['dtype']} {port['shape']}, with one batch size in place of each -1"
                raise InputError(f"{self.path}: input {name} is {dtype} {shape}; right would be {right}")
        if not 1 <= batch <= self.most[-1]:
            remedy = f"take --batch-size {self.most[-1]}, or export with a larger --batch"
            raise InputError(f"{self.path}: a batch of {batch}, and it was built for 1 to {self.most[-1]}: {remedy}")
        return batch

    def _context(self, profile):
        config, trt = self.engine.create_runtime_config(), self.trt
        config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if trt.__name__ == RTX:  # by default it runs slower kernels at first, and a captured graph would keep them
            config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        context = self.engine.create_execution_context(config)
        if context is None or not context.set_optimization_profile_async(profile, self._stream()):
            raise DDGANError(f"{self.path}: {self.name} cannot prepare profile {profile}: {last_words(self.logger.lines)}")
        context.set_device_memory(self.memory.data_ptr(), self.engine.device_memory_size_v2)
        return context

    def _stream(self):
        return torch.cuda.current_stream(self.device).cuda_stream if self.device.type == "cuda" else 0

    def _current_device(self):
        return torch.cuda.device(self.device) if self.device.type == "cuda" else contextlib.nullcontext()


def gpu_here(device=None):
    """{capability, gpu} of a CUDA device, by default the current one."""
    return {"capability": "{}.{}".format(*torch.cuda.get_device_capability(device)), "gpu": torch.cuda.get_device_name(device)}


def _engine_tensors(engine):
    """{name: tensor_facts} of a loaded engine."""

    def tensor(name):
        return tensor_facts(engine.get_tensor_dtype(name), engine.get_tensor_shape(name), engine.get_tensor_mode(name).name.lower())

    return {name: tensor(name) for name in map(engine.get_tensor_name, range(engine.num_io_tensors))}


def _engine_profiles(engine):
    """[[min, opt, max]] of the batch sizes in each profile of a loaded engine whose first tensor is an input, as in ours."""
    name = engine.get_tensor_name(0)
    axis = list(engine.get_tensor_shape(name)).index(-1)
    each = (engine.get_tensor_profile_shape(name, profile) for profile in range(engine.num_optimization_profiles))
    return [[shape[axis] for shape in shapes] for shapes in each]


def tensor_facts(dtype, shape, io):
    """What a manifest says of an input or output of TensorRT's dtype and shape, in which -1 is the batch."""
    return {"dtype": DTYPES.get(dtype.name, dtype.name), "shape": list(shape), "io": io}


def sized(shape, batch):
    """A shape with the batch size in place of -1."""
    return [batch if size == -1 else size for size in shape]


def logger_of(trt):
    """An ILogger that keeps the errors, as `lines`."""

    class Logger(trt.ILogger):
        def __init__(self):
            trt.ILogger.__init__(self)
            self.lines = []

        def log(self, severity, message):
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.lines.append(message.strip())

    return Logger()


def last_words(lines):
    """TensorRT's reason for an error, from the lines of its logger."""
    return "; ".join(lines[-MOST_LINES:]) or "it gives no reason"  # the last say why: without a GPU the first complain of that
