"""Engines by their folders: the same images as the network, and what happens to a folder that is not what ddgan export wrote."""

import json
import shutil
import sys
import types

import numpy as np
import pytest
import torch

for needed in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(needed, reason="the extra onnx is not installed")

from ddgan_fast import DDGANPipeline
from ddgan_fast.cli import main
from ddgan_fast.engines import aot, building, opening, tensorrt, torch_tensorrt, verify
from ddgan_fast.engines.manifest import read_engine
from ddgan_fast.environment import collect
from ddgan_fast.errors import CheckpointError, InputError, MissingError
from ddgan_fast.sampling.engine import sampler_of
from ddgan_fast.sampling.generate import Sampler, WholeSampler
from ddgan_fast.sampling.graph import GraphSampler

IMAGES, SPEED = {"count": 0, "max_error": 0.0, "psnr": 200.0, "levels": 0.0}, {"batch": 1, "plain_ms": 1.0, "engine_ms": 1.0}


def draw(model, **engine):
    pipe = DDGANPipeline.from_pretrained(model)
    return lambda **arguments: pipe.compile(**engine)(output_type="uint8", **arguments).images


@pytest.fixture
def copied(engine, tmp_path):
    """A copy of the sampler's engine, to be damaged."""
    return shutil.copytree(engine("sampler"), tmp_path / "engine")


@pytest.fixture
def no_export(engine, monkeypatch):
    """`write_onnx` copies what was exported before: an export takes many seconds."""
    monkeypatch.setattr(building, "write_onnx", lambda graph, path: shutil.copy(engine(graph.target) / "model.onnx", path))


@pytest.mark.parametrize("target", ["step", "sampler"])
@pytest.mark.parametrize("name", ["auto", "onnx", "openvino"])
def test_an_engine_draws_the_networks_images(engine, model, target, name):
    if name == "openvino":
        pytest.importorskip("openvino", reason="the extra openvino is not installed")
    want = draw(model)(num_images=16)
    got = draw(model, engine=name, engine_file=engine(target))(num_images=16)
    assert want.std() > 20
    assert np.abs(got.astype(int) - want.astype(int)).max() <= 1


@pytest.mark.parametrize("target", ["step", "sampler"])
def test_an_image_depends_on_its_seed_alone(engine, model, target):
    run = draw(model, engine_file=engine(target))
    want = run(seeds=range(100), batch_size=100)
    for size in (1, 2, 5):
        assert np.array_equal(run(seeds=range(7), batch_size=size), want[:7])


def test_noise_that_is_given_is_used(engine, pipe, model):
    got = DDGANPipeline.from_pretrained(model).compile(engine_file=engine("sampler"))
    want = DDGANPipeline.from_pretrained(model)
    images = [p(num_images=3, generator=torch.Generator().manual_seed(5), output_type="pt").images for p in (got, want)]
    assert (images[0] - images[1]).abs().max() < 1e-4


def test_export_and_sample_from_the_command_line(engine, model, tmp_path, capsys, no_export):
    out, words = tmp_path / "engine", ["--num-images", "16", "--format", "npz", "--out"]
    assert main(["export", "--model", str(model), "--format", "onnx", "--out", str(out), "--batch", "1,3"]) == 0
    printed = capsys.readouterr().out
    assert "16 sampled images: largest error" in printed and "batch    3" in printed
    assert main(["sample", "--model", str(model), "--engine-file", str(out), *words, str(tmp_path / "a.npz")]) == 0
    assert main(["sample", "--model", str(model), *words, str(tmp_path / "b.npz")]) == 0
    a, b = (np.load(tmp_path / name)["images"].astype(int) for name in ("a.npz", "b.npz"))
    assert a.shape == (16, 8, 8, 1) and np.abs(a - b).max() <= 1
    found = json.loads((out / "manifest.json").read_text())
    assert set(found["verification"]["random_inputs"]) == {"1", "2", "3"}


def test_an_engine_that_draws_something_else_is_not_written(model, tmp_path, capsys, monkeypatch, no_export):
    monkeypatch.setattr(verify, "LARGEST_ERROR", 1e-12)
    out = tmp_path / "engine"
    words = ["export", "--model", str(model), "--format", "onnx", "--out", str(out)]
    assert main(words) == 4
    assert "parity failed on random inputs, batch 1: largest error" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())
    assert main([*words, "--no-verify"]) == 0
    assert "not verified (--no-verify): random inputs, sampled images and latency" in capsys.readouterr().out
    assert read_engine(out)[1]["verification"] == {"skipped": "--no-verify"}


