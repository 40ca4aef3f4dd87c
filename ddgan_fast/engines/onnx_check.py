"""What an ONNX file must be before a runtime sees it: one file, acyclic, of the operations that our exports have."""

import math

from ddgan_fast.engines.export import require
from ddgan_fast.errors import CheckpointError

# TensorRT and OpenVINO have them all, and none draws random numbers or branches
NAMES = """
    Add Cast Concat Constant ConstantOfShape Conv ConvTranspose Cos Div Expand Gather GatherND Gemm GroupNormalization Identity LeakyRelu
    MatMul Mul Neg Pad Pow Reciprocal ReduceMean Reshape Shape Sigmoid Sin Slice Softmax Split Sqrt Squeeze Sub Tanh Transpose Unsqueeze
"""
OPERATIONS = frozenset(NAMES.split())
MOST_CONSTANTS = 1 << 20  # elements that a ConstantOfShape may make


def check_onnx(path):
    """Raise CheckpointError unless `path` is one ONNX file that passes onnx.checker, with OPERATIONS alone and small constants."""
    onnx = require("onnx", "onnx")
    try:
        model = onnx.load(path, load_external_data=False)
        _check_contents(onnx, path, model)
        onnx.checker.check_model(str(path), full_check=True)
    except CheckpointError:
        raise
    except Exception as error:  # protobuf, onnx and its shape inference raise several kinds
        raise CheckpointError(f"{path}: refused by onnx.checker: {(str(error).strip() or type(error).__name__).splitlines()[0]}") from error


def _check_contents(onnx, path, model):
    if outside := [tensor.name for tensor in _tensors(model.graph) if tensor.data_location == onnx.TensorProto.EXTERNAL]:
        raise CheckpointError(f"{path}: {outside[0]} lies outside the file; an export of ours is one file, and others are not opened")
    foreign = {node.op_type for node in model.graph.node if node.domain or node.op_type not in OPERATIONS}
    if foreign or model.functions or model.graph.sparse_initializer:
        text = ", ".join(sorted(foreign)) or "functions or sparse weights"
        raise CheckpointError(f"{path}: has operations that no export of ours has: {text}")
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "ConstantOfShape":
            shape = constants.get(node.input[0])
            if shape is None or math.prod(onnx.numpy_helper.to_array(shape).flat) > MOST_CONSTANTS:
                text = f"ConstantOfShape {node.name!r} makes a tensor whose size is not known or above {MOST_CONSTANTS:,} elements"
                raise CheckpointError(f"{path}: {text}")


def check_precision(path, precision):
    """Raise CheckpointError unless convolutions of an export have the type of its precision, norms, softmax, inputs and outputs float32.

    Upsampling in bfloat16 is float32, as ops.fir has it.
    """
    onnx = require("onnx", "onnx")
    graph = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input, *graph.output)}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    whole = onnx.TensorProto.FLOAT
    inner = {"fp32": whole, "fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}[precision]
    wanted = {"Conv": inner, "ConvTranspose": whole if precision == "bf16" else inner, "GroupNormalization": whole, "Softmax": whole}
    for node in graph.node:
        if types[node.input[0]] != wanted.get(node.op_type, types[node.input[0]]):
            raise CheckpointError(f"{path}: {node.op_type} {node.name!r} of an export in {precision} has another type than it should have")
    if {types[value.name] for value in (*graph.input, *graph.output)} - {whole, onnx.TensorProto.INT64}:
        raise CheckpointError(f"{path}: inputs and outputs of an export are float32, t int64")


def _tensors(graph):
    """The weights of a graph, and those in attributes of its nodes."""
    yield from graph.initializer
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        yield from (attribute.t, *attribute.tensors)
