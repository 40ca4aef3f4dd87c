"""`ddgan data check` and `stats`: every bad item is found, and the numbers are numpy's."""

import io
import json
import logging

import numpy as np
import pytest
from PIL import Image

from ddgan_fast.cli import main
from ddgan_fast.config import Model
from ddgan_fast.data import open_dataset
from ddgan_fast.data.check import survey


def run(capsys, *words):
    """(exit code, stdout, stderr) of `ddgan data` in this process."""
    try:
        code = main(["data", *map(str, words)])
    except SystemExit as stop:
        code = stop.code
    return code, *capsys.readouterr()


@pytest.fixture
def faces(tmp_path):
    """A folder of 150 images of several kinds, more than two chunks of a thread."""
    generator, folder = np.random.default_rng(0), tmp_path / "faces"
    (folder / "sub").mkdir(parents=True)
    for number in range(150):
        height, width = generator.integers(9, 30, 2)
        image = Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8)).convert("L" if number % 7 == 0 else "RGB")
        image.save(folder / ("sub" if number % 2 else ".") / f"{number:03d}.{'jpg' if number % 3 else 'png'}")
    return folder


def spoil(folder):
    """Make bad items of several kinds. Returns the parts of the lines that name them."""
    png = (folder / "000.png").read_bytes()
    moving = io.BytesIO()
    Image.new("L", (9, 9)).save(moving, "PNG", save_all=True, append_images=[Image.new("L", (9, 9), 255)])
    bad = {
        "notes.txt": (b"hello", "not one of the images"),
        "000.png": (png[:-30], "broken or truncated"),
        "sub/149.jpg": (b"hello", "no PNG, JPEG"),
        "sub/new.png": (b"", "empty"),
        "moving.png": (moving.getvalue(), "animated"),
    }
    for name, (content, _) in bad.items():
        (folder / name).write_bytes(content)
    return {f"{folder}/{name}": reason for name, (_, reason) in bad.items()}


def test_check_finds_every_bad_item(capsys, faces):
    code, out, _ = run(capsys, "check", faces)
    assert code == 0 and "150 items, 0 bad" in out and "JPEG 100, PNG 50" in out and "RGB 128, L 22" in out
    bad = spoil(faces)
    code, out, errors = run(capsys, "check", faces)
    assert code == 3 and "5 of 153 items are bad" in errors and "left out" not in errors
    lines = [line for line in out.splitlines() if line.startswith(f"{faces}/")]
    assert {line.partition(": ")[0] for line in lines} == set(bad)
    assert all(bad[line.partition(": ")[0]] in line for line in lines)
    code, out, _ = run(capsys, "check", faces, "--json")
    found = json.loads(out)
    assert code == 3 and found["items"] == 153 and found["bad"] == lines and found["formats"] == {"JPEG": 99, "PNG": 49}


def test_a_survey_leaves_the_warnings_of_others_alone(faces, caplog):
    spoil(faces)
    survey(faces)
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        open_dataset(faces, Model(), on_bad_image="skip")
    assert "notes.txt" in caplog.text


def test_stats_are_those_of_numpy(capsys, faces):
    spoil(faces)
    images = open_dataset(faces, Model(resolution=16), on_bad_image="skip", resident_gb=0)
    images.__getitems__(range(len(images)))
    good = [index for index in range(len(images)) if index not in images.bad]
    pixels = images.__getitems__(good).double().numpy() / 127.5 - 1
    code, out, _ = run(capsys, "stats", faces, "--resolution", 16, "--json")
    found = json.loads(out)
    assert code == 0 and (found["images"], found["bad"]) == (len(pixels), 5) == (148, 5)
    np.testing.assert_allclose(found["mean"], pixels.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(found["std"], pixels.std((0, 2, 3)), rtol=1e-12)
    files = [path for path in faces.rglob("*.*") if path.name not in ("notes.txt", "000.png", "149.jpg", "new.png", "moving.png")]
    sizes = np.array([Image.open(path).size for path in files])
    for axis, name in enumerate(("width", "height")):
        want = {"min": sizes[:, axis].min(), "median": np.sort(sizes[:, axis])[(len(sizes) - 1) // 2], "max": sizes[:, axis].max()}
        assert found[name] == want
    assert found["bytes"] == sum(path.stat().st_size for path in files)
    code, out, _ = run(capsys, "stats", faces)
    assert code == 0 and "148 images" in out and "5 bad" in out


def test_sizes_are_upright(capsys, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    Image.new("RGB", (10, 20)).save(tmp_path / "a.jpg", exif=exif)
    code, out, _ = run(capsys, "stats", tmp_path, "--json")
    found = json.loads(out)
    assert code == 0 and (found["width"]["max"], found["height"]["max"]) == (20, 10)


def test_sets_that_are_one_array(capsys, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (70, 16, 16, 1), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=images)
    code, out, _ = run(capsys, "stats", tmp_path / "a.npz", "--resolution", 16, "--json")
    found = json.loads(out)
    assert code == 0 and found["formats"] == {"array": 70} and found["bytes"] is None
    np.testing.assert_allclose(found["mean"], [(images / 127.5 - 1).mean()] * 3, rtol=1e-12)
    code, out, _ = run(capsys, "check", "digits")
    assert code == 0 and "1,797 items, 0 bad" in out


WRONG = {
    "unknown action": (["chekc", "x"], 2, "check, stats, pack"),
    "no path": (["check"], 2, "PATH"),
    "no such path": (["check", "./nowhere"], 3, "no such path"),
    "mistyped set": (["stats", "cifar11"], 3, "did you mean 'cifar10'"),
    "points": (["check", "gaussians25"], 2, "2-D points"),
    "empty folder": (["check", "EMPTY"], 3, "nothing to train on"),
    "nothing good": (["stats", "BAD"], 3, "none of its 1 items"),
    "small": (["stats", "digits", "--resolution", "4"], 2, "8 to 8000"),
    "truncated tar": (["check", "CUT"], 3, "truncated"),
}


@pytest.mark.parametrize("case", WRONG, ids=str)
def test_wrong_input_gets_one_message(capsys, tmp_path, monkeypatch, case):
    words, expected, named = WRONG[case]
    monkeypatch.chdir(tmp_path)
    for folder in ("EMPTY", "BAD", "CUT"):
        (tmp_path / folder).mkdir()
    (tmp_path / "BAD/a.png").write_bytes(b"hello")
    (tmp_path / "CUT/a.tar").write_bytes(b"hello")
    code, _, errors = run(capsys, *words)
    assert code == expected and named in " ".join(errors.replace("│", " ").split()), errors


@pytest.mark.parametrize("words", [[], ["--help"], ["pack", "--help"]], ids=str)
def test_help(capsys, words):
    code, out, _ = run(capsys, *words)
    assert code == 0 and ("--shard-images" if "pack" in words else "check") in out
