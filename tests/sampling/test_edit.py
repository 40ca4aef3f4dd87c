"""Editing: strength 0 is the image, 1 a new one; what the mask keeps stays to the bit; a seed names a variant in any company."""

import numpy as np
import pytest
import torch
from PIL import Image

from ddgan_fast.data.strokes import stroke_painting
from ddgan_fast.diffusion import denoise, draw_start, q_sample
from ddgan_fast.errors import InputError
from ddgan_fast.noise import POSTERIOR, X_T, normal
from ddgan_fast.ops import posterior_step
from ddgan_fast.sampling.edit import steps_of


@pytest.fixture(scope="module")
def pipe(make):
    return make(image_channels=3)


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)


@pytest.fixture(scope="module")
def mask():
    found = np.zeros((8, 8), bool)
    found[2:5, 3:] = True
    return found


@pytest.mark.parametrize("steps, want", [(1, [0, 0, 1, 1, 1]), (2, [0, 1, 1, 2, 2]), (4, [0, 1, 2, 3, 4])])
def test_steps_of_a_strength(steps, want):
    assert [steps_of(strength, steps) for strength in (0, 0.25, 0.5, 0.75, 1)] == want


@pytest.mark.parametrize("strength", [-0.1, 1.01, 2, float("nan"), float("inf"), "0.5", None])
def test_a_strength_out_of_range_is_refused(strength):
    with pytest.raises(InputError, match="strength"):
        steps_of(strength, 4)


def test_strength_0_returns_the_image_and_1_forgets_it(pipe, image):
    out = pipe.edit(image, 0, num_images=3, output_type="uint8")
    assert out.nfe == 0 and all(np.array_equal(found, image) for found in out.images)
    out = pipe.edit(image, 1.0, num_images=3, seed=5, output_type="uint8")
    assert out.nfe == 4 and out.seeds == [5, 6, 7]
    assert np.array_equal(out.images, pipe(num_images=3, seed=5, output_type="uint8").images)


def test_an_edit_is_denoise_from_the_diffused_image(pipe, image):
    seeds, model, schedule = torch.arange(3), pipe.config.model, pipe.schedule
    x0 = torch.from_numpy(image).permute(2, 0, 1)[None] / 127.5 - 1
    _, z = draw_start(seeds, model, 4)
    x = q_sample(schedule, x0, torch.full((3,), 2), normal(seeds, X_T, 4, (3, 8, 8)))
    want = denoise(pipe.generator, schedule, x, z, start=1, seeds=seeds)
    out = pipe.edit(image, 0.5, num_images=3, output_type="pt")
    assert out.nfe == 2 and torch.allclose(out.images, ((want + 1) / 2).clamp(0, 1), atol=1e-5)


def test_a_mask_keeps_the_rest_to_the_bit_and_blends_in_every_step(pipe, image, mask):
    for strength in (0.25, 0.5, 1.0):
        found = pipe.edit(image, strength, mask, num_images=4, output_type="uint8").images
        assert (found[:, ~mask] == image[~mask]).all() and (found[:, mask] != image[mask]).mean() > 0.9
    seeds, schedule = torch.arange(2), pipe.schedule
    x0, open_ = torch.from_numpy(image).permute(2, 0, 1)[None] / 127.5 - 1, torch.from_numpy(mask)
    x, z = draw_start(seeds, pipe.config.model, 4)
    for t in range(3, -1, -1):
        index = torch.full((2,), t)
        predicted = torch.where(open_, pipe.generator(x, index, z[t]), x0)
        x = posterior_step(predicted, x, index, schedule.posterior, normal(seeds, POSTERIOR, t, (3, 8, 8)))
    got = pipe.edit(image, 1.0, mask, num_images=2, output_type="pt").images
    assert torch.allclose(got, ((x + 1) / 2).clamp(0, 1), atol=1e-5)


def test_gray_of_a_mask_lies_between(pipe, image):
    free, kept, half = (pipe.edit(image, 0.25, np.full((8, 8), level), output_type="np").images for level in (1.0, 0.0, 0.5))
    assert np.abs(half - (free + kept) / 2).max() < 0.01  # one step, so one blend; 0.5 is 128 of 255
    assert np.array_equal(free, pipe.edit(image, 0.25, output_type="np").images)


@pytest.mark.parametrize("masked", [False, True])
def test_a_seed_names_a_variant_at_any_batch_size_on_any_engine(make, image, mask, masked):
    pipe, chosen = make(image_channels=3), mask if masked else None
    whole = pipe.edit(image, 0.5, chosen, num_images=9, output_type="pt").images
    assert len(torch.unique(whole.flatten(1), dim=0)) == 9
    for batch_size in (1, 4):
        assert torch.equal(pipe.edit(image, 0.5, chosen, num_images=9, output_type="pt", batch_size=batch_size).images, whole)
    assert torch.equal(pipe.edit(image, 0.5, chosen, seeds=[8, 2], output_type="pt").images, whole[[8, 2]])
    folded = pipe.compile("folded").edit(image, 0.5, chosen, num_images=9, output_type="pt").images
    assert (folded - whole).abs().max() < 1e-4


