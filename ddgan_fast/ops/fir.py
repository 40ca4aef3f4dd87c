"""Anti-aliased resampling with the FIR filter [1, 3, 3, 1] (Zhang 2019; Karras et al. 2020), zero padding, any gradient order."""

import torch
import torch.nn.functional as F

from ddgan_fast.ops.backend import always, pick


def fir_up2(x):
    """Twice the size: zero insertion, pads (2, 1), the filter times 4.  [B, C, H, W] -> [B, C, 2H, 2W], same dtype and memory format."""
    return pick("fir_up2", UP, x)(x)


def fir_down2(x):
    """Half the size: pads (1, 1), the filter, every second pixel.  [B, C, H, W] -> [B, C, H // 2, W // 2], same dtype and memory format."""
    return pick("fir_down2", DOWN, x)(x)


def fir_blur(x):
    """The filter with pads (2, 2), before a strided 3x3 convolution without padding.  [B, C, H, W] -> [B, C, H + 1, W + 1]."""
    return pick("fir_blur", BLUR, x)(x)


def _taps(x):
    """[C, 1, 4, 4]: the outer product of [1, 3, 3, 1] / 8 with itself."""
    taps = (4 - (2 * torch.arange(4, device=x.device) - 3).abs()).to(x.dtype) / 8  # made on the device: no copy from the host
    return torch.outer(taps, taps).expand(x.shape[1], 1, 4, 4)


def reference_up2(x):
    return F.conv_transpose2d(x, 4 * _taps(x), stride=2, padding=1, groups=x.shape[1])


def reference_down2(x):
    return F.conv2d(x, _taps(x), stride=2, padding=1, groups=x.shape[1])


def reference_blur(x):
    return F.conv2d(x, _taps(x), padding=2, groups=x.shape[1])


UP = {"reference": (always, reference_up2)}
DOWN = {"reference": (always, reference_down2)}
BLUR = {"reference": (always, reference_blur)}
