"""TensorRT plans: built for real by TensorRT-RTX, which needs no GPU; run on a runtime that computes with ONNX Runtime."""

import ast
import importlib.util
import json
import multiprocessing
import re
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ddgan_fast.engines import tensorrt, tensorrt_build
from ddgan_fast.engines.export import make_graph, write_onnx
from ddgan_fast.engines.tensorrt import Plan, library, refuses
from ddgan_fast.engines.tensorrt_build import build_plan, profiles, trtexec_command
from ddgan_fast.errors import CheckpointError, DDGANError, InputError, MissingError

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
_spec = importlib.util.spec_from_file_location("fake_tensorrt", Path(__file__).with_name("fake_tensorrt.py"))
fake = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fake)

CPU, BATCHES = torch.device("cpu"), (1, 2, 5)
needs_rtx = pytest.mark.skipif(not importlib.util.find_spec("tensorrt_rtx"), reason="tensorrt_rtx is not installed")
FACTS = {"library": "tensorrt", "version": fake.__version__, "capability": "9.0", "gpu": "NVIDIA H200", "profiles": fake.RANGES}


def tensors_of(graph):
    """What the facts of a plan say of its tensors."""

    def tensor(port):
        shape = [-1 if size == "batch" else size for size in port.shape]
        return {"dtype": port.dtype, "shape": shape, "io": "output" if port is graph.output else "input"}

    return {port.name: tensor(port) for port in (*graph.inputs, graph.output)}


@pytest.fixture
def exported(graphs, engine):
    """exported(target) -> (Graph of preset tiny, path of its ONNX)."""
    return lambda target: (graphs[target], engine(target) / "model.onnx")


@pytest.fixture
def plan(exported):
    """plan(target) -> (Plan on the fake runtime, its Graph)."""

    def load(target, **changed):
        graph, path = exported(target)
        return Plan(path, FACTS | {"tensors": tensors_of(graph)} | changed, CPU, fake), graph

    return load


def test_profiles_cover_each_batch_size():
    assert profiles((1, 16, 100)) == [(1, 1, 1), (2, 16, 16), (17, 100, 100)]
    assert profiles([100, 16, 16]) == [(1, 16, 16), (17, 100, 100)]
    assert profiles([4]) == [(1, 4, 4)]


@pytest.mark.parametrize("batches", [(), (0, 1), (-1,), (1.5,), ("2",), (5000,)])
def test_bad_batches_are_refused(batches):
    with pytest.raises(InputError, match="whole numbers from 1 to 4096"):
        profiles(batches)


def test_trtexec_has_a_profile_for_each_batch_size():
    command = trtexec_command("model.onnx", "model.plan", {"x_T": [-1, 3, 8, 8], "z": [4, -1, 16]}, (1, 16))
    assert command == (
        "trtexec --onnx=model.onnx --saveEngine=model.plan --noTF32"
        " --profile=0 --minShapes=x_T:1x3x8x8,z:4x1x16 --optShapes=x_T:1x3x8x8,z:4x1x16 --maxShapes=x_T:1x3x8x8,z:4x1x16"
        " --profile=1 --minShapes=x_T:2x3x8x8,z:4x2x16 --optShapes=x_T:16x3x8x8,z:4x16x16 --maxShapes=x_T:16x3x8x8,z:4x16x16"
    )


@pytest.mark.parametrize("target", ["step", "sampler"])
def test_a_plan_equals_its_graph(target, plan, assert_runs):
    loaded, graph = plan(target)
    fake.used.clear()
    assert_runs(loaded.run, graph, (1, 2, 5, 3))
    assert fake.used == [(0, 1), (1, 2), (2, 5), (2, 3)]


def test_views_whose_address_tensorrt_would_refuse_are_copied(plan):
    loaded, graph = plan("step")
    inputs = graph.examples(2)
    shifted = {name: torch.cat([tensor[:1], tensor])[1:] for name, tensor in inputs.items()}
    assert shifted["t"].data_ptr() % tensorrt.ALIGNMENT
    got = loaded.run(shifted)
    assert loaded.contexts[2].addresses["t"] != shifted["t"].data_ptr()
    assert torch.equal(got, loaded.run(inputs))


def test_wrong_inputs_are_refused(plan):
    loaded, graph = plan("step")
    inputs = graph.examples(2)
    refused = [
        (graph.examples(6), "a batch of 6, and it was built for 1 to 5: take --batch-size 5, or export with a larger --batch"),
        (graph.examples(0), "a batch of 0, and it was built for 1 to 5"),
        (inputs | {"t": inputs["t"].int()}, "input t is torch.int32 [2]; right would be int64 [-1]"),
        (inputs | {"x_t": inputs["x_t"].half()}, "input x_t is torch.float16"),
        (inputs | {"z": torch.zeros(3, 4)}, "input z is torch.float32 [3, 4]"),
        (inputs | {"x_t": torch.tensor(0.0)}, "input x_t is torch.float32 []"),
        ({name: inputs[name] for name in ("x_t", "t")}, "given x_t, t; its inputs are x_t, t, z"),
    ]
    for given, words in refused:
        with pytest.raises(InputError, match=re.escape(words)):
            loaded.run(given)