def test_variants_without_number_hold_one_image(pipe, image, mask):
    edit = pipe.start_from(image, 0.5, mask).spread(10**8)
    assert edit.x0.shape[0] == 10**8 and edit.x0.stride(0) == edit.mask.stride(0) == 0
    assert edit.rows(slice(5, 9)).x0.shape[0] == 4
    with pytest.raises(InputError, match="2 images to start from, for 3 seeds"):
        edit.rows(slice(0, 2)).spread(3)


def test_the_kept_part_is_exact_in_bfloat16_too(make, image, mask):
    pipe = make(image_channels=3).compile("folded", "bf16")
    found = pipe.edit(image, 0.5, mask, num_images=2, output_type="uint8").images
    assert (found[:, ~mask] == image[~mask]).all()


def test_images_of_any_kind_and_size(pipe, image):
    want = pipe.edit(image, 0.5, output_type="uint8").images
    for same in (Image.fromarray(image), torch.from_numpy(image).permute(2, 0, 1) / 255):
        assert np.abs(pipe.edit(same, 0.5, output_type="uint8").images.astype(int) - want).max() <= 1
    large = Image.fromarray(image).resize((40, 24))
    assert pipe.edit(large, 0.5, large.convert("L"), output_type="uint8").images.shape == (1, 8, 8, 3)
    assert pipe.edit(large.convert("L"), 0.5).images[0].size == (8, 8)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"image": "cat.png"}, "image: str; give a PIL image"),
        ({"image": np.zeros((8, 8, 3))}, r"image: float64 \[8, 8, 3\]"),
        ({"image": torch.zeros(3, 4, 4)}, r"image: a float32 tensor \[3, 4, 4\]; it must be float and \[3, 8, 8\]"),
        ({"image": torch.full((3, 8, 8), 2.0)}, r"in \[0, 1\]"),
        ({"image": torch.full((3, 8, 8), float("nan"))}, r"without NaN"),
        ({"mask": np.zeros((4, 8), bool)}, "mask: 8 x 4, and the image is 8 x 8"),
        ({"mask": np.full((8, 8), 1, np.uint8)}, "255 as white"),
        ({"mask": np.full((8, 8), 1.5)}, r"mask: values from 1.5 to 1.5"),
        ({"mask": np.zeros((8, 8, 3), np.uint8)}, r"it must be bool, uint8 or float, \[H, W\]"),
        ({"mask": np.zeros((8, 8), np.int64)}, "mask: int64"),
        ({"mask": np.zeros((0, 8), np.uint8)}, r"mask: uint8 \[0, 8\]"),
        ({"mask": np.array([["x"]])}, "mask: <U1"),
        ({"mask": "mask.png"}, "mask: str; give a PIL image"),
        ({"strength": True}, "strength True"),
        ({"strength": 2}, "strength 2"),
        ({"num_images": 0}, "num_images must be 1 or more"),
        ({"seed": 2**70}, "a seed must be"),
        ({"output_type": "jpg"}, "output_type 'jpg'"),
        ({"batch_size": 0}, "batch_size = 0"),
    ],
)
def test_wrong_arguments_are_named(pipe, image, changes, words):
    with pytest.raises(InputError, match=words):
        pipe.edit(**{"image": image} | changes)


def test_what_is_transparent_in_a_mask_stays(pipe, image):
    layer = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    layer.paste((255, 255, 255, 255), (0, 0, 3, 3))
    found = pipe.edit(image, np.float32(0.5), layer, output_type="uint8").images[0]
    assert (found[3:] == image[3:]).all() and (found[:3, 3:] == image[:3, 3:]).all() and (found[:3, :3] != image[:3, :3]).any()
    wide = torch.from_numpy(image).permute(2, 0, 1).float().div(255).requires_grad_()  # a tensor of some computation
    assert np.abs(pipe.edit(wide, 0.5, layer, output_type="uint8").images[0].astype(int) - found).max() <= 1
    for kind in (torch.from_numpy, np.float16):
        same = kind(np.asarray(layer)[:, :, 3] == 255) if kind is torch.from_numpy else (np.asarray(layer)[:, :, 3] / 255).astype(kind)
        assert np.array_equal(pipe.edit(image, 0.5, same, output_type="uint8").images[0], found)


def test_models_that_cannot(make, image, mask):
    with pytest.raises(InputError, match="2-D points"):
        make("gaussians25").edit(image)
    with pytest.raises(InputError, match="a mask needs a model that predicts x0"):
        make(image_channels=3, prediction="noise", tanh=False).edit(image, mask=mask)


def test_a_stroke_painting_has_few_flat_colours():
    rng = np.random.default_rng(1)
    photo = Image.fromarray(rng.integers(0, 256, (4, 6, 3), np.uint8)).resize((192, 128), Image.Resampling.BICUBIC)
    strokes = stroke_painting(photo)
    assert strokes.size == photo.size and strokes.mode == "RGB" and 2 <= len(strokes.getcolors()) <= 6
    assert np.abs(np.asarray(strokes, float) - np.asarray(photo, float)).mean() < 40
    assert stroke_painting(photo.convert("L"), 3).mode == "L" and len(stroke_painting(photo, 2).getcolors()) == 2
    with pytest.raises(InputError, match="colors = 0"):
        stroke_painting(photo, 0)
