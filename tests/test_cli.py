"""The command line: what works, exit codes, one message per error, nothing left behind."""

import json
import math
import re
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddgan_fast.cli import main
from ddgan_fast.config import preset
from ddgan_fast.pipeline import DDGANPipeline

GOLDEN = Path(__file__).parent / "golden"
NET_G, CONTENT = GOLDEN / "L_checkpoint_netG_0.pth", GOLDEN / "L_checkpoint_content.pth"


def run(capsys, *words):
    """(exit code, stdout, stderr) of a command in this process."""
    try:
        code = main([str(word) for word in words])
    except SystemExit as stop:
        code = stop.code
    return code, *capsys.readouterr()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny"
    DDGANPipeline.from_preset("tiny").save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "tiny"
    assert main(["train", "--preset", "tiny", "--out", str(path)]) == 0
    return path


def test_train_then_sample_from_the_run(capsys, trained, tmp_path):
    code, out, _ = run(
        capsys, "sample", "--model", trained, "--num-images", 6, "--format", "npz", "--out", tmp_path / "x.npz", "--batch-size", 4
    )
    assert code == 0 and "6 samples" in out
    assert np.load(tmp_path / "x.npz")["images"].shape == (6, 8, 8, 1)
    code, _, _ = run(capsys, "sample", "--model", trained, "--seeds", "2-3", "--out", tmp_path / "pngs")
    assert code == 0 and sorted(p.name for p in (tmp_path / "pngs").glob("*.png")) == ["00000002.png", "00000003.png"]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "pngs/00000002.png")), np.load(tmp_path / "x.npz")["images"][2, :, :, 0])


def test_resume_goes_on_with_the_settings_of_the_run(capsys, tmp_path):
    out = tmp_path / "run"
    assert run(capsys, "train", "--preset", "tiny", "--batch-size", 4, "--out", out)[0] == 0
    code, _, errors = run(capsys, "train", "--out", out, "--resume", "--iterations", 10)
    assert code == 0, errors
    last = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    assert (last["step"], last["images_seen"]) == (10, 40)


def test_config_file_is_the_default_and_flags_win(capsys, tmp_path):
    (tmp_path / "run.yaml").write_text("batch_size: 4\niterations: 2\n")
    code, _, errors = run(
        capsys, "train", "--preset", "tiny", "--config", tmp_path / "run.yaml", "--iterations", 3, "--out", tmp_path / "run"
    )
    assert code == 0, errors
    last = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1])
    assert (last["step"], last["images_seen"]) == (3, 12)


@pytest.mark.parametrize("extra", [["--options", "options.json"], []], ids=["netG with options", "content"])
def test_convert_then_sample(capsys, tmp_path, extra):
    options = json.loads(str(np.load(GOLDEN / "L_checkpoint_expected.npz")["config"]))
    (tmp_path / "options.json").write_text(json.dumps(options))
    words = [tmp_path / word if word.endswith(".json") else word for word in extra]
    code, out, errors = run(capsys, "convert", NET_G if extra else CONTENT, *words, "--out", tmp_path / "model")
    assert code == 0, errors
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert run(capsys, "sample", "--model", tmp_path / "model", "--num-images", 2, "--format", "grid", "--out", tmp_path / "g.png")[0] == 0


def test_presets_and_env(capsys):
    code, out, _ = run(capsys, "presets")
    assert code == 0 and "celebahq256-paper" in out
    code, out, _ = run(capsys, "presets", "show", "cifar10")
    assert code == 0 and "[cifar10-paper: 256]" in out and "Table" not in out
    code, out, _ = run(capsys, "presets", "show", "cifar10-paper")
    assert code == 0 and "Table 6" in out
    code, out, _ = run(capsys, "env", "--json")
    found = json.loads(out)
    assert code == 0 and found["versions"]["torch"] == torch.__version__
    assert found["backends"]["reference"] == "there" and found["engines"]["eager"] == "there"
    assert all(text == "there" or "pip install" in text for text in found["extras"].values())
    assert re.fullmatch(rf".+, {torch.get_num_threads()} threads, \d+ cores", found["devices"]["cpu"])  # rows of results name it so
    assert run(capsys, "env")[0] == 0