def test_a_failed_run_says_so(plan, monkeypatch):
    loaded, graph = plan("step")
    monkeypatch.setattr(fake.Context, "execute_async_v3", lambda self, stream: False)
    with pytest.raises(DDGANError, match=r"tensorrt.* cannot run a batch of 2: it gives no reason"):
        loaded.run(graph.examples(2))


def test_a_plan_that_is_not_the_one_of_its_manifest(plan, tmp_path):
    other = {name: {"dtype": "float32", "shape": [-1], "io": name} for name in ("input", "output")}
    wide = [[1, 1, 1], [2, 2, 2], [3, 5, 9]]
    for wrong in ({"tensors": other}, {"tensors": None}, {"profiles": wide}, {"profiles": [[1, 1, 1]]}, {"profiles": {}}):
        with pytest.raises(CheckpointError, match="other inputs, outputs or profiles than its manifest says"):
            plan("step", **wrong)
    (tmp_path / "model.plan").write_bytes(b"not a plan")
    with pytest.raises(CheckpointError, match=r"model.plan: .* cannot load it: magic tag does not match"):
        Plan(tmp_path / "model.plan", FACTS, CPU, fake)


@pytest.fixture
def installed(monkeypatch):
    """installed(name=version, ...): only these libraries can be imported."""

    def only(**versions):
        for name in tensorrt.LIBRARIES:
            module = SimpleNamespace(__name__=name, __version__=versions[name]) if name in versions else None
            monkeypatch.setitem(sys.modules, name, module)

    return only


@pytest.fixture
def gpu(monkeypatch):
    """gpu(name, capability): torch finds this one."""

    def present(name, capability):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: name)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)

    return present


def test_the_library(installed):
    installed(tensorrt="11.4.0", tensorrt_rtx="1.7.1")
    assert library().__name__ == "tensorrt"
    installed(tensorrt="10.9.0", tensorrt_rtx="1.7.1")
    assert library().__name__ == "tensorrt_rtx"
    installed(tensorrt="10.9.0")
    with pytest.raises(MissingError, match=r'"ddgan_fast\[tensorrt\]" \(tensorrt 10.9.0 is here, and 11 is needed\) or .*\[tensorrt-rtx\]'):
        library()


def test_a_plan_runs_on_its_gpu_and_version(installed, gpu):
    installed(tensorrt="11.4.0.106", tensorrt_rtx="1.7.1")
    gpu("NVIDIA H200", (9, 0))
    assert refuses(FACTS, torch.device("cuda")) is None
    assert "runs on a CUDA device, not on cpu" in refuses(FACTS, CPU)
    words = "the plan was built for NVIDIA H200 with tensorrt 11.3.0, and here is tensorrt 11.4.0.106; export it again on this machine: ddgan export"
    assert refuses(FACTS | {"version": "11.3.0"}, torch.device("cuda")).startswith(words)
    assert "and here is NVIDIA H200, compute" in refuses(FACTS | {"gpu": "NVIDIA L4", "capability": "8.9"}, torch.device("cuda"))
    assert "and here is NVIDIA H200, compute" in refuses(FACTS | {"gpu": "NVIDIA H100"}, torch.device("cuda"))
    assert "built for compute capability None with None None" in refuses({}, torch.device("cuda"))
    gpu("NVIDIA L4", (8, 9))
    of_rtx = FACTS | {"library": "tensorrt_rtx", "version": "1.7.1", "capability": "8.9", "gpu": None}
    assert refuses(of_rtx, torch.device("cuda")) is None, "on each GPU of its capability"
    assert "compute capability 8.9" in refuses(of_rtx | {"capability": "12.0"}, torch.device("cuda"))
    installed(tensorrt="11.4.0.106")
    assert 'pip install "ddgan_fast[tensorrt-rtx]"' in refuses(of_rtx, torch.device("cuda"))


