"""Stroke paintings made from photos, as SDEdit simulates those of people (Meng et al. 2021, App. D)."""

from PIL import Image, ImageFilter

from ddgan_fast.data.images import on_white
from ddgan_fast.errors import InputError

COLORS = 6
FILTER_SHARE = 23 / 256  # side of the median filter, of that of the image: 23 pixels of 256


def stroke_painting(image, colors=COLORS):
    """A PIL image of the same size in few flat colours: a median filter, then the palette that fits best.

    image: PIL image of any mode.  colors: 1 to 256 of the result.  Returns an image of mode RGB, or L where the given one is gray.
    Raises InputError for another number of colours.
    """
    if not 1 <= colors <= 256:
        raise InputError(f"colors = {colors}: a stroke painting has 1 to 256")
    gray = image.mode in ("1", "L", "LA") or image.mode.startswith("I")
    image = on_white(image).convert("RGB")
    side = max(3, round(FILTER_SHARE * min(image.size)) | 1)
    flat = image.filter(ImageFilter.MedianFilter(side)).quantize(colors, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    return flat.convert("L" if gray else "RGB")
