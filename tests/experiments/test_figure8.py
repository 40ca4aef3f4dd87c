"""Figs. 8, 14, 15: the rows are the data, q_sample of it, and what the generator draws from it."""

import numpy as np
import pytest
import torch
from PIL import Image

from ddgan_fast import noise
from ddgan_fast.data.images import InMemory
from ddgan_fast.diffusion import draw_start
from ddgan_fast.errors import InputError
from ddgan_fast.experiments import figure8
from ddgan_fast.experiments.figure8 import clean_samples, diffuse, draw_levels, draw_multimodality, drawn, images_of
from ddgan_fast.experiments.panels import GAP, HEAD, WIDE_GAP
from ddgan_fast.noise import as_seeds
from ddgan_fast.pictures import to_uint8

PIXELS = torch.randint(0, 256, (20, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
DATA = InMemory("random", PIXELS)


def test_images_are_those_of_the_data(make):
    images = images_of(DATA, 20, seed=3)
    found = to_uint8(images).permute(0, 3, 1, 2)
    assert sorted(map(bytes, found.numpy())) == sorted(map(bytes, PIXELS.numpy()))
    assert torch.equal(images[:5], images_of(DATA, 5, seed=3)) and not torch.equal(images[:5], images_of(DATA, 5, seed=4))
    for count in (0, 21):
        with pytest.raises(InputError, match="1 to 20"):
            images_of(DATA, count, seed=0)


def test_the_chain_starts_with_the_image_and_ends_with_the_noise_of_the_seed(make):
    pipe = make()
    x0, chain = images_of(DATA, 1, 0)[0], diffuse(pipe.schedule, images_of(DATA, 1, 0)[0], 7)
    assert chain.shape == (5, 1, 8, 8) and torch.equal(chain[0], x0)
    start, _ = draw_start(as_seeds([7]), pipe.config.model, 4)
    assert (chain[4] - start[0]).abs().max() < 0.02
    t = 2
    want = pipe.schedule.a_cum[t] * x0 + pipe.schedule.sigma_cum[t] * noise.normal(as_seeds([7]), noise.X_T, t, (1, 8, 8))[0]
    assert torch.allclose(chain[t], want, atol=1e-6)


@pytest.mark.parametrize("prediction", ["x0", "noise"])
def test_a_sample_is_what_the_generator_makes_of_one_pair(make, prediction):
    pipe = make(prediction=prediction, tanh=False)
    noisy = diffuse(pipe.schedule, images_of(DATA, 1, 0)[0], 0)[1:]
    found = clean_samples(pipe, noisy, [5, 6, 7])
    assert found.shape == (3, 4, 1, 8, 8)
    _, z = draw_start(as_seeds([6]), pipe.config.model, 4)
    for t in range(4):
        want = pipe.generator(noisy[t : t + 1], torch.tensor([t]), z[t])
        if prediction == "noise":
            want = (noisy[t] - pipe.schedule.sigma_cum[t + 1] * want) / pipe.schedule.a_cum[t + 1]
        assert torch.allclose(found[1, t], want[0], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found[0], found[1])


def test_without_latent_all_samples_are_one_and_x_t_has_none(make):
    pipe = make(latent=False)
    found = clean_samples(pipe, diffuse(pipe.schedule, images_of(DATA, 1, 0)[0], 0)[1:], [1, 2])
    assert torch.allclose(found[0], found[1], atol=1e-5)
    with pytest.raises(InputError, match="prediction = x_t"):
        clean_samples(make(prediction="x_t", tanh=False), torch.zeros(4, 1, 8, 8), [1])


def test_pictures_are_functions_of_the_seed(make, tmp_path):
    pipe = make()
    for draw in (draw_multimodality, draw_levels):
        pictures = []
        for i, seed in enumerate((0, 0, 1)):
            draw(pipe, DATA, tmp_path / f"{i}.png", num_images=2, seed=seed)
            pictures.append((tmp_path / f"{i}.png").read_bytes())
        assert pictures[0] == pictures[1] != pictures[2]


def test_the_rows_of_the_pictures(make, tmp_path):
    pipe = make()
    (noisy, found), _ = drawn(pipe, DATA, 2, 3, 0, steps=4)

    def image_at(picture, row, column, scale, block=0):
        left = GAP + column * (8 * scale + GAP) + (WIDE_GAP - GAP) * (column >= apart)
        top = HEAD + row * (8 * scale + GAP) + block * (4 * (8 * scale + GAP) - GAP + WIDE_GAP)
        return picture[top : top + 8 * scale : scale, left : left + 8 * scale : scale]

    draw_multimodality(pipe, DATA, tmp_path / "8.png", num_images=2)
    picture, apart = np.asarray(Image.open(tmp_path / "8.png")), 2
    for column, image in enumerate((noisy[0], noisy[1])):
        assert np.array_equal(image_at(picture, 0, column, 14), to_uint8(image[None])[0, :, :, 0])
    assert np.abs(image_at(picture, 0, 4, 14).astype(int) - to_uint8(found[2, :1])[0, :, :, 0].numpy()).max() <= 1
    draw_levels(pipe, DATA, tmp_path / "14.png", num_images=2)
    picture, apart = np.asarray(Image.open(tmp_path / "14.png")), 1
    second = to_uint8(images_of(DATA, 2, 0))[1, :, :, 0]
    assert np.array_equal(image_at(picture, 0, 0, 14, block=1), second)
    for t in range(1, 5):
        assert np.array_equal(image_at(picture, 0, t, 14), to_uint8(noisy[t : t + 1])[0, :, :, 0])
        assert np.array_equal(image_at(picture, 3, t, 14), to_uint8(found[2, t - 1][None])[0, :, :, 0])
    assert (image_at(picture, 1, 0, 14) == 255).all()


def test_refuses_no_samples_and_seeds_out_of_range(make):
    with pytest.raises(InputError, match="--samples 0"):
        next(figure8.drawn(make(), DATA, 1, 0, 0, 1))
    for seed in (-1, 2**63 - 2):
        with pytest.raises(InputError, match="seed"):
            next(figure8.drawn(make(), DATA, 1, 3, seed, 1))
