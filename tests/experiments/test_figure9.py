"""Fig. 9: images of the data, their strokes, and edits of these by seed."""

import numpy as np
import pytest
import torch
from PIL import Image

from ddgan_fast.data.images import InMemory
from ddgan_fast.data.strokes import stroke_painting
from ddgan_fast.errors import InputError
from ddgan_fast.experiments import figure9
from ddgan_fast.experiments.panels import GAP, HEAD, WIDE_GAP

DATA = InMemory("random", torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)))


def test_the_rows_of_the_picture(make, tmp_path):
    pipe = make(image_channels=3)
    figure9.draw(pipe, DATA, tmp_path / "x.png", num_images=2, samples=3, strength=0.75, seed=4)
    picture = np.asarray(Image.open(tmp_path / "x.png"))
    scale = round(560 / 40)
    step = 8 * scale + GAP

    def cell(row, column):
        left = GAP + column * step + (WIDE_GAP - GAP if column >= 2 else 0)
        return picture[HEAD + row * step :, left:][: 8 * scale : scale, : 8 * scale : scale]

    photos = DATA.items[torch.randperm(5, generator=torch.Generator().manual_seed(4))[:2]].permute(0, 2, 3, 1).numpy()
    for row, photo in enumerate(photos):
        strokes = stroke_painting(Image.fromarray(photo))
        assert np.array_equal(cell(row, 0), photo) and np.array_equal(cell(row, 1), np.asarray(strokes))
        edits = pipe.edit(strokes, 0.75, seed=4 + 3 * row, num_images=3, output_type="uint8").images
        assert all(np.array_equal(cell(row, 2 + i), edit) for i, edit in enumerate(edits))


@pytest.mark.parametrize("words", [{"samples": 0}, {"num_images": 6}, {"strength": 2}, {"seed": -1}])
def test_wrong_numbers(make, tmp_path, words):
    with pytest.raises(InputError):
        figure9.draw(make(image_channels=3), DATA, tmp_path / "x.png", **words)
    assert not (tmp_path / "x.png").exists()
