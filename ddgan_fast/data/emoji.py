"""The colour bitmaps of the Noto emoji font: real colour images that a Debian package brings."""

import io
from pathlib import Path

import torch
from PIL import Image

from ddgan_fast.data.images import InMemory, fit_image, on_white
from ddgan_fast.errors import DataError, MissingError

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")  # where Debian's package puts it
APT_LINE = "apt-get install fonts-noto-color-emoji"


def open_emoji(path, shape):
    """Each unique bitmap of the font once, on white, whole, brought to `shape`. path: None for the Debian package's font."""
    if path is None and not FONT.is_file():
        raise DataError(f"data set emoji: no {FONT}; {APT_LINE}, or give emoji:FILE with another NotoColorEmoji.ttf")
    path = path or FONT
    if not path.is_file():
        raise DataError(f"data set emoji: no file {path}; it must be a NotoColorEmoji.ttf ({APT_LINE} brings {FONT})")
    bitmaps = _bitmaps(path)
    pixels = torch.empty(len(bitmaps), *shape, dtype=torch.uint8)
    for target, content in zip(pixels, bitmaps, strict=True):
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            target.copy_(fit_image(_squared(on_white(image)), shape))
    return InMemory("emoji", pixels)


def _bitmaps(path):
    """The unique PNG files of the font's CBDT table, in the font's order."""
    try:
        from fontTools.ttLib import TTFont
    except ImportError as error:
        raise MissingError(f'data set emoji: fontTools is not installed ({error}); pip install "ddgan_fast[toy]"') from error
    try:
        with TTFont(path, lazy=True) as font:
            strikes = font["CBDT"].strikeData if "CBDT" in font else []
            bitmaps = dict.fromkeys(glyph.imageData for strike in strikes for glyph in strike.values() if hasattr(glyph, "imageData"))
    except Exception as error:  # fontTools raises anything for a broken font
        raise DataError(f"{path}: not a readable font ({type(error).__name__}: {error}); {APT_LINE} brings one") from error
    if not bitmaps:
        raise DataError(f"{path}: the font has no colour bitmaps (table CBDT); {APT_LINE} brings one that has")
    return list(bitmaps)


def _squared(image):
    """The RGB image in the middle of a white square, so that nothing is cropped."""
    side = max(image.size)
    square = Image.new("RGB", (side, side), "white")
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square
