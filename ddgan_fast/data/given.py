"""An image and a mask as people hand them over, brought to what a model edits."""

import numpy as np
import torch
from PIL import Image

from ddgan_fast.data.images import fit_image
from ddgan_fast.errors import InputError

WANTED = "give a PIL image, a uint8 array [H, W], [H, W, 1 or 3], or a float tensor [C, H, W] in [0, 1] of the model's shape"


def as_x0(image, shape):
    """[1, C, R, R] float32 in [-1, 1] of an image.

    image: PIL, or numpy uint8 [H, W] or [H, W, 1 or 3], of any size: the middle square, resized (data.images.fit_image); or a float
    tensor of `shape`, in [0, 1], as it is.  shape: (C, R, R).  Raises InputError for anything else.
    """
    if torch.is_tensor(image):
        if tuple(image.shape) != tuple(shape) or not image.is_floating_point():
            raise InputError(f"image: a {_name(image.dtype)} tensor {list(image.shape)}; it must be float and {list(shape)}")
        _require_unit("image", image)
        return 2 * image.detach().float().cpu()[None] - 1
    return fit_image(_picture("image", image), shape)[None] / 127.5 - 1


def as_mask(mask, image, shape):
    """[1, 1, R, R] float32 in [0, 1] of the mask of an image, cut and resized as the image is.

    mask: PIL, or numpy or a tensor [H, W] of bool, uint8 0 to 255 or float 0 to 1, of the size of `image` as `as_x0` takes it; white,
    True or 1 is where the image may change; what is transparent is black.  shape: as there.  Raises InputError for anything else.
    """
    mask = mask if isinstance(mask, Image.Image) else Image.fromarray(_levels(mask))
    if mask.has_transparency_data and not mask.mode.startswith("I"):  # of 16 bits, which would be cut
        mask = Image.alpha_composite(Image.new("RGBA", mask.size, "black"), mask.convert("RGBA"))
    size = (shape[2], shape[1]) if torch.is_tensor(image) else _picture("image", image).size
    if mask.size != size:
        raise InputError(f"mask: {mask.width} x {mask.height}, and the image is {size[0]} x {size[1]}; they must have one size")
    return fit_image(mask, (1, *shape[1:]))[None] / 255


def _levels(mask):
    """uint8 [H, W] of a mask that is an array or tensor."""
    if isinstance(mask, np.ndarray):
        found = mask
    elif torch.is_tensor(mask):
        found = (mask.float() if mask.is_floating_point() else mask).detach().cpu().numpy()
        found = found[0] if found.ndim == 3 and len(found) == 1 else found
    else:
        raise InputError(f"mask: {type(mask).__name__}; give a PIL image, or an array or tensor [H, W]")
    if found.ndim != 2 or not found.size or not (found.dtype in (bool, np.uint8) or np.issubdtype(found.dtype, np.floating)):
        raise InputError(f"mask: {found.dtype} {list(found.shape)}; it must be bool, uint8 or float, [H, W]")
    if found.dtype == np.uint8:
        if found.max() == 1:
            raise InputError("mask: uint8 with 1 as its largest value, which is black; give bool, float, or uint8 with 255 as white")
        return np.ascontiguousarray(found)
    _require_unit("mask", found)
    return np.round(255 * found.astype(np.float32)).astype(np.uint8)


def _picture(name, image):
    """A PIL image of a PIL image or an array."""
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and (image.ndim == 2 or image.ndim == 3 and image.shape[2] in (1, 3)):
        image = Image.fromarray(np.ascontiguousarray(image if image.ndim == 2 or image.shape[2] == 3 else image[:, :, 0]))
    if not isinstance(image, Image.Image):
        found = f"{image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__
        raise InputError(f"{name}: {found}; {WANTED}")
    if min(image.size) < 1:
        raise InputError(f"{name}: {image.width} x {image.height} pixels; it must have 1 or more")
    return image


def _require_unit(name, values):
    if not ((values >= 0) & (values <= 1)).all():  # NaN is neither
        raise InputError(f"{name}: values from {values.min():g} to {values.max():g}; they must be in [0, 1], without NaN")


def _name(dtype):
    return str(dtype).removeprefix("torch.")
