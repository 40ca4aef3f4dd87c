"""Stroke paintings made from photos, as SDEdit simulates those of people (Meng et al. 2021, App. D)."""

from PIL import Image, ImageFilter

from ddgan_fast.data.images import on_white
from ddgan_fast.errors import InputError

COLORS = 6
PAINTED_SIDE = 64  # of the shorter side it is painted at, in pixels: a median filter's time grows with the fourth power
PAINTED_AREA = 16 * PAINTED_SIDE**2  # at most, of long ones
FILTER_SHARE = 23 / 256  # side of the filter, of that of the image: 23 pixels of 256


def stroke_painting(image, colors=COLORS):
    """A PIL image of the same size in few flat colours: a median filter, then the palette that fits best.

    image: PIL image of any mode and size.  colors: 1 to 256 of the result.  Returns an image of mode RGB, or L where the given one is gray.
    Raises InputError for another number of colours.
    """
    if not 1 <= colors <= 256:
        raise InputError(f"colors = {colors}: a stroke painting has 1 to 256")
    gray = image.mode in ("1", "L", "LA") or image.mode.startswith("I")
    small = on_white(image).convert("RGB")
    if (shrink := min(PAINTED_SIDE / min(image.size), (PAINTED_AREA / (image.width * image.height)) ** 0.5)) < 1:
        small = small.resize([max(1, round(shrink * side)) for side in image.size], Image.Resampling.BOX)
    filtered = small.filter(ImageFilter.MedianFilter(max(3, round(FILTER_SHARE * min(small.size)) | 1)))
    flat = filtered.quantize(colors, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    if flat.size != image.size:  # smooth borders between the same colours
        flat = flat.convert("RGB").resize(image.size, Image.Resampling.BICUBIC).quantize(palette=flat, dither=Image.Dither.NONE)
    return flat.convert("L" if gray else "RGB")