@pytest.mark.parametrize(("got", "good"), [(1e-5, True), (2e-4, False), (float("nan"), False), (float("inf"), False)])
def test_what_passes_in_float32(got, good):
    want = torch.zeros(2, 1, 4, 4)
    if good:
        assert verify.judge(want + got, want, "fp32", "x")["max_error"] == pytest.approx(got)
    else:
        with pytest.raises(CheckpointError, match="parity failed on x"):
            verify.judge(want + got, want, "fp32", "x")


def test_what_passes_in_half_precision():
    want = torch.rand(4, 3, 8, 8) - 0.5
    assert verify.judge(want, want, "bf16", "x")["psnr"] == verify.MOST_PSNR
    assert verify.judge(want + 0.02, want, "bf16", "x")["psnr"] == pytest.approx(40, abs=0.1)
    with pytest.raises(CheckpointError, match="PSNR 40.0 dB; fp16 asks for at least 50.0 dB"):
        verify.judge(want + 0.02, want, "fp16", "x")
    with pytest.raises(CheckpointError, match=r"gives \[4, 3, 8\]"):
        verify.judge(want[..., 0], want, "bf16", "x")


def test_a_file_that_was_changed(copied, model):
    content = bytearray((copied / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (copied / "model.onnx").write_bytes(content)
    with pytest.raises(CheckpointError, match="model.onnx: not the file that ddgan export wrote.*it was not loaded"):
        draw(model, engine_file=copied)(num_images=1)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"format": "exe"}, "format 'exe'; an engine of ddgan export has onnx"),
        ({"format": "triton-repo"}, "a model repository for NVIDIA Triton"),
        ({"format": "tensorrt"}, "model.plan: cannot be read"),
        ({"format": []}, r"format \[\]"),
        ({"sha256": {}}, "not the file that ddgan export wrote"),
        ({"sha256": "x"}, "format 'onnx'"),
        ({"target": "loop"}, "target 'loop'"),
        ({"precision": "int4"}, "precision 'int4'"),
        ({"model": "0" * 64}, "exported from another model"),
        ({"format_version": 99}, "upgrade it"),
    ],
    ids=str,
)
def test_a_manifest_that_was_changed(copied, model, change, text):
    path = copied / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=text):
        draw(model, engine_file=copied)(num_images=1)


def test_a_folder_without_a_manifest(tmp_path, model, capsys):
    assert main(["sample", "--model", str(model), "--engine-file", str(tmp_path), "--num-images", "1", "--out", str(tmp_path / "o")]) == 4
    assert "no manifest.json in it; give the folder that ddgan export wrote" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_another_models_engine(engine, tmp_path):
    other = DDGANPipeline.from_preset("tiny")
    with pytest.raises(CheckpointError, match="exported from another model"):
        other.compile(engine_file=engine("step"))


@pytest.mark.parametrize(("kind", "file"), [("tensorrt", "model.plan"), ("pt2", "model.pt2"), ("torch-tensorrt", "model.pt2")])
@pytest.mark.parametrize("built", [{}, [], {"torch": 5, "library": "x", "profiles": 3}], ids=str)
def test_code_that_was_not_built_here_is_not_loaded(copied, model, monkeypatch, kind, file, built):
    (copied / "model.onnx").rename(copied / file)
    path = copied / "manifest.json"
    found = json.loads(path.read_text())
    path.write_text(json.dumps(found | {"format": kind, "built": built, "sha256": {file: found["sha256"]["model.onnx"]}}))
    monkeypatch.setattr(opening, "refuses", lambda engine, device: None)
    monkeypatch.setitem(sys.modules, "torch_tensorrt", types.SimpleNamespace(__version__="2.13.0"))
    for module, runner in ((tensorrt, "Plan"), (aot, "Package"), (torch_tensorrt, "Module")):
        monkeypatch.setattr(module, runner, lambda *_: pytest.fail("it was loaded"))
    with pytest.raises(CheckpointError, match=f"{file}: not loaded: "):
        draw(model, engine_file=copied)(num_images=1)


def test_a_plan_is_captured_in_a_graph_and_an_onnx_file_is_not():
    cuda = torch.device("cuda")
    assert sampler_of("tensorrt", "step", cuda) is GraphSampler
    assert sampler_of("onnx", "step", cuda) is sampler_of("tensorrt", "step", torch.device("cpu")) is Sampler
    assert sampler_of("tensorrt", "sampler", cuda) is WholeSampler


