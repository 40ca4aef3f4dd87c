"""What the pictures of experiments are made of: images in rows and columns with words above, matplotlib's figures, and folders for them."""

import re

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ddgan_fast.errors import InputError, MissingError, ResourceError
from ddgan_fast.pictures import to_pil, whole_file

GAP, WIDE_GAP = 4, 20  # white pixels between images, and between groups of them
HEAD = 26  # pixels of the words above
LEAST_WIDTH = 560  # small images are enlarged until the picture has about that
LETTERS, INDICES = 16, 11  # pixels of words, and of indices in them


def folder_for(path):
    """The folder, made where it is missing. Raises InputError where it cannot be one, ResourceError where the disk refuses."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"--out {path}: there is a file of that name; give a folder") from error
    except OSError as error:
        raise ResourceError(f"--out {path}: the folder cannot be made: {error}") from error
    return path


def new_figure(**options):
    """A matplotlib Figure, which needs no display. Raises MissingError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingError(f'matplotlib cannot be imported ({error}): pip install "ddgan_fast[plots]"') from error
    return Figure(**options)


def save_figure(figure, path):
    """Write the figure as PNG."""
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def panel(blocks, headings, apart=()):
    """One picture uint8 [H', W', 1 or 3] of blocks of images below one another, on white.

    blocks: lists of rows, a row a list of uint8 [H, W, C] of one shape, or None for an empty place.
    headings: {column: words above it}, `x_1` with a small 1; words run over the columns to their right.
    apart: columns that stand apart from the one before.
    """
    rows = [row for block in blocks for row in block]
    height, width, channels = next(image for row in rows for image in row if image is not None).shape
    columns = max(map(len, rows))
    scale = max(1, round(LEAST_WIDTH / (columns * width)))
    lefts = [GAP + column * (scale * width + GAP) + sum(WIDE_GAP - GAP for at in apart if at <= column) for column in range(columns)]
    tops, top = [], HEAD
    for block in blocks:
        tops += [top + row * (scale * height + GAP) for row in range(len(block))]
        top = tops[-1] + scale * height + WIDE_GAP
    picture = np.full((top - WIDE_GAP + GAP, _width(headings, lefts, scale * width), channels), 255, np.uint8)
    for row, y in zip(rows, tops, strict=True):
        for image, x in zip(row, lefts, strict=False):
            if image is not None:
                picture[y : y + scale * height, x : x + scale * width] = image.repeat(scale, axis=0).repeat(scale, axis=1)
    head = to_pil(np.ascontiguousarray(picture[:HEAD]))
    for column, words in headings.items():
        _write(ImageDraw.Draw(head), lefts[column], words)
    picture[:HEAD] = np.asarray(head).reshape(HEAD, -1, channels)
    return picture


def _width(headings, lefts, width):
    """Pixels that the columns take, or the words above them."""
    brush = ImageDraw.Draw(Image.new("L", (1, 1)))
    ends = [_write(brush, lefts[column], words) for column, words in headings.items()]
    return int(max(lefts[-1] + width, *ends, 0)) + GAP


def _write(brush, left, words):
    """Draw words on the first HEAD pixels; returns where they end."""
    for part in re.split(r"(_\w)", words):
        font = ImageFont.load_default(INDICES if part.startswith("_") else LETTERS)
        brush.text((left, HEAD - 8), part.removeprefix("_"), "black", font, anchor="ls" if font.size == LETTERS else "lm")
        left += font.getlength(part.removeprefix("_"))
    return left
