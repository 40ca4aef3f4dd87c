"""A 3x3 convolution with the bias and the residual input behind it; on a CPU by Winograd (Lavin and Gray, 2016; csrc/winograd.h)."""

import math

import torch
import torch.nn.functional as F

from ddgan_fast.errors import InputError
from ddgan_fast.ops import extension
from ddgan_fast.ops.arguments import require_images, require_like
from ddgan_fast.ops.backend import always, forced, pick

OP = "conv3x3"
PANEL = 16  # outputs whose weights lie side by side
POINTS = 0.0, 0.625, -0.625, 1.5, -1.5  # and infinity
FEWEST_INPUTS, FEWEST_PIXELS = 32, 16  # below these a direct sum of 4 images is faster or as fast (benchmarks/conv3x3.py)


def conv3x3(x, weight, transformed=None, bias=None, join=None, scale=1.0):
    """(conv2d(x, weight, padding=1) + bias + join) * scale, of stride 1.

    x: [B, Cin, H, W].  weight: [Cout, Cin, 3, 3], in x's dtype.  transformed: `winograd_weight(weight)`, made once, or None.
    bias: [Cout], in x's dtype or float32, or None.  join: [B, Cout, H, W], in x's dtype and memory format, or None.
    Gradients: any order, to all but `transformed` (plain torch then, which does not read it).  An image's bits in the backend "cpu"
    depend neither on the images beside it nor on the threads; an infinite or NaN input makes a whole tile of 4x4 outputs NaN there.
    Raises InputError for arguments that do not fit.
    """
    require_images(OP, "x", x)
    outputs, inputs = weight.shape[0] if weight.dim() else 0, x.shape[1]
    require_like(OP, "weight", weight, x, (outputs, inputs, 3, 3))
    require_like(OP, "transformed", transformed, x, _transformed_shape(outputs, inputs), dtypes=(torch.float32,))
    require_like(OP, "bias", bias, x, (outputs,), dtypes=(torch.float32,))
    require_like(OP, "join", join, x, (x.shape[0], outputs, *x.shape[2:]))
    arguments = x, weight, transformed, bias, join
    return pick(OP, BACKENDS, *arguments)(*arguments, scale)


@torch.no_grad()
def winograd_weight(weight):
    """weight [Cout, Cin, 3, 3] at the 36 points of F(4x4, 3x3), for `conv3x3`: float32, computed in float64; 4 times the memory.

    [Cout / 16, 36, Cin, 16], Cout rounded up: the 16 outputs of a panel lie side by side.  No gradient.
    """
    if weight.dim() != 4 or tuple(weight.shape[2:]) != (3, 3) or not weight.numel() or not weight.is_floating_point():
        raise InputError(f"winograd_weight: weight is {weight.dtype} {list(weight.shape)}; it must be floating-point [Cout, Cin, 3, 3]")
    outputs, inputs = weight.shape[:2]
    panels, points, _, lanes = _transformed_shape(outputs, inputs)
    g = weight.new_tensor(_filter_transform(), dtype=torch.float64)
    wide = (g @ weight.double() @ g.T).view(outputs, inputs, points)
    padded = F.pad(wide, (0, 0, 0, 0, 0, panels * lanes - outputs)).view(panels, lanes, inputs, points)
    return padded.permute(0, 3, 2, 1).float().contiguous()


def reference(x, weight, transformed, bias, join, scale):
    """conv3x3 in plain torch."""
    out = F.conv2d(x, weight, None if bias is None else bias.to(x.dtype), padding=1)
    out = out if join is None else out + join
    return out if scale == 1 else out * scale


def _transformed_shape(outputs, inputs):
    return -(-outputs // PANEL), (len(POINTS) + 1) ** 2, inputs, PANEL


def _filter_transform():
    """G [6, 3]: the filter's polynomial at each point, divided by the product of the distances to the others; at infinity its last."""
    rows = [[p**k / math.prod(p - q for q in POINTS if q != p) for k in range(3)] for p in POINTS]
    return [*rows, [0.0, 0.0, 1.0]]


def _refuses(x, weight, transformed, bias, join):
    if reason := extension.sampling_refuses((x, join), (weight, transformed, bias)):
        return reason
    if transformed is None:
        return "no transformed weight was given"
    inputs, height, width = x.shape[1:]
    if forced() != "cpu" and (inputs < FEWEST_INPUTS or height * width < FEWEST_PIXELS):
        return f"{inputs} channels at {height}x{width}, where a direct sum is as fast; it serves {FEWEST_INPUTS} at {FEWEST_PIXELS} pixels"
    return None


def _cpu(x, weight, transformed, bias, join, scale):
    none = x.new_empty(0)
    bias = none if bias is None else bias.contiguous()
    return torch.ops.ddgan_cpp.conv3x3(x, transformed.contiguous(), bias, none if join is None else join, float(scale), len(weight))


if not extension.MISSING:

    @torch.library.register_fake("ddgan_cpp::conv3x3")
    def _(x, weight, bias, join, scale, outputs):
        batch, _, height, width = x.shape
        return torch.empty((batch, outputs, height, width), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


BACKENDS = {"cpu": (_refuses, _cpu), "reference": (always, reference)}
