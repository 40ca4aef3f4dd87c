"""What clients send: bounded, decoded, named in the error."""

import base64
import io
import time

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("pydantic", reason="the extra serve is not installed")

from pydantic import ValidationError

from ddgan_fast.config import preset
from ddgan_fast.errors import DataError, InputError
from ddgan_fast.serving.requests import EditsRequest, ImagesRequest, Limits, edits_work, encoded, images_work, picture

CONFIG, LIMITS = preset("tiny"), Limits(images=5)


def text_of(image, **options):
    """The base64 of a PIL image's file."""
    buffer = io.BytesIO()
    image.save(buffer, **{"format": "png"} | options)
    return base64.b64encode(buffer.getvalue()).decode()


PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8))
BOMB = "ignore::PIL.Image.DecompressionBombWarning"  # a size at which Pillow itself warns


@pytest.mark.parametrize(
    "given, seeds",
    [({}, [0]), ({"num_images": 3, "seed": 2}, [2, 3, 4]), ({"seeds": "1,4-5"}, [1, 4, 5]), ({"seeds": [7, 2**63 - 1]}, [7, 2**63 - 1])],
)
def test_seeds(given, seeds):
    work = images_work(ImagesRequest(**given), CONFIG, LIMITS)
    assert work.seeds == seeds and work.steps == 4 and work.x0 is None


@pytest.mark.parametrize(
    "given, words",
    [
        ({"num_images": 6}, "6 images; 5 is the most"),
        ({"num_images": 10**9}, "1,000,000,000 images; 5 is the most"),
        ({"num_images": 10**30}, "a seed must be 0 to"),
        ({"seeds": "0-99999999,0-99999999"}, "200,000,000 images; 5 is the most"),
        ({"seeds": "1", "num_images": 2}, "must be 1 or more and fit"),
        ({"seeds": []}, "must be 1 or more"),
        ({"seeds": "x"}, "give a range"),
    ],
)
def test_too_many_and_wrong_seeds(given, words):
    with pytest.raises(InputError, match=words):
        images_work(ImagesRequest(**given), CONFIG, LIMITS)


@pytest.mark.parametrize(
    "given", [{"seed": -1}, {"seed": 2**63}, {"seed": 1.5}, {"num_images": True}, {"seeds": "1" * 10_001}, {"format": "gif"}, {"url": "x"}]
)
def test_bodies_of_another_form(given):
    with pytest.raises(ValidationError):
        ImagesRequest(**given)


@pytest.mark.parametrize(
    "given, words",
    [({"seeds": ["a"] * 10_001}, "10,001 numbers"), ({str(i): 0 for i in range(21)}, "21 fields; there are num_images, seed")],
)
def test_bodies_with_errors_without_number_get_one(given, words):
    with pytest.raises(ValidationError) as caught:
        ImagesRequest(**given)
    assert caught.value.error_count() == 1 and words in str(caught.value)
    assert ImagesRequest(seeds=[1] * 1000).seeds[0] == 1


def test_an_image_and_its_mask():
    mask = Image.fromarray(np.pad(np.full((12, 10), 255, np.uint8), ((0, 0), (0, 10))))
    body = EditsRequest(image="data:image/jpeg;base64," + text_of(PHOTO, format="jpeg"), mask=text_of(mask), strength=0.75, num_images=2)
    work = edits_work(body, CONFIG, LIMITS)
    assert work.steps == 3 and work.x0.shape == (1, 8, 8) and work.mask.shape == (1, 8, 8) and work.seeds == [0, 1]
    assert work.mask[0, :, 0].tolist() == [1] * 8 and work.mask[0, :, -1].tolist() == [0] * 8


def test_strokes_are_made_of_the_image():
    plain, strokes = (edits_work(EditsRequest(image=text_of(PHOTO), strokes=strokes), CONFIG, LIMITS).x0 for strokes in (False, True))
    assert plain.shape == strokes.shape and not np.array_equal(plain, strokes)


def test_strokes_of_a_large_image_take_no_time():
    files = [text_of(PHOTO.resize(size)) for size in ((2000, 2000), (64, 50_000))]
    start = time.thread_time()
    for file in files:
        edits_work(EditsRequest(image=file, strokes=True), CONFIG, LIMITS)
    assert time.thread_time() - start < 10  # a median filter of the full size would take hours


@pytest.mark.parametrize(
    "text, error, words",
    [
        ("%", InputError, "image: not base64"),
        ("é", InputError, "image: not base64"),
        ("", DataError, "image: empty"),
        ("AAAA", DataError, "image: its content is no PNG"),
        (text_of(PHOTO)[:400], DataError, "image: broken or truncated"),
        (text_of(Image.new("1", (5000, 5000))), DataError, "image: 5000 x 5000 pixels; 16 megapixels is the most"),
        (text_of(Image.new("1", (10_000, 10_000))), DataError, "above the limit of 64 megapixels"),
        (text_of(PHOTO, format="gif"), DataError, "no PNG"),
        (text_of(PHOTO, format="webp", save_all=True, append_images=[PHOTO.rotate(180)]), DataError, "animated"),
    ],
)
@pytest.mark.filterwarnings(BOMB)
def test_pictures_that_are_none(text, error, words):
    with pytest.raises(error, match=words):
        picture("image", text)


@pytest.mark.parametrize("file_format, most", [("png", 0), ("webp", 0), ("jpeg", 30)])
@pytest.mark.parametrize("channels", [1, 3])
def test_files_hold_the_image(file_format, most, channels):
    image = np.asarray(PHOTO.resize((2, 2)).resize((16, 16)))[:, :, :channels]  # smooth, as a JPEG wants it
    found = Image.open(io.BytesIO(base64.b64decode(encoded(image, file_format))))
    assert found.format == file_format.upper()
    assert np.abs(np.asarray(found.convert("L" if channels == 1 else "RGB"), int).reshape(image.shape) - image).max() <= most
