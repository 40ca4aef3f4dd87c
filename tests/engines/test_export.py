"""ONNX graphs of a generator: what is in them, and that runtimes draw the network's images from them."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("onnx", reason="the extra onnx is not installed")
pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
pytest.importorskip("onnxscript", reason="the extra onnx is not installed")

import onnx

from ddgan_fast.engines import onnxruntime, openvino
from ddgan_fast.engines.export import make_graph, write_onnx
from ddgan_fast.engines.onnx_check import OPERATIONS, check_onnx, check_precision
from ddgan_fast.errors import CheckpointError, DDGANError, InputError

CPU = torch.device("cpu")


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


SIGNAL_AFTER = """
import signal, sys, torch
from ddgan_fast.engines.openvino import Session
first, second = (Session(sys.argv[1], torch.device("cpu"), "fp32") for _ in range(2))
first = None
second = None
signal.signal(signal.SIGUSR1, lambda *_: print("received"))
signal.raise_signal(signal.SIGUSR1)
"""


def test_signals_arrive_after_openvino_sessions_went_in_the_order_in_which_they_came(engine):
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    command = [sys.executable, "-c", SIGNAL_AFTER, engine("step") / "model.onnx"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "received\n"), ended.stderr


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


@pytest.mark.parametrize("precision", ["fp16", pytest.param("bf16", marks=pytest.mark.slow)])
def test_half_precision_is_inside_and_norms_are_float32(engine, precision):
    path = engine("step", precision) / "model.onnx"
    check_precision(path, precision)
    operations = {node.op_type for node in onnx.load(path).graph.node}
    assert operations >= {"Conv", "ConvTranspose", "GroupNormalization", "Softmax"}
    with pytest.raises(CheckpointError, match="Conv .* of an export in fp32 has another type"):
        check_precision(path, "fp32")


def test_a_norm_in_half_precision_is_found(engine, tmp_path):
    model = onnx.load(engine("step", "fp16") / "model.onnx")
    norm = next(node for node in model.graph.node if node.op_type == "GroupNormalization")
    cast = next(node for node in model.graph.node if norm.input[0] in node.output)
    assert cast.op_type == "Cast"
    for values in (norm.input, norm.output):
        values[0] += "_half"
    scales = [onnx.helper.make_node("Cast", [name], [f"{name}_half"], to=onnx.TensorProto.FLOAT16) for name in norm.input[1:]]
    norm.input[1:] = [f"{name}_half" for name in norm.input[1:]]
    narrow = onnx.helper.make_node("Cast", [cast.output[0]], [norm.input[0]], to=onnx.TensorProto.FLOAT16)
    wide = onnx.helper.make_node("Cast", [norm.output[0]], [norm.output[0].removesuffix("_half")], to=onnx.TensorProto.FLOAT)
    at = list(model.graph.node).index(norm)
    nodes = [*list(model.graph.node)[:at], narrow, *scales, norm, wide, *list(model.graph.node)[at + 1 :]]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    del model.graph.value_info[:]
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(CheckpointError, match="GroupNormalization .* of an export in fp16 has another type"):
        check_precision(tmp_path / "model.onnx", "fp16")


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


@pytest.mark.parametrize(
    "reason, error",
    [
        ("Status Message: BFCArena: Failed to allocate memory for requested buffer of size 7", torch.OutOfMemoryError),
        ("CUDA failure 2: out of memory ; GPU=0", torch.OutOfMemoryError),
        ("std::bad_alloc", torch.OutOfMemoryError),
        ("Non-zero status code returned while running Conv node", DDGANError),
    ],
)
def test_a_failed_run_of_onnx_runtime_says_what_failed(engine, pipe, reason, error):
    session = onnxruntime.Session(engine("step") / "model.onnx", CPU)

    def fails(binding):
        raise RuntimeError(f"{reason}\nmore")

    session.session = SimpleNamespace(
        io_binding=session.session.io_binding, get_outputs=session.session.get_outputs, run_with_iobinding=fails
    )
    inputs = make_graph(pipe.generator, pipe.schedule, "step").examples(2)
    with pytest.raises(error, match=f"onnxruntime .*{reason.partition(';')[0]}"):
        session.run(inputs)