@pytest.mark.parametrize("kind", ["pt2", "triton-repo"])
def test_other_formats_go_the_same_way(model, engine, tmp_path, capsys, monkeypatch, no_export, kind):
    if kind == "pt2":  # a package that is the graph itself: compiling one takes minutes
        graphs = []
        monkeypatch.setattr(aot, "write_pt2", lambda graph, path: (graphs.append(graph), path.write_bytes(b"code")))
        monkeypatch.setattr(aot, "Package", lambda path, device: types.SimpleNamespace(run=lambda inputs: graphs[0].module(**inputs)))
    else:
        monkeypatch.setattr(building, "verify", lambda *_: {"random_inputs": {}, "images": IMAGES, "speed": SPEED})
    out = tmp_path / "out"
    assert main(["export", "--model", str(model), "--format", kind, "--out", str(out)]) == 0
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    manifest = json.loads((out / "manifest.json").read_text())
    assert files == {"manifest.json", *manifest["sha256"]}
    words = ["sample", "--model", str(model), "--engine-file", str(out), "--num-images", "4", "--format", "npz", "--out"]
    code = main([*words, str(tmp_path / "a.npz")])
    if kind == "pt2":
        assert code == 0 and files == {"manifest.json", "model.pt2"} and manifest["built"]["torch"] == torch.__version__
        images = np.load(tmp_path / "a.npz")["images"].astype(int)
        assert np.abs(images - draw(model)(num_images=4).astype(int)).max() <= 1
    else:
        assert code == 4 and "models/tiny/1/model.onnx" in files and "model.onnx" not in files
        assert "its README.md says how to serve it" in capsys.readouterr().err


def test_words_that_do_not_fit(engine, model, tmp_path):
    pipe = DDGANPipeline.from_pretrained(model)
    with pytest.raises(InputError, match="engine 'graph' does not run model.onnx: take auto, onnx, openvino, tensorrt"):
        pipe.compile("graph", engine_file=engine("step"))
    with pytest.raises(InputError, match="exported in fp32, not bf16"):
        pipe.compile(precision="bf16", engine_file=engine("step"))
    with pytest.raises(InputError, match="engine 'onnx' runs a file: ddgan export writes one"):
        pipe.compile("onnx")
    with pytest.raises(InputError, match="weights are torch.bfloat16 by now"):
        DDGANPipeline.from_pretrained(model).to(torch.bfloat16).compile(engine_file=engine("step"))
    with pytest.raises(MissingError, match="onnxruntime has no TensorrtExecutionProvider"):
        pipe.compile("tensorrt", engine_file=engine("step"))


@pytest.mark.parametrize(("words", "code", "text"), [
    (["--batch", "1,x"], 2, "--batch 1,x: give whole numbers"), (["--batch", "0"], 2, "--batch 0"),
    (["--compute-capability", "8.9"], 2, "a compute capability and a timing cache belong to format tensorrt"), (["--device", "tpu"], 2, "device 'tpu'"), (["--batch", "5000"], 2, "a batch of 5000: a graph takes up to 4096"),
    (["--plan"], 2, "a plan in place of ONNX belongs to format triton-repo"),
])  # fmt: skip
def test_wrong_flags_of_export(model, tmp_path, capsys, words, code, text):
    assert main(["export", "--model", str(model), "--format", "onnx", "--out", str(tmp_path / "e"), *words]) == code
    assert text in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_another_folder_is_not_replaced(model, tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("mine")
    assert main(["export", "--model", str(model), "--format", "onnx", "--out", str(tmp_path)]) == 2
    assert "exists and is no engine of ddgan export" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_extra(model, engine, tmp_path, capsys, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    if package == "onnxruntime":
        monkeypatch.setattr(building, "write_onnx", lambda graph, path: shutil.copy(engine(graph.target) / "model.onnx", path))
    assert main(["export", "--model", str(model), "--format", "onnx", "--out", str(tmp_path / "e")]) == 5
    assert 'pip install "ddgan_fast[onnx]"' in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_env_says_which_engines_are_there():
    found = collect()["engines"]
    assert {"onnx", "openvino", "tensorrt", "torch-tensorrt", "aot"} <= set(found)
    assert found["onnx"] == "there, for a file of ddgan export"