WRONG = {
    "no command": (["--bogus"], 2, "bogus"),
    "unknown command": (["trian"], 2, "trian"),
    "unknown flag": (["train", "--preset", "tiny", "--out", "x", "--stepz", "2"], 2, "--steps"),
    "bad width": (["train", "--preset", "tiny", "--out", "x", "--channels", "132"], 2, "132 channels"),
    "unknown preset": (["train", "--preset", "cifar", "--out", "x"], 2, "did you mean 'cifar10'"),
    "batch of 6": (["train", "--preset", "tiny", "--out", "x", "--batch-size", "6"], 2, "multiple of 4"),
    "T = 0": (["train", "--preset", "tiny", "--out", "x", "--steps", "0"], 2, "steps = 0"),
    "T = two": (["train", "--preset", "tiny", "--out", "x", "--steps", "two"], 2, "two"),
    "no out": (["train", "--preset", "tiny"], 2, "--out"),
    "no such data": (["train", "--preset", "tiny", "--out", "x", "--data", "cifar11"], 3, "did you mean 'cifar10'"),
    "no such folder": (["train", "--preset", "tiny", "--out", "x", "--data", "./nowhere"], 3, "nowhere"),
    "empty folder": (["train", "--preset", "tiny", "--out", "x", "--data", "EMPTY"], 3, "looked for"),
    "text in folder": (["train", "--preset", "tiny", "--out", "x", "--data", "TEXT"], 3, "notes.txt"),
    "broken picture": (["train", "--preset", "tiny", "--out", "x", "--data", "BROKEN"], 3, "cut.png"),
    "small data": (["train", "--preset", "tiny", "--out", "x", "--data", "ONE"], 3, "fewer than one batch"),
    "points for images": (["train", "--preset", "tiny", "--out", "x", "--data", "gaussians25"], 2, "--preset gaussians25"),
    "bad device": (["train", "--preset", "tiny", "--out", "x", "--device", "cuda:99"], 2, "cuda:99"),
    "bad config": (["train", "--preset", "tiny", "--out", "x", "--config", "BAD_YAML"], 2, ":2:"),
    "nothing to resume": (["train", "--preset", "tiny", "--out", "x", "--resume"], 2, "no run to resume"),
    "out is a file": (["train", "--preset", "tiny", "--out", "NET_G"], 2, "a file"),
    "no model": (["sample", "--model", "nowhere", "--num-images", "1"], 4, "no such folder"),
    "foreign folder": (["sample", "--model", "TEXT", "--num-images", "1"], 4, "config.json"),
    "no images": (["sample", "--model", "MODEL", "--num-images", "0"], 2, "num_images"),
    "no count": (["sample", "--model", "MODEL"], 2, "--num-images"),
    "bad seeds": (["sample", "--model", "MODEL", "--seeds", "9-3"], 2, "9-3"),
    "a folder for npz": (["sample", "--model", "MODEL", "--num-images", "1", "--format", "npz", "--out", "EMPTY"], 2, "a file"),
    "a file for png": (["sample", "--model", "MODEL", "--num-images", "1", "--out", "NET_G"], 2, "a folder"),
    "too many": (["sample", "--model", "MODEL", "--num-images", "1" + 19 * "0"], 2, "num_images"),
    "impossible model": (["sample", "--model", "HUGE_MODEL", "--num-images", "1"], 4, "channels = 4000000: it must be 1 to 65,536"),
    "another model": (["sample", "--model", "WIDE_MODEL", "--num-images", "1"], 4, "should be"),
    "no preset named": (["presets", "show"], 2, "cifar10"),
    "out is taken": (["convert", "NET_G", "--preset", "tiny", "--out", "TEXT"], 2, "other files"),
    "huge seed": (["sample", "--model", "MODEL", "--seeds", str(2**70)], 2, "2^63"),
    "bad format": (["sample", "--model", "MODEL", "--num-images", "1", "--format", "jpg"], 2, "jpg"),
    "huge grid": (["sample", "--model", "MODEL", "--num-images", "1000000", "--format", "grid"], 2, "4096"),
    "bad batch": (["sample", "--model", "MODEL", "--num-images", "1", "--batch-size", "0"], 2, "--batch-size"),
    "bad engine": (["sample", "--model", "MODEL", "--num-images", "1", "--engine", "graph"], 5, "CUDA device"),
    "unknown engine": (["sample", "--model", "MODEL", "--num-images", "1", "--engine", "fast"], 2, "auto, eager"),
    "unknown precision": (["sample", "--model", "MODEL", "--num-images", "1", "--precision", "int8"], 2, "bf16"),
    "cut weights": (["sample", "--model", "CUT_MODEL", "--num-images", "1"], 4, "model.safetensors"),
    "weights of NaN": (["experiment", "samples", "--model", "NAN_MODEL"], 4, "NaN or infinity in "),
    "newer model": (["sample", "--model", "NEW_MODEL", "--num-images", "1"], 4, "upgrade"),
    "convert nothing": (["convert", "nowhere.pth", "--preset", "cifar10", "--out", "x"], 4, "no such file"),
    "convert text": (["convert", "TEXT/notes.txt", "--preset", "cifar10", "--out", "x"], 4, "notes.txt"),
    "convert as cifar10": (["convert", "NET_G", "--preset", "cifar10", "--out", "x"], 4, "should be"),
    "convert unsaid": (["convert", "NET_G", "--out", "x"], 2, "--preset or --options"),
    "convert options": (["convert", "NET_G", "--options", "TEXT/notes.txt", "--out", "x"], 2, "JSON"),
    "unknown preset shown": (["presets", "show", "x"], 2, "presets:"),
}


