"""Figs. 5, 7, 11-13: the grid holds the pipeline's images, the film ends with one of them."""

import numpy as np
import pytest
import torch
from PIL import Image

from ddgan_fast.errors import InputError
from ddgan_fast.experiments.samples import draw_films, draw_grid
from ddgan_fast.pictures import grid
from ddgan_fast.sampling.film import film


def test_the_grid_is_of_the_images_that_seeds_name(make, tmp_path):
    pipe, seen = make(), []
    draw_grid(pipe, range(5, 10), tmp_path / "grid.png", batch_size=2, watch=seen.append)
    want = grid(pipe(seeds="5-9", output_type="uint8").images)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "grid.png")), want[:, :, 0]) and seen == [2, 2, 1]


@pytest.mark.parametrize("prediction", ["x0", "x_t", "noise"])
def test_the_film_ends_with_the_sample(make, prediction):
    pipe = make(prediction=prediction, tanh=False)
    noisy, put_out = film(pipe.generator, pipe.schedule, 3)
    assert noisy.shape == (5, 1, 8, 8) and put_out.shape == (4, 1, 8, 8)
    _, want = next(pipe.batches([3]))
    assert torch.allclose(noisy[-1], want[0], rtol=1e-3, atol=1e-4 * want.abs().max())
    if prediction == "x0":
        assert torch.allclose(put_out[-1], noisy[-1], rtol=1e-5, atol=1e-5)  # the last step copies it


def test_film_strips_are_the_same_again(make, tmp_path):
    for name in ("a.png", "b.png"):
        draw_films(make(), range(2), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_refuses_what_no_picture_holds(make, tmp_path):
    with pytest.raises(InputError, match="4,096"):
        draw_grid(make(), range(4097), tmp_path / "x.png")
    with pytest.raises(InputError, match="--film 101"):
        draw_films(make(), range(101), tmp_path / "x.png")
