"""Any picture brought to the shape that a model trains on, and the data set that is one tensor."""

import numpy as np
import torch
from PIL import Image


class InMemory:
    """A data set that is one tensor.

    items: uint8 [N, C, H, W] images or float32 [N, 2] points; may be an expanded view.
    """

    def __init__(self, name, items):
        self.name = name
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitems__(self, indices):
        """The rows of those indices as one batch [B, ...], in torch's protocol of batched fetching."""
        return self.items[torch.as_tensor(indices)].contiguous()


def on_white(image):
    """The PIL image without transparency, 8 bits a channel: what was transparent is white."""
    if image.mode.startswith("I"):  # 16-bit gray; Pillow's own conversion may clip it instead of scaling
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if not image.has_transparency_data:
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA")).convert("RGB")


def fit_image(image, shape):
    """The middle square of a PIL image, resized with an antialiased bilinear filter, as the released code does.

    shape: (C, R, R), C = 1 (gray) or 3 (RGB).  Returns uint8 [C, R, R]; an image that has this shape keeps its pixels.
    """
    channels, size, _ = shape
    image = on_white(image).convert("L" if channels == 1 else "RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
    return torch.from_numpy(np.array(image).reshape(size, size, channels)).permute(2, 0, 1)


def fit_pixels(pixels, shape):
    """`fit_image` for a whole set of equal sizes.

    pixels: uint8 [N, c, h, w], c = 1 or 3.  shape: (C, R, R).  Returns uint8 [N, C, R, R]; gray shown as RGB is a view of one channel.
    """
    channels = shape[0]
    kept = min(pixels.shape[1], channels)
    if pixels.shape[1:] != (kept, *shape[1:]):
        fitted = torch.empty(len(pixels), kept, *shape[1:], dtype=torch.uint8)
        for target, image in zip(fitted, pixels.permute(0, 2, 3, 1).numpy(), strict=True):  # [h, w, c]
            image = image[..., 0] if image.shape[-1] == 1 else np.ascontiguousarray(image)
            target.copy_(fit_image(Image.fromarray(image), fitted.shape[1:]))
        pixels = fitted
    return pixels.expand(-1, channels, -1, -1)
