"""ONNX files that no runtime may see (design: faults 22)."""

import random

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")

from ddgan_fast.engines.onnx_check import check_onnx
from ddgan_fast.errors import CheckpointError, DDGANError


def save(path, nodes, tensors=(), outputs="y"):
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [value("x", onnx.TensorProto.FLOAT, ["batch", 4])],
        [value(outputs, onnx.TensorProto.FLOAT, ["batch", 4])],
        list(tensors),
    )
    path.write_bytes(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10).SerializeToString())
    return path


def test_a_good_one_passes(tmp_path):
    check_onnx(save(tmp_path / "m.onnx", [onnx.helper.make_node("Add", ["x", "x"], ["y"])]))


def test_weights_outside_the_file(tmp_path):
    tensor = onnx.numpy_helper.from_array(np.ones(4, np.float32), "w")
    onnx.external_data_helper.set_external_data(tensor, "../../secret")
    tensor.ClearField("raw_data")
    path = save(tmp_path / "m.onnx", [onnx.helper.make_node("Add", ["x", "w"], ["y"])], [tensor])
    with pytest.raises(CheckpointError, match="w lies outside the file"):
        check_onnx(path)


def test_a_constant_outside_the_file(tmp_path):
    tensor = onnx.numpy_helper.from_array(np.ones(4, np.float32), "w")
    onnx.external_data_helper.set_external_data(tensor, "secret.bin")
    tensor.ClearField("raw_data")
    (tmp_path / "secret.bin").write_bytes(bytes(16))
    nodes = [onnx.helper.make_node("Constant", [], ["c"], value=tensor), onnx.helper.make_node("Add", ["x", "c"], ["y"])]
    with pytest.raises(CheckpointError, match="w lies outside the file"):
        check_onnx(save(tmp_path / "m.onnx", nodes))


@pytest.mark.parametrize("inputs", [[], ["scalar"], ["broken"]], ids=str)
def test_a_constant_of_no_shape(tmp_path, inputs):
    scalar = onnx.numpy_helper.from_array(np.array(4), "scalar")
    broken = onnx.numpy_helper.from_array(np.array([4]), "broken")
    broken.raw_data = b"abc"
    path = save(tmp_path / "m.onnx", [onnx.helper.make_node("ConstantOfShape", inputs, ["y"])], [scalar, broken])
    with pytest.raises(CheckpointError):
        check_onnx(path)


def test_a_cycle(tmp_path):
    nodes = [onnx.helper.make_node("Add", ["x", "b"], ["a"]), onnx.helper.make_node("Add", ["a", "x"], ["b"])]
    with pytest.raises(CheckpointError, match="refused by onnx.checker"):
        check_onnx(save(tmp_path / "m.onnx", nodes, outputs="b"))


@pytest.mark.parametrize("size", [2**21, None])
def test_a_huge_constant(tmp_path, size):
    tensors = [] if size is None else [onnx.numpy_helper.from_array(np.array([size]), "n")]
    nodes = [] if size else [onnx.helper.make_node("Shape", ["x"], ["n"])]
    path = save(tmp_path / "m.onnx", [*nodes, onnx.helper.make_node("ConstantOfShape", ["n"], ["y"])], tensors)
    with pytest.raises(CheckpointError, match="ConstantOfShape '' makes a tensor"):
        check_onnx(path)


@pytest.mark.parametrize(("operation", "domain"), [("RandomNormal", ""), ("If", ""), ("Attention", "com.microsoft"), ("Add", "evil")])
def test_operations_that_no_export_has(tmp_path, operation, domain):
    path = save(tmp_path / "m.onnx", [onnx.helper.make_node(operation, ["x"], ["y"], domain=domain)])
    with pytest.raises(CheckpointError, match=f"no export of ours has: .*{operation}"):
        check_onnx(path)


def test_no_onnx_at_all(tmp_path):
    for content in (b"", b"not an ONNX file" * 10):
        (tmp_path / "m.onnx").write_bytes(content)
        with pytest.raises(CheckpointError):
            check_onnx(tmp_path / "m.onnx")


def test_mutated_files_raise_our_errors_alone(engine, tmp_path):
    whole, draw = (engine("step") / "model.onnx").read_bytes(), random.Random(0)
    refused = 0
    for _ in range(50):
        content = bytearray(whole)
        for _ in range(draw.choice((1, 4, 32))):
            content[draw.randrange(len(content))] = draw.randrange(256)
        (tmp_path / "m.onnx").write_bytes(content[: draw.choice((len(content), draw.randrange(len(content))))])
        try:
            check_onnx(tmp_path / "m.onnx")
        except DDGANError:
            refused += 1
    assert refused > 10