def test_a_build_without_its_gpu(installed, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    installed(tensorrt="11.4.0")
    with pytest.raises(MissingError, match="tensorrt 11.4.0 builds for this machine's GPU, and torch finds none; TensorRT-RTX takes"):
        build_plan(tmp_path / "model.onnx", tmp_path / "model.plan", (1,))
    with pytest.raises(MissingError, match=r"ddgan_fast\[tensorrt-rtx\]"):
        build_plan(tmp_path / "model.onnx", tmp_path / "model.plan", (1,), "8.9")


def test_importing_the_module_imports_no_library():
    code = "import sys, ddgan_fast.engines.tensorrt_build; print(sorted({'tensorrt', 'tensorrt_rtx'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


OBJECTS = "trt", "builder", "network", "parser", "error", "config", "profile", "plan", "cache", "engine", "context", "runtime", "value"
OF_RTX = {
    "ComputeCapability", "num_compute_capabilities", "set_compute_capability", "REQUIRE_USER_ALLOCATION",
    "dynamic_shapes_kernel_specialization_strategy", "DynamicShapesKernelSpecializationStrategy", "EAGER",
}  # fmt: skip


def names_of_the_api():
    """The attributes that the modules ask of TensorRT's module and objects."""
    names = set()
    trees = [ast.parse(Path(module.__file__).read_text()) for module in (tensorrt, tensorrt_build)]
    for node in (node for tree in trees for node in ast.walk(tree)):
        base = node.value if isinstance(node, ast.Attribute) else None
        while isinstance(base, ast.Attribute | ast.Call) and getattr(base, "attr", None) not in OBJECTS:
            base = base.value if isinstance(base, ast.Attribute) else base.func
        if getattr(base, "id", getattr(base, "attr", None)) in OBJECTS and not node.attr.startswith("__"):
            names.add(node.attr)
    return names


@pytest.mark.parametrize("bindings", ["tensorrt_bindings", "tensorrt_rtx_bindings"])
def test_each_name_of_the_api_is_in_the_real_bindings(bindings):
    """Of full TensorRT 11 only the bindings are on PyPI, without the library that they load: the names are read from the file."""
    found = importlib.util.find_spec(bindings)
    if found is None:
        pytest.skip(f"{bindings} is not installed")
    text = next(Path(found.origin).parent.glob("tensorrt*.so")).read_bytes()
    names = names_of_the_api()
    assert {"Builder", "execute_async_v3", "set_device_memory", "deserialize_cuda_engine", "desc", "nbytes"} | OF_RTX <= names
    of_text = {"lower", "partition"}
    missing = {name for name in names - of_text if name.encode() + b"\0" not in text}  # a linker may keep it as the end of a longer name
    assert missing == (OF_RTX if bindings == "tensorrt_bindings" else set())


def build_in_child(*arguments, **options):
    """build_plan in a process of its own: a test worker that has loaded many native libraries does not load this one too."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(build_plan, *arguments, **options).result()


@needs_rtx
def test_a_file_that_is_no_onnx(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"not an ONNX file")
    with pytest.raises(CheckpointError, match=r"(?s)model.onnx: TensorRT cannot parse it: .*polygraphy run model.onnx --onnxrt --trt"):
        build_in_child(tmp_path / "model.onnx", tmp_path / "model.plan", BATCHES, "8.9")
    assert not (tmp_path / "model.plan").exists()


@needs_rtx
def test_a_graph_that_is_none_of_ours(tmp_path):
    onnx = pytest.importorskip("onnx")
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, 3]) for name in ("x", "y")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Tanh", ["x"], ["y"])], "fixed", values[:1], values[1:])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10), tmp_path / "model.onnx")
    with pytest.raises(CheckpointError, match=r"1 layers, input x float32 \[2, 3\]; output y .*one free size"):
        build_in_child(tmp_path / "model.onnx", tmp_path / "model.plan", BATCHES, "8.9")


@needs_rtx
def test_capabilities_that_rtx_does_not_build_for(tmp_path):
    for capability in ("9.0", "fast", "89"):
        with pytest.raises(InputError, match=rf"compute capability '{capability}': tensorrt_rtx .* builds for .*8.0, 8.6, 8.9, 12.0"):
            build_in_child(tmp_path / "model.onnx", tmp_path / "model.plan", BATCHES, capability)


def check_build(graph, path, folder, capability, **options):
    facts = build_in_child(path, folder / "model.plan", BATCHES, capability, **options)
    assert json.loads(json.dumps(facts)) == facts
    assert (facts["library"], facts["capability"], facts["gpu"]) == ("tensorrt_rtx", capability, None)
    assert facts["tensors"] == tensors_of(graph)
    assert facts["profiles"] == fake.RANGES
    assert facts["layers"] > 100
    assert facts["engine_bytes"] == (folder / "model.plan").stat().st_size > 100_000
    assert "trtexec --onnx" in facts["notes"][0]


@needs_rtx
def test_rtx_builds_a_step(exported, tmp_path):
    timings = tmp_path / "timings"
    timings.write_bytes(b"of another library")
    check_build(*exported("step"), tmp_path, "8.9", timing_cache=timings)
    assert timings.read_bytes() != b"of another library"


@needs_rtx
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("capability", ["8.0", "8.6", "8.9", "12.0"])
@pytest.mark.parametrize("target", ["step", "sampler"])
def test_rtx_builds_for_each_capability(target, capability, exported, tmp_path):
    check_build(*exported(target), tmp_path, capability)


@needs_rtx
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("precision, name", [("fp16", "tiny"), ("bf16", "tiny"), ("fp32", "cifar10")])
def test_rtx_builds_a_step_of(precision, name, make, tmp_path):
    pipe = make(name)
    graph = make_graph(pipe.generator, pipe.schedule, "step", precision)
    write_onnx(graph, tmp_path / "model.onnx")
    check_build(graph, tmp_path / "model.onnx", tmp_path, "8.9")
