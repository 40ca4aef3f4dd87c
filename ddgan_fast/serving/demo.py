"""What the buttons of the demo page do, without the page: numbers and pictures of a client in, HTML out.

Clients are taken for hostile: numbers have limits, and pictures come as small data URLs, never as paths or links.
"""

import re
from dataclasses import dataclass

import numpy as np
import torch

from ddgan_fast.data.strokes import stroke_painting
from ddgan_fast.errors import InputError
from ddgan_fast.noise import MAX_SEED
from ddgan_fast.pictures import to_uint8
from ddgan_fast.sampling.edit import steps_of
from ddgan_fast.sampling.film import film
from ddgan_fast.serving import canvas, tiles

MOST_IMAGES, LEAST_IMAGES = 64, 4  # of one click at most; fewer than 64 where they take more than MOST_SECONDS
MOST_SECONDS = 60.0
TIMED_IMAGES = 16


@dataclass(frozen=True)
class Facts:
    """What is measured once, before the page opens."""

    ms_per_image: float
    timed_images: int
    """Images of the batch that was timed."""
    most_images: int
    """Images of one click at most."""
    background: str
    """The median colour of the model's images, #rrggbb, which an empty canvas has."""


def measure(pipe):
    """The Facts of a pipeline, from two batches: one image, then 16 of them unless the one took over a second.

    Raises InputError for a model of points.
    """
    if len(pipe.config.model.sample_shape) != 3:
        raise InputError("this model draws 2-D points; the demo page needs one of images")
    first = pipe(1, output_type="uint8")
    count = TIMED_IMAGES if first.seconds < 1 else 1
    timed = pipe(count, output_type="uint8")
    ms = 1e3 * timed.seconds / count
    most = int(min(MOST_IMAGES, max(LEAST_IMAGES, 1e3 * MOST_SECONDS / ms)))
    middle = np.median(timed.images.reshape(-1, timed.images.shape[3]), axis=0)
    levels = np.broadcast_to((middle / 51).round().astype(int) * 51, 3)  # as coarse as the palette, so that it is no second black
    return Facts(ms, count, most, "#" + "".join(f"{level:02x}" for level in levels))


def read_request(num_images, seed, most):
    """(number of images, first seed) as whole numbers of what a client sent. Raises InputError outside 1..most and 0..2^63 - 1."""
    if not isinstance(num_images, (int, float)) or num_images not in range(1, most + 1):
        raise InputError(f"number of images: it must be a whole number from 1 to {most}")
    if not isinstance(seed, str) or not re.fullmatch("[0-9]{1,19}", seed.strip()) or int(seed) + int(num_images) - 1 > MAX_SEED:
        raise InputError(f"seed: it must be a whole number from 0 to {MAX_SEED}, and so must those of the images after the first")
    return int(num_images), int(seed)


def sample(pipe, num_images, seed, most=MOST_IMAGES):
    """(HTML of the images that seeds seed .. seed + num_images - 1 name, HTML of the steps of the first).

    num_images, seed: a number and a text, as the page has them; most: of num_images.  Raises InputError for others.
    """
    count, first = read_request(num_images, seed, most)
    drawn = pipe(count, first, output_type="uint8")
    return (
        tiles.tiles(drawn.images, [f"seed {name}" for name in drawn.seeds], _spent(drawn)),
        film_of(pipe, first),
    )


def film_of(pipe, seed):
    """HTML of x_T .. x_0 of a seed, and below each x_t what the generator made of it."""
    noisy, put_out = (to_uint8(images).cpu().numpy() for images in film(pipe.generator, pipe.schedule, seed))
    steps, prediction = len(put_out), pipe.config.diffusion.prediction
    times = [f"x_{t}" for t in range(steps, -1, -1)]
    below = [f"{prediction} from {time}" for time in times[:-1]]
    note = f"Seed {seed} in {steps} steps, from noise to the image; below each x_t is the {prediction} that the network predicts from it."
    return tiles.strip([list(noisy), [*put_out, None]], [times, [*below, ""]], note)


def edit(pipe, drawing, strength, num_images, seed, only_painted=False, most=MOST_IMAGES):
    """HTML of what the model got and of variants of it.

    drawing: what the canvas sent (canvas.read_picture).  strength: 0 to 1.  num_images, seed, most: as of `sample`.
    only_painted: whether the rest of the picture stays as it is, to the bit.  Raises InputError for others.
    """
    count, first = read_request(num_images, seed, most)
    picture = canvas.read_picture(drawing, "picture")
    if picture is None:
        raise InputError("the canvas is not there yet; paint something first")
    mask = canvas.read_picture(drawing, "painted") if only_painted else None
    if mask is not None:
        mask = mask.convert("L")
        if mask.getbbox() is None:
            raise InputError("nothing is painted yet that may change; paint, or let everything change")
    given = pipe.edit(picture, 0, output_type="uint8").images  # no step: as the model gets it
    drawn = pipe.edit(picture, strength, mask, count, first, output_type="uint8")
    captions = ["your picture", *(f"seed {name}" for name in drawn.seeds)]
    return tiles.tiles(np.concatenate((given, drawn.images)), captions, f"Strength {strength:.2g}: {_spent(drawn)}")


def steps_text(pipe, strength):
    """What a strength means, in words. Raises InputError for one outside [0, 1]."""
    steps = pipe.config.diffusion.steps
    k = steps_of(strength, steps)
    return f"Strength {strength:.2g}: k = {k} of {steps} steps, NFE {k}."


def _spent(drawn):
    images = "1 image" if len(drawn.seeds) == 1 else f"{len(drawn.seeds)} images"
    return f"{images} in {1e3 * drawn.seconds:.0f} ms, NFE {drawn.nfe}."


def strokes(drawing):
    """{"strokes": data URL}: the photo of what the canvas sent, in few flat colours. Raises InputError where it holds none."""
    photo = canvas.read_picture(drawing, "photo")
    if photo is None:
        raise InputError("there is no photo to make strokes of; open one first")
    photo.thumbnail((canvas.PHOTO_SIDE, canvas.PHOTO_SIDE))  # the filter of a larger one takes long
    return {"strokes": canvas.picture_url(stroke_painting(photo))}


def about(pipe, name, facts, card=""):
    """Markdown about a model: its numbers here, and its card without the head of settings."""
    model, device = pipe.config.model, pipe.device
    count = sum(parameter.numel() for parameter in pipe.generator.parameters())
    rows = {
        "Images": f"{model.resolution} x {model.resolution}, {'gray' if model.image_channels == 1 else 'RGB'}",
        "Parameters": f"{count:,}",
        "Network evaluations per image (NFE)": pipe.config.diffusion.steps,
        "Time per image": f"{facts.ms_per_image:.3g} ms, measured at the start of this page, {facts.timed_images} at once",
        "Device": f"{device}" if device.type == "cpu" else f"{device} ({torch.cuda.get_device_name(device)})",
        "Engine": f"{pipe.runs}, {pipe.precision or 'fp32'}",
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    body = re.sub(r"\A---\n.*?\n---\n", "", card, flags=re.DOTALL)
    title = name.replace("|", " ")  # which would end a cell
    return f"| Model | {title} |\n|---|---|\n{table}\n\n{body}"
