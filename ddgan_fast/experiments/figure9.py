"""Paper Fig. 9: stroke paintings, made of training images, and the images that a model makes of them.

A picture is a function of (model, data, seed, strength, numbers of images and samples).
"""

import numpy as np

from ddgan_fast.data.strokes import stroke_painting
from ddgan_fast.errors import InputError
from ddgan_fast.experiments.figure8 import MOST, images_of
from ddgan_fast.experiments.panels import panel
from ddgan_fast.pictures import to_pil, to_uint8, write_png
from ddgan_fast.pipeline import parse_seeds


def draw(pipe, dataset, path, num_images=4, samples=4, strength=0.5, seed=0):
    """Write the picture: a row for each image of the data, itself, its strokes, and `samples` edits of these.

    Raises InputError for numbers that do not fit.
    """
    if not 1 <= samples <= MOST:
        raise InputError(f"--samples {samples}: it must be 1 to {MOST}")
    rows, seeds = [], parse_seeds(seed, num_images * samples)
    for i, photo in enumerate(to_uint8(images_of(dataset, num_images, seeds[0])).numpy()):
        strokes = stroke_painting(to_pil(photo))
        found = pipe.edit(strokes, strength, seeds=seeds[i * samples : (i + 1) * samples], output_type="uint8")
        rows.append([photo, np.asarray(strokes).reshape(photo.shape), *found.images])
    write_png(path, panel([rows], {0: "image", 1: "strokes", 2: f"edits, NFE {found.nfe}"}, apart=(2,)))
