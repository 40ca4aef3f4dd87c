"""ONNX graphs of a generator: what is in them, and that runtimes draw the network's images from them."""

import collections
from pathlib import Path

import pytest
import torch

pytest.importorskip("onnx", reason="the extra onnx is not installed")
pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
pytest.importorskip("onnxscript", reason="the extra onnx is not installed")

import onnx

from ddgan_fast.engines import onnxruntime, openvino
from ddgan_fast.engines.export import make_graph, write_onnx
from ddgan_fast.engines.onnx_check import OPERATIONS, check_onnx
from ddgan_fast.errors import InputError

CPU = torch.device("cpu")
HALVES = [pytest.param("fp16", onnx.TensorProto.FLOAT16), pytest.param("bf16", onnx.TensorProto.BFLOAT16, marks=pytest.mark.slow)]


def types_of(model):
    """{name of a value: its element type}."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = {value.name: value.type.tensor_type.elem_type for value in (*inferred.value_info, *inferred.input, *inferred.output)}
    return values | {tensor.name: tensor.data_type for tensor in inferred.initializer}


@pytest.mark.parametrize("target", ["step", "sampler"])
@pytest.mark.parametrize("batch", [1, 2, 5, 100])
def test_onnx_runtime_gives_what_the_network_gives(engine, pipe, target, batch):
    plain = make_graph(pipe.generator, pipe.schedule, target, plain=True)
    session = onnxruntime.Session(engine(target) / "model.onnx", CPU)
    torch.manual_seed(batch)
    inputs = plain.examples(batch)
    with torch.no_grad():
        want = plain.module(**inputs)
    assert want.std() > 0.1
    assert (session.run(inputs) - want).abs().max() < 1e-4


@pytest.mark.parametrize("target", ["step", "sampler"])
def test_every_input_matters(engine, pipe, target):
    graph = make_graph(pipe.generator, pipe.schedule, target)
    session = onnxruntime.Session(engine(target) / "model.onnx", CPU)
    inputs, others = graph.examples(2), graph.examples(2)
    if target == "step":
        inputs["t"], others["t"] = torch.tensor([0, 1]), torch.tensor([2, 3])
    before = session.run(inputs)
    for name, value in others.items():
        assert (session.run(inputs | {name: value}) - before).abs().amax(dim=(1, 2, 3)).min() > 1e-3, name


def test_openvino_gives_what_the_network_gives(engine, pipe):
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    for target in ("step", "sampler"):
        plain = make_graph(pipe.generator, pipe.schedule, target, plain=True)
        session = openvino.Session(engine(target) / "model.onnx", CPU, "fp32")
        for batch in (1, 5):
            inputs = plain.examples(batch)
            with torch.no_grad():
                assert (session.run(inputs) - plain.module(**inputs)).abs().max() < 1e-4


@pytest.mark.parametrize("target", ["step", "sampler"])
def test_the_file_describes_its_ports_and_holds_no_more_than_the_graph(engine, pipe, target):
    path = engine(target) / "model.onnx"
    check_onnx(path)
    model, graph = onnx.load(path), make_graph(pipe.generator, pipe.schedule, target)
    assert {node.op_type for node in model.graph.node} <= OPERATIONS
    for value, port in zip([*model.graph.input, *model.graph.output], [*graph.inputs, graph.output], strict=True):
        shape = tuple(size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim)
        assert (value.name, shape, value.doc_string) == (port.name, port.shape, port.meaning)
    assert str(Path(__file__).parents[2]).encode() not in path.read_bytes(), "a path of this machine is in the file"


def test_steps_of_the_sampler_share_their_weights(engine):
    sizes = [(engine(target) / "model.onnx").stat().st_size for target in ("step", "sampler")]
    weights = [
        sum(len(tensor.raw_data) for tensor in onnx.load(engine(target) / "model.onnx").graph.initializer) for target in ("step", "sampler")
    ]
    assert weights[1] < 1.2 * weights[0], sizes


@pytest.mark.parametrize(("precision", "half"), HALVES)
def test_half_precision_is_inside_and_norms_are_float32(engine, precision, half):
    model = onnx.load(engine("step", precision) / "model.onnx")
    types, seen = types_of(model), collections.Counter()
    for node in model.graph.node:
        kinds = {types[name] for name in node.input[:1]}
        if node.op_type in ("Conv", "ConvTranspose", "GroupNormalization", "Softmax"):
            is_half = node.op_type == "Conv" or (node.op_type == "ConvTranspose" and precision == "fp16")
            assert kinds == {half if is_half else onnx.TensorProto.FLOAT}, node.name
            seen[node.op_type] += 1
    assert min(seen[name] for name in ("Conv", "ConvTranspose", "GroupNormalization", "Softmax")) > 0
    assert {types[value.name] for value in (*model.graph.input, *model.graph.output)} == {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64}


def test_a_variant_of_the_network(make, tmp_path):
    pipe = make(latent=False, tanh=False, centered=False)
    graph = make_graph(pipe.generator, pipe.schedule, "step")
    write_onnx(graph, tmp_path / "model.onnx")
    inputs = graph.examples(3)
    assert "z" not in inputs
    with torch.no_grad():
        want = pipe.generator(*inputs.values())
    assert (onnxruntime.Session(tmp_path / "model.onnx", CPU).run(inputs) - want).abs().max() < 1e-4 * max(1, want.abs().max())


def test_points_are_exported_too(make, tmp_path):
    pipe = make("gaussians25")
    graph = make_graph(pipe.generator, pipe.schedule, "sampler")
    write_onnx(graph, tmp_path / "model.onnx")
    inputs = graph.examples(7)
    with torch.no_grad():
        want = graph.module(**inputs)
    assert (onnxruntime.Session(tmp_path / "model.onnx", CPU).run(inputs) - want).abs().max() < 1e-4 * max(1, want.abs().max())


def test_the_batch_comes_first_for_servers(pipe):
    plain, served = (make_graph(pipe.generator, pipe.schedule, "sampler", batch_first=first) for first in (False, True))
    assert set(served.batch_axes.values()) == {0}
    inputs = plain.examples(3)
    turned = {name: value.transpose(0, 1) if plain.batch_axes[name] else value for name, value in inputs.items()}
    with torch.no_grad():
        assert torch.equal(served.module(**turned), plain.module(**inputs))


def test_wrong_names_are_refused(make, pipe):
    with pytest.raises(InputError, match="target 'loop': there are step, sampler"):
        make_graph(pipe.generator, pipe.schedule, "loop")
    with pytest.raises(InputError, match="precision 'tf32'"):
        make_graph(pipe.generator, pipe.schedule, "step", "tf32")
    points = make("gaussians25")
    with pytest.raises(InputError, match="network for points"):
        make_graph(points.generator, points.schedule, "step", "fp16")
