"""Folders of images: what is read, how it is fitted, and the files that must be refused by name."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from ddgan_fast.config import Model, preset
from ddgan_fast.data import open_dataset
from ddgan_fast.data.decode import Images
from ddgan_fast.data.images import InMemory, fit_image
from ddgan_fast.errors import DataError

MODEL = Model(resolution=16)


def picture(number=0, size=(16, 16), mode="RGB"):
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def every_index(dataset):
    return dataset.__getitems__(list(range(len(dataset))))


def png_header(width, height):
    """A PNG that promises width x height pixels and holds none."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_recursive_sorted_without_hidden_files(tmp_path):
    for number, name in enumerate(["b.PNG", "a/z.bmp", "a/deep/y.webp", "c.png"]):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(path, lossless=True)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "notes.txt").write_text("x")
    (tmp_path / ".DS_Store").write_text("x")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    dataset = open_dataset(tmp_path, MODEL)
    assert isinstance(dataset, InMemory) and dataset.name == tmp_path.name
    want = torch.stack([torch.from_numpy(np.array(picture(number))).permute(2, 0, 1) for number in (2, 1, 0, 3)])
    assert torch.equal(every_index(dataset), want)


def test_a_relative_folder_called_as_a_set(tmp_path, monkeypatch):
    (tmp_path / "digits").mkdir()
    picture().save(tmp_path / "digits" / "a.png")
    monkeypatch.chdir(tmp_path)
    assert len(open_dataset("./digits", MODEL)) == 1
    assert len(open_dataset("digits", MODEL)) == 1797


@pytest.mark.parametrize("size", [(40, 20), (20, 40), (33, 16)])
def test_the_shorter_side_is_resized_and_the_middle_kept(size):
    image = picture(size=size)
    scale = 16 / min(size)
    resized = image.resize((int(size[0] * scale), int(size[1] * scale)), Image.Resampling.BILINEAR)
    left, top = (resized.width - 16) // 2, (resized.height - 16) // 2
    want = torch.from_numpy(np.array(resized.crop((left, top, left + 16, top + 16)))).permute(2, 0, 1)
    assert (fit_image(image, (3, 16, 16)).int() - want.int()).abs().max() <= 1


def test_resizing_is_antialiased():
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    got = fit_image(Image.fromarray(stripes), (3, 16, 16))[:, :, 1:-1].int()
    assert (got - 127).abs().max() <= 3


def test_modes():
    clear = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    palette = Image.new("P", (16, 16), 0)
    palette.putpalette([10, 20, 30])
    gray16 = Image.fromarray(np.full((16, 16), 0x80FF, np.uint16))
    half = Image.new("LA", (16, 16), (0, 127))
    for image, want in [(clear, 255), (clear.convert("PA"), 255), (half, 128), (gray16, 0x80), (Image.new("1", (16, 16), 1), 255)]:
        for channels in (1, 3):
            assert fit_image(image, (channels, 16, 16)).eq(want).all(), image.mode
    assert fit_image(palette, (3, 16, 16))[:, 0, 0].tolist() == [10, 20, 30]
    palette.info["transparency"] = 0
    assert fit_image(palette, (3, 16, 16)).eq(255).all()
    assert fit_image(picture(mode="CMYK"), (3, 16, 16)).shape == (3, 16, 16)


def test_photos_are_turned_upright_and_previews_ignored(tmp_path):
    image = Image.new("RGB", (16, 16), "black")
    image.paste("white", (0, 0, 16, 8))
    exif = Image.Exif()
    exif[0x0112] = 3  # the camera was upside down
    (tmp_path / "a.jpg").write_bytes(encoded(image, "JPEG", exif=exif))
    (tmp_path / "b.jpg").write_bytes(encoded(image, "MPO", save_all=True, append_images=[picture()]))
    turned, photo = every_index(open_dataset(tmp_path, MODEL)).float().mean((1, 3))
    assert turned[:6].max() < 20 and turned[10:].min() > 235
    assert photo[10:].max() < 20 and photo[:6].min() > 235


