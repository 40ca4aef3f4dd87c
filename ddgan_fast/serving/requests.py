"""What clients send and get: checked, bounded and decoded before anything reaches the model."""

import base64
import binascii
import io
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ddgan_fast.data.decode import upright, use_image
from ddgan_fast.data.strokes import stroke_painting
from ddgan_fast.errors import DataError, InputError
from ddgan_fast.noise import MAX_SEED
from ddgan_fast.pictures import to_pil
from ddgan_fast.pipeline import edit_of, parse_seeds
from ddgan_fast.serving.batching import work_of

MOST_PIXELS = 16_000_000  # of a client's image
LONGEST_SEEDS, MOST_NUMBERS = 10_000, 1_000  # characters, or numbers of a list; a range has any number
MOST_FIELDS = 20  # of a body; there are fewer
SAVING = {"png": {}, "jpeg": {"quality": 95}, "webp": {"lossless": True}}  # format: options of Pillow
EXAMPLE = "iVBORw0KGgo..."


class Limits(NamedTuple):
    """What one client may ask for, and all together."""

    images: int = 64  # of a request
    body_bytes: int = 10_000_000
    bodies: int = 10  # bodies of that size, and answers, that may be held at once
    body_seconds: float = 10.0  # in which a body must have come
    seconds: float = 60.0  # from the whole body to the answer
    waiting: int = 256  # requests that are not answered yet
    per_minute: int = 0  # requests of one address in a minute of the clock; 0 for any number


class ImagesRequest(BaseModel):
    """Which images to draw: the same seed is the same image in every request."""

    model_config = ConfigDict(extra="forbid", strict=True)
    num_images: int | None = Field(None, description="How many, from `seed` on; 1 by default.")
    seed: int = Field(0, ge=0, le=MAX_SEED)
    seeds: str | list[int] | None = Field(None, description='"0-63" (inclusive), "3,5,9" or a list.')
    format: Literal["png", "jpeg", "webp"] = "png"

    @model_validator(mode="before")
    @classmethod
    def bounded(cls, body):
        """Refuse what is too long before pydantic finds an error in each part of it."""
        if isinstance(body, dict) and len(body) > MOST_FIELDS:
            raise ValueError(f"{len(body):,} fields; there are {', '.join(cls.model_fields)}")
        seeds = body.get("seeds") if isinstance(body, dict) else None
        if isinstance(seeds, str) and len(seeds) > LONGEST_SEEDS or isinstance(seeds, list) and len(seeds) > MOST_NUMBERS:
            raise ValueError(f"seeds: {len(seeds):,} numbers or letters; {MOST_NUMBERS:,} and {LONGEST_SEEDS:,} are the most")
        return body

    def found_seeds(self, most):
        """The seeds. Raises InputError where they do not fit, or are more than `most`."""
        return parse_seeds(self.seed if self.seeds is None else self.seeds, self.num_images, most)


class EditsRequest(ImagesRequest):
    """Variants of an image: diffused to step floor(strength T + 0.5) and denoised from there."""

    image: str = Field(
        description="A png, jpeg, webp or bmp in base64 (a data URL too); the model gets its middle square, resized.", examples=[EXAMPLE]
    )
    strength: float = Field(0.5, description="0 leaves the image as it is, 1 forgets it.")
    mask: str | None = Field(None, description="Of the image's size, in base64: white may change, black stays to the bit.")
    strokes: bool = Field(False, description="Make the image a stroke painting first.")


class ImagesReply(BaseModel):
    """The images in the order of their seeds."""

    images: list[str] = Field(description="Files of the format asked for, in base64.")
    seeds: list[int]
    nfe: int = Field(description="Network evaluations of each image.")
    format: str
    seconds: float = Field(description="From the whole body to the images, waiting included.")


def images_work(body, config, limits):
    """The batching.Work of an ImagesRequest. Raises InputError."""
    return work_of(body.found_seeds(limits.images), config.diffusion.steps)


def edits_work(body, config, limits):
    """The batching.Work of an EditsRequest. Raises InputError, and DataError for an image that is broken or too large."""
    seeds, image = body.found_seeds(limits.images), picture("image", body.image)
    mask = None if body.mask is None else picture("mask", body.mask)
    edit = edit_of(config, stroke_painting(image) if body.strokes else image, body.strength, mask)
    return work_of(seeds, config.diffusion.steps, edit)


def picture(name, text):
    """The PIL image, upright, of a file in base64, with or without the head of a data URL.

    Raises InputError for another text, DataError for a file that is no image, is broken, or has above 16 megapixels.
    """
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"{name}: not base64: {error}") from error

    def use(image):
        if image.width * image.height > MOST_PIXELS:
            raise DataError(f"{name}: {image.width} x {image.height} pixels; {MOST_PIXELS // 10**6} megapixels is the most")
        return upright(image).copy()

    return use_image(content, name, use)


def reply(images, work, file_format, seconds):
    """The ImagesReply of uint8 images [n, H, W, C]."""
    return ImagesReply(
        images=[encoded(image, file_format) for image in images], seeds=work.seeds, nfe=work.steps, format=file_format, seconds=seconds
    )


def encoded(image, file_format):
    """A file in base64 of one image, uint8 [H, W, C]."""
    buffer = io.BytesIO()
    to_pil(image).save(buffer, file_format, **SAVING[file_format])
    return base64.b64encode(buffer.getvalue()).decode()
