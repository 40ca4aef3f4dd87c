"""The repository is what Triton's published schema of a model's configuration accepts, and its client sends what it declares."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from ddgan_fast.config import preset
from ddgan_fast.diffusion import Schedule
from ddgan_fast.engines.export import make_graph
from ddgan_fast.engines.triton_repo import write_repository
from ddgan_fast.errors import InputError
from ddgan_fast.models import build_generator

PLATFORMS = [("onnx", "onnxruntime", "model.onnx"), ("tensorrt", "tensorrt", "model.plan")]


@pytest.fixture(scope="module")
def graphs(pipe):
    """{target: Graph} of preset tiny, as a server takes it."""
    return {target: make_graph(pipe.generator, pipe.schedule, target, batch_first=True) for target in ("step", "sampler")}


@pytest.fixture(scope="module")
def schema():
    """The module of Triton's protobuf messages, from the file in tritonclient: its package wants grpc."""
    pytest.importorskip("google.protobuf")
    client = importlib.util.find_spec("tritonclient")
    if client is None:
        pytest.skip("tritonclient is not installed")
    path = Path(client.submodule_search_locations[0]) / "grpc/model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def model_file(tmp_path):
    path = tmp_path / "built"
    path.write_bytes(b"the model")
    return path


def read(schema, folder, name="tiny"):
    """The ModelConfig in a repository."""
    from google.protobuf import text_format

    return text_format.Parse((folder / "models" / name / "config.pbtxt").read_text(), schema.ModelConfig())


def tensors(schema, ports):
    return {port.name: (schema.DataType.Name(port.data_type), list(port.dims), port.HasField("reshape")) for port in ports}


@pytest.mark.parametrize("platform, backend, file", PLATFORMS)
@pytest.mark.parametrize("target", ["step", "sampler"])
def test_triton_reads_the_configuration(target, platform, backend, file, graphs, schema, model_file, tmp_path):
    write_repository(tmp_path / "out", "tiny", graphs[target], model_file, (1, 16, 100), platform)
    assert (tmp_path / "out/models/tiny/1" / file).read_bytes() == b"the model"
    config = read(schema, tmp_path / "out")
    assert (config.name, config.backend, config.max_batch_size) == ("tiny", backend, 100)
    assert list(config.dynamic_batching.preferred_batch_size) == [16, 100]
    assert config.dynamic_batching.max_queue_delay_microseconds == 1000
    [group] = config.instance_group
    kind = group.KIND_GPU if platform == "tensorrt" else group.KIND_AUTO
    assert (group.count, group.kind) == (1, kind)
    image = ("TYPE_FP32", [1, 8, 8], False)
    if target == "step":
        assert tensors(schema, config.input) == {"x_t": image, "t": ("TYPE_INT64", [1], True), "z": ("TYPE_FP32", [4], False)}
        assert list(config.input[1].reshape.shape) == []
        assert tensors(schema, config.output) == {"x0": image}
    else:
        noise = ("TYPE_FP32", [4, 1, 8, 8], False)
        assert tensors(schema, config.input) == {"x_T": image, "z": ("TYPE_FP32", [4, 4], False), "noise": noise}
        assert tensors(schema, config.output) == {"image": image}


def test_a_single_image_has_no_preferred_size(graphs, schema, model_file, tmp_path):
    write_repository(tmp_path / "out", "tiny", graphs["step"], model_file, (1,), "onnx")
    config = read(schema, tmp_path / "out")
    assert config.max_batch_size == 1 and not config.dynamic_batching.preferred_batch_size


@pytest.mark.parametrize("platform", ["onnx", "tensorrt"])
@pytest.mark.parametrize("target", ["step", "sampler"])
def test_the_readme(target, platform, graphs, model_file, tmp_path):
    write_repository(tmp_path / "out", "tiny", graphs[target], model_file, (1, 4), platform)
    text = (tmp_path / "out/README.md").read_text()
    for port in (*graphs[target].inputs, graphs[target].output):
        assert f"| `{port.name}` | {port.dtype} |" in text and port.meaning in text
    serves = re.findall(r"```bash\n(docker run .*?)\n```", text, re.DOTALL)
    assert ["--gpus all" in line for line in serves] == ([True, False] if platform == "onnx" else [True])
    assert all("tritonserver --model-repository=/models" in line for line in serves)


@pytest.mark.parametrize("target", ["step", "sampler"])
def test_the_client_sends_what_the_configuration_declares(target, graphs, schema, model_file, tmp_path, monkeypatch):
    write_repository(tmp_path / "out", "tiny", graphs[target], model_file, (1, 4), "onnx")
    [source] = re.findall(r"```python\n(.*?)```", (tmp_path / "out/README.md").read_text(), re.DOTALL)
    sent, asked = {}, []

    class InferInput:
        def __init__(self, name, shape, datatype):
            sent[name] = (f"TYPE_{datatype}", shape)
            self.shape, self.datatype = shape, datatype

        def set_data_from_numpy(self, array):
            assert list(array.shape) == self.shape and array.dtype.name == {"FP32": "float32", "INT64": "int64"}[self.datatype]
            self.array = array

    class InferenceServerClient:
        def __init__(self, url):
            assert url == "localhost:8000"

        def infer(self, name, inputs):
            asked.append(name)
            self.answer = inputs[0].array
            return self

        def as_numpy(self, name):
            asked.append(name)
            return self.answer

    http = ModuleType("tritonclient.http")
    http.InferInput, http.InferenceServerClient = InferInput, InferenceServerClient
    monkeypatch.setitem(sys.modules, "tritonclient", package := ModuleType("tritonclient"))
    package.http = http
    monkeypatch.setitem(sys.modules, "tritonclient.http", http)
    exec(compile(source, "README.md", "exec"), {})
    config = read(schema, tmp_path / "out")
    assert asked == ["tiny", config.output[0].name]
    assert sent == {port.name: (schema.DataType.Name(port.data_type), [1, *port.dims]) for port in config.input}


def test_refusals(graphs, model_file, tmp_path):
    config = preset("tiny")
    not_first = make_graph(build_generator(config.model).eval(), Schedule(config.diffusion.steps), "sampler")
    for name, graph, platform, words in [
        ("tiny", not_first, "onnx", r"z is \[4, 'batch', 4\]: .* take batch_first=True"),
        ("tiny", graphs["step"], "openvino", "platform 'openvino': a Triton repository holds onnx or tensorrt"),
        ("../tiny", graphs["step"], "onnx", "model name '../tiny'"),
        ('tiny"', graphs["step"], "onnx", "model name"),
        ("", graphs["step"], "onnx", "model name ''"),
    ]:
        with pytest.raises(InputError, match=words):
            write_repository(tmp_path / "out", name, graph, model_file, (1, 4), platform)
    assert not (tmp_path / "out").exists()
