"""`ddgan edit`: files in, files out, and one message for each wrong word."""

import numpy as np
import pytest
from PIL import Image

from ddgan_fast.cli import main
from ddgan_fast.pipeline import DDGANPipeline


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of gray 8x8 images, a photo of 24x16 with its mask, and files that are none."""
    path = tmp_path_factory.mktemp("edit")
    DDGANPipeline.from_preset("tiny").save_pretrained(path / "model")
    DDGANPipeline.from_preset("gaussians25").save_pretrained(path / "points")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (16, 24, 3), np.uint8)).save(path / "photo.png")
    Image.fromarray(np.pad(np.full((8, 12), 255, np.uint8), ((0, 8), (0, 12)))).save(path / "mask.png")
    Image.new("L", (8, 8)).save(path / "small.png")
    (path / "text.png").write_text("no image")
    (path / "empty.png").write_bytes(b"")
    (path / "cut.png").write_bytes((path / "photo.png").read_bytes()[:300])
    return path


def edit(folder, *words, image="photo.png", model="model"):
    """The exit code of the command."""
    given = "edit", "--model", folder / model, "--image", folder / image, *words
    try:
        return main([str(word) for word in given])
    except SystemExit as stop:
        return stop.code


def test_files_are_the_variants_of_the_pipeline(folder, tmp_path, capsys):
    words = "--mask", folder / "mask.png", "--strength", 0.75, "--seeds", "3-5"
    assert edit(folder, *words, "--out", tmp_path / "pngs") == 0
    assert "3 variants" in (said := capsys.readouterr().out) and "3 network evaluations" in said
    photo, mask = (Image.open(folder / name) for name in ("photo.png", "mask.png"))
    want = DDGANPipeline.from_pretrained(folder / "model").compile().edit(photo, 0.75, mask, 3, 3, output_type="uint8").images
    for seed, image in zip((3, 4, 5), want, strict=True):
        assert np.array_equal(np.asarray(Image.open(tmp_path / f"pngs/{seed:08d}.png")), image[:, :, 0])
    assert edit(folder, *words, "--format", "npz", "--out", tmp_path / "x.npz", "--batch-size", 2) == 0
    assert np.array_equal(np.load(tmp_path / "x.npz")["images"], want)
    assert edit(folder, *words, "--format", "grid", "--strokes", "--out", tmp_path / "grid.png") == 0
    assert Image.open(tmp_path / "grid.png").size == (504, 504)  # the picture and 3 variants, 9 pixels each, 28 times


def test_variants_of_another_picture_do_not_mix(folder, tmp_path, capsys):
    assert edit(folder, "--out", tmp_path / "pngs") == 0
    assert edit(folder, "--out", tmp_path / "pngs") == 0  # goes on
    for words in (("--strength", 0.25), ("--mask", folder / "mask.png"), ("--strokes",)):
        assert edit(folder, *words, "--out", tmp_path / "pngs") == 2
        assert "were drawn from" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, given, code, message",
    [
        ((), {"image": "none.png"}, 2, "none.png: cannot be read: No such file"),
        ((), {"image": "model"}, 2, "cannot be read: Is a directory"),
        ((), {"image": "text.png"}, 3, "text.png: its content is no PNG"),
        ((), {"image": "empty.png"}, 3, "empty.png: empty"),
        ((), {"image": "cut.png"}, 3, "cut.png: broken or truncated"),
        ((), {"model": "points"}, 2, "2-D points"),
        ((), {"model": "none"}, 4, "none"),
        (("--mask", "small.png"), {}, 2, "mask: 8 x 8, and the image is 24 x 16"),
        (("--strength", 2), {}, 2, "strength 2"),
        (("--strength", "nan"), {}, 2, "strength nan"),
        (("--num-images", 0), {}, 2, "num_images must be 1 or more"),
        (("--num-images", 2, "--seeds", "0-3"), {}, 2, "give either --num-images"),
        (("--seeds", "a"), {}, 2, "seeds 'a'"),
        (("--batch-size", 0), {}, 2, "--batch-size 0"),
        (("--engine", "fast"), {}, 2, "engine 'fast'"),
    ],
)
def test_wrong_words(folder, tmp_path, capsys, words, given, code, message):
    words = [folder / word if str(word).endswith(".png") else word for word in words]
    assert edit(folder, *words, "--out", tmp_path / "out", **given) == code
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said and not (tmp_path / "out").exists()


def test_a_picture_is_needed(folder, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["edit", "--model", str(folder / "model")])
    assert stop.value.code == 2 and "--image" in capsys.readouterr().err