@pytest.mark.parametrize("case", WRONG, ids=str)
def test_wrong_input_gets_one_message_and_leaves_nothing(capsys, tmp_path, monkeypatch, model, case):
    words, expected, named = WRONG[case]
    inputs = tmp_path / "in"
    for folder in ("EMPTY", "TEXT", "BROKEN", "ONE"):
        (inputs / folder).mkdir(parents=True)
    (inputs / "TEXT/notes.txt").write_text("hello")
    Image.new("L", (8, 8)).save(inputs / "ONE/a.png")
    data = (inputs / "ONE/a.png").read_bytes()
    (inputs / "BROKEN/cut.png").write_bytes(data[: len(data) // 2])
    (inputs / "BAD_YAML").write_text("steps: 2\nbatchsize: 1\n")
    for name in ("CUT_MODEL", "NAN_MODEL", "NEW_MODEL", "HUGE_MODEL", "WIDE_MODEL"):
        (inputs / name).mkdir()
        for file in model.iterdir():
            (inputs / name / file.name).write_bytes(file.read_bytes())
    weights = inputs / "CUT_MODEL/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    weights = inputs / "NAN_MODEL/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + struct.pack("<f", math.nan))
    config = inputs / "NEW_MODEL/config.json"
    config.write_text(config.read_text().replace('"format_version": 1', '"format_version": 9'))
    for name, channels in (("HUGE_MODEL", 4_000_000), ("WIDE_MODEL", 40_000)):
        config = inputs / name / "config.json"
        config.write_text(config.read_text().replace('"channels": 8', f'"channels": {channels}'))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    names = {"MODEL": model, "NET_G": NET_G} | {path.name: path for path in inputs.iterdir()}
    words = [str(names.get(word.split("/")[0], word.split("/")[0])) + word[len(word.split("/")[0]) :] for word in words]
    code, _, errors = run(capsys, *words)
    assert code == expected, errors
    assert named in " ".join(errors.replace("│", " ").split())
    assert "Traceback" not in errors and len(errors.splitlines()) < 15
    assert list((tmp_path / "work").iterdir()) == []


def test_a_bug_is_called_one_and_debug_shows_its_traceback(monkeypatch, capsys, model):
    def fail(*_):
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("ddgan_fast.pipeline.parse_seeds", fail)
    code, _, errors = run(capsys, "sample", "--model", model, "--num-images", 1)
    assert code == 1 and "--debug" in errors
    with pytest.raises(ZeroDivisionError):
        main(["sample", "--model", str(model), "--num-images", "1", "--debug"])


def test_out_of_memory_is_6(monkeypatch, capsys, tmp_path, model):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("ddgan_fast.sampling.generate.Sampler.sample", fail)
    code, _, errors = run(capsys, "sample", "--model", model, "--num-images", 1, "--out", tmp_path / "out")
    assert code == 6 and "with one image" in errors and "lower precision" in errors


def test_help_takes_less_than_a_second():
    times = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "ddgan_fast.cli", "--help"], check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    assert min(times) < 1.0


def test_the_demo_preset_trains(capsys, tmp_path):
    config = preset("demo")
    assert config.train.data == "digits"
    code, _, errors = run(capsys, "train", "--iterations", 2, "--batch-size", 4, "--out", tmp_path / "demo")
    assert code == 0, errors