BAD = {
    "notes.txt": (b"hello", "not one of the images .*move it out"),
    "clip.gif": (encoded(picture(), "GIF"), "convert it to PNG"),
    "empty.png": (b"", "empty"),
    "gif.png": (encoded(picture(), "GIF"), "no PNG, JPEG, WebP or BMP"),
    "text.jpg": (b"hello", "no PNG, JPEG, WebP or BMP"),
    "cut.png": (encoded(picture())[:-200], "broken or truncated"),
    "cut.jpg": (encoded(picture(), "JPEG")[:-200], "broken or truncated"),
    "cut.webp": (encoded(picture(), "WEBP")[:-100], "broken or truncated|no PNG, JPEG, WebP or BMP"),
    "cut.bmp": (encoded(picture(), "BMP")[:-200], "broken or truncated"),
    "moving.png": (encoded(picture(), "PNG", save_all=True, append_images=[picture(1), picture(2)]), "animated image of 3 frames"),
    "moving.webp": (encoded(picture(), "WEBP", save_all=True, append_images=[picture(1)]), "animated image of 2 frames"),
    "large.png": (png_header(8001, 8000), "8001 x 8000 pixels, above the limit of 64 megapixels"),
    "huge.png": (png_header(60_000, 60_000), "above the limit of 64 megapixels"),
    "in_the_middle.png": (encoded(picture())[:100] + b"\xff" * 20 + encoded(picture())[120:], "broken or truncated"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_named_at_opening(tmp_path, name):
    content, reason = BAD[name]
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / name).write_bytes(content)
    for number in range(3):
        picture(number).save(tmp_path / f"{number}.png")
    with pytest.raises(DataError, match=f"sub/{name}: .*({reason})"):
        open_dataset(tmp_path, MODEL)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("absent", path)], ids=["fifo", "folder", "dangling link"])
def test_names_of_images_that_are_none(tmp_path, make):
    picture().save(tmp_path / "a.png")
    make(tmp_path / "b.png")
    if (tmp_path / "b.png").is_dir():
        assert len(open_dataset(tmp_path, MODEL)) == 1
    else:
        with pytest.raises(DataError, match="b.png: empty or not a regular file"):
            open_dataset(tmp_path, MODEL)


def test_a_set_too_large_to_be_resident_is_decoded_on_access(tmp_path):
    for number in range(4):
        picture(number).save(tmp_path / f"{number}.png")
    want = every_index(open_dataset(tmp_path, MODEL))
    enough = want.numel() / 2**30
    assert isinstance(open_dataset(tmp_path, MODEL, resident_gb=enough), InMemory)
    dataset = open_dataset(tmp_path, MODEL, resident_gb=enough * 0.999)
    assert isinstance(dataset, Images)
    assert torch.equal(every_index(dataset), want)
    (tmp_path / "2.png").write_bytes(BAD["cut.png"][0])
    with pytest.raises(DataError, match="2.png: broken or truncated"):
        every_index(dataset)


@pytest.mark.parametrize("resident_gb", [1.0, 0.0])
def test_bad_images_may_be_skipped(tmp_path, resident_gb, caplog):
    for number in range(4):
        picture(number).save(tmp_path / f"{number}.png")
    want = every_index(open_dataset(tmp_path, MODEL))
    for name in ("1.png", "3.png"):
        (tmp_path / name).write_bytes(BAD["cut.png"][0])
    (tmp_path / "notes.txt").write_text("x")
    dataset = open_dataset(tmp_path, MODEL, on_bad_image="skip", resident_gb=resident_gb)
    got = every_index(dataset)
    assert torch.equal(got, want[[0, 2, 2, 0]])  # the next in its place, in a circle
    every_index(dataset)
    named = [record.getMessage() for record in caplog.records]
    assert len(named) == 3 and all("left out" in text for text in named)
    assert [name in "".join(named) for name in ("notes.txt", "1.png", "3.png", "2.png")] == [True, True, True, False]


@pytest.mark.parametrize("resident_gb", [1.0, 0.0])
def test_nothing_but_bad_images_is_an_error(tmp_path, resident_gb):
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(b"hello")
    with pytest.raises(DataError, match="100 images in a row are bad"):
        every_index(open_dataset(tmp_path, MODEL, on_bad_image="skip", resident_gb=resident_gb))


def test_the_first_images_alone(tmp_path):
    for number in range(4):
        picture(number).save(tmp_path / f"{number}.png")
    want = every_index(open_dataset(tmp_path, MODEL))[:3]
    for resident_gb in (1.0, 0.0):
        assert torch.equal(every_index(open_dataset(tmp_path, MODEL, max_images=3, resident_gb=resident_gb)), want)
    assert len(open_dataset("digits", preset("tiny").model, max_images=5)) == 5
    assert len(open_dataset(tmp_path, MODEL, max_images=9)) == 4


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_listed(tmp_path):
    (tmp_path / "closed").mkdir(mode=0)
    with pytest.raises(DataError, match="closed: cannot be listed"):
        open_dataset(tmp_path, MODEL)


def test_a_name_is_shown_without_what_a_terminal_obeys(tmp_path):
    (tmp_path / "a\x1b[31m.png").write_bytes(b"x")
    with pytest.raises(DataError) as raised:
        open_dataset(tmp_path, MODEL)
    assert "a\\x1b[31m.png: its content is no PNG" in str(raised.value)


def test_a_path_that_is_too_long_is_an_error_of_ours(tmp_path):
    with pytest.raises(DataError, match="no such path"):
        open_dataset(tmp_path / ("x" * 300), MODEL)
