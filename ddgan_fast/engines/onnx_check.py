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
    except Exception as error:  # protobuf raises several kinds
        raise CheckpointError(f"{path}: cannot be read as ONNX: {error}") from error
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    outside = [tensor.name for tensor in tensors.values() if tensor.data_location == onnx.TensorProto.EXTERNAL]
    foreign = sorted(
        {f"{node.domain}.{node.op_type}".lstrip(".") for node in model.graph.node if node.domain or node.op_type not in OPERATIONS}
    )
    if outside:
        raise CheckpointError(f"{path}: {outside[0]} lies outside the file; an export of ours is one file, and other files are not opened")
    if foreign or model.functions:
        raise CheckpointError(f"{path}: has operations that no export of ours has: {', '.join(foreign) or 'functions of its own'}")
    for node in model.graph.node:
        if node.op_type == "ConstantOfShape":
            shape = tensors.get(node.input[0])
            if shape is None or math.prod(onnx.numpy_helper.to_array(shape).tolist()) > MOST_CONSTANTS:
                text = f"ConstantOfShape {node.name!r} makes a tensor whose size is not known or above {MOST_CONSTANTS:,} elements"
                raise CheckpointError(f"{path}: {text}")
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:  # of onnx, of its shape inference, or ValueError
        raise CheckpointError(f"{path}: refused by onnx.checker: {str(error).strip().splitlines()[0]}") from error
