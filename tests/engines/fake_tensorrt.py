"""The part of TensorRT that runs plans, for tests without a GPU: a "plan" is an ONNX file, ONNX Runtime computes it on CPU memory.

As in the real modules, a name that is not here is an AttributeError. Real checks are kept: a shape outside the context's profile is refused,
a context without a profile or memory does not run, and the memory given has the size that the engine asks for.
"""

import ctypes
from enum import Enum

import numpy as np
import onnx
import onnxruntime

__version__ = "11.4.0.106"
RANGES = [[1, 1, 1], [2, 2, 2], [3, 5, 5]]  # of the batch sizes in each profile
MEMORY = 4096
used = []  # (profile, batch) of each execution


class DataType(Enum):
    FLOAT = np.float32
    INT64 = np.int64


TensorIOMode = Enum("TensorIOMode", "NONE INPUT OUTPUT")
ExecutionContextAllocationStrategy = Enum("ExecutionContextAllocationStrategy", "STATIC ON_PROFILE_CHANGE USER_MANAGED")


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING = range(3)


class Runtime:
    def __init__(self, logger):
        self.logger, self.engine_host_code_allowed = logger, False

    def deserialize_cuda_engine(self, data):
        try:
            return Engine(data)
        except Exception as error:
            self.logger.log(ILogger.WARNING, "a warning")
            self.logger.log(ILogger.ERROR, f"magic tag does not match: {type(error).__name__}")
            return None


class Engine:
    device_memory_size_v2 = MEMORY
    num_optimization_profiles = len(RANGES)

    def __init__(self, data):
        graph = onnx.load_model_from_string(data).graph
        self.values = {value.name: value.type.tensor_type for value in (*graph.input, *graph.output)}
        self.outputs = {value.name for value in graph.output}
        self.num_io_tensors = len(self.values)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    def get_tensor_name(self, index):
        return list(self.values)[index]

    def get_tensor_mode(self, name):
        return TensorIOMode.OUTPUT if name in self.outputs else TensorIOMode.INPUT

    def get_tensor_dtype(self, name):
        return DataType(onnx.helper.tensor_dtype_to_np_dtype(self.values[name].elem_type).type)

    def get_tensor_shape(self, name):
        return tuple(-1 if size.dim_param else size.dim_value for size in self.values[name].shape.dim)

    def get_tensor_profile_shape(self, name, profile):
        return [tuple(size if axis == -1 else axis for axis in self.get_tensor_shape(name)) for size in RANGES[profile]]

    def create_runtime_config(self):
        return RuntimeConfig()

    def create_execution_context(self, config):
        assert config.strategy == ExecutionContextAllocationStrategy.USER_MANAGED
        return Context(self)


class RuntimeConfig:
    __slots__ = ("strategy",)  # another attribute is an AttributeError

    def set_execution_context_allocation_strategy(self, strategy):
        self.strategy = strategy


class Context:
    def __init__(self, engine):
        self.engine, self.profile, self.memory = engine, None, 0
        self.shapes, self.addresses = {}, {}

    def set_optimization_profile_async(self, profile, stream):
        self.profile = profile
        return stream == 0

    def set_device_memory(self, memory, size):
        assert size == MEMORY
        self.memory = memory

    def set_input_shape(self, name, shape):
        least, _, most = RANGES[self.profile]
        expected = self.engine.get_tensor_shape(name)
        self.shapes[name] = shape
        return all(least <= got <= most if size == -1 else got == size for size, got in zip(expected, shape, strict=True))

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return address != 0

    def execute_async_v3(self, stream):
        batch = {shape[self.engine.get_tensor_shape(name).index(-1)] for name, shape in self.shapes.items()}
        if not self.memory or len(batch) != 1 or stream != 0:
            return False
        used.append((self.profile, *batch))
        (output,) = self.engine.outputs
        [result] = self.engine.session.run(None, {name: self.array(name, shape).copy() for name, shape in self.shapes.items()})
        self.array(output, result.shape)[...] = result
        return True

    def array(self, name, shape):
        """The memory at the address of a tensor."""
        dtype = np.dtype(self.engine.get_tensor_dtype(name).value)
        raw = (ctypes.c_byte * (int(np.prod(shape)) * dtype.itemsize)).from_address(self.addresses[name])
        return np.frombuffer(raw, dtype).reshape(shape)
