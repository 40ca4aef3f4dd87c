"""Layers that generator and discriminator share: time embedding, mapping network, residual and attention blocks, initialisation."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddgan_fast.errors import InputError
from ddgan_fast.ops import adaptive_group_norm, fir_blur, layout_of, residual_join

EPS = 1e-6  # of every group norm
NEAR_ZERO = 1e-10  # initial variance scale of layers that close a residual branch


def init_uniform(layer, scale=1.0, fan="avg"):
    """Weights uniform in +-sqrt(3 * scale / fan), biases 0; fan is the mean of fan-in and fan-out ("avg"), or "out"."""
    with torch.no_grad():
        receptive = layer.weight[0, 0].numel()
        fan_out, fan_in = layer.weight.shape[0] * receptive, layer.weight.shape[1] * receptive
        bound = math.sqrt(3 * scale / (fan_out if fan == "out" else (fan_in + fan_out) / 2))
        layer.weight.uniform_(-bound, bound)
        if layer.bias is not None:
            layer.bias.zero_()
    return layer


def conv(inputs, outputs, size=3, scale=1.0, **options):
    """A convolution that keeps the size, initialised as the generator's."""
    return init_uniform(nn.Conv2d(inputs, outputs, size, padding=size // 2, **options), scale)


def linear(inputs, outputs, scale=1.0, fan="avg"):
    """A fully connected layer, initialised as `init_uniform` says."""
    return init_uniform(nn.Linear(inputs, outputs), scale, fan)


def sinusoid(t, dim, dtype):
    """Sinusoidal embedding of step indices (Vaswani et al. 2017; Ho et al. 2020).  t: [B] int64 -> [B, dim], dim >= 4.

    [sin(t f_i)..., cos(t f_i)...] with f_i = 10000^(-i / (half - 1)), half = dim // 2; an odd dim ends in 0.
    """
    half = dim // 2
    frequencies = torch.exp(torch.arange(half, device=t.device, dtype=torch.float64) * (-math.log(10000) / (half - 1)))
    angles = t[:, None] * frequencies
    return F.pad(torch.cat((angles.sin(), angles.cos()), dim=1), (0, dim % 2)).to(dtype)


def groups_of(channels):
    """Groups of a norm over so many channels: of 4 channels each, at most 32. Raises InputError where they do not divide."""
    groups = min(channels // 4, 32)
    if not groups or channels % groups:
        raise InputError(
            f"a norm over {channels} channels: min(channels // 4, 32) groups must divide them; change channels or channel_mult"
        )
    return groups


class PixelNorm(nn.Module):
    """z / sqrt(mean z^2 + 1e-8) over the features (Karras et al. 2018)."""

    def forward(self, z):
        return z * torch.rsqrt(z.square().mean(dim=1, keepdim=True) + 1e-8)


def mapping_network(latent_dim, embedding_dim, layers):
    """z [B, latent_dim] -> w [B, embedding_dim]: PixelNorm, then 1 + `layers` times Linear and SiLU (paper C.1)."""
    sizes = [latent_dim] + [embedding_dim] * (layers + 1)
    body = [module for pair in zip(sizes, sizes[1:], strict=False) for module in (linear(*pair, fan="out"), nn.SiLU())]
    return nn.Sequential(PixelNorm(), *body)


class Features(NamedTuple):
    """Activations [B, C, H, W], and their partial statistics where the op that made them left some for the norm behind it."""

    x: Tensor
    stats: Tensor | None = None


def without_bias(layer, x):
    """The convolution without its bias, which the op behind it adds in passing."""
    return F.conv2d(x, layer.weight, None, layer.stride, layer.padding)


class AdaGN(nn.Module):
    """Group norm whose scale and shift are a linear function of w; it starts as scale 1, shift 0 (plus a part of w)."""

    def __init__(self, channels, embedding_dim):
        super().__init__()
        self.groups = groups_of(channels)
        self.style = linear(embedding_dim, 2 * channels, fan="out")
        with torch.no_grad():
            self.style.bias[:channels] = 1

    def forward(self, x, w, swish=False, **options):
        """x: [B, C, H, W], w: [B, E]; `swish` and options as in ops.adaptive_group_norm."""
        scale, shift = self.style(w).chunk(2, dim=1)
        return adaptive_group_norm(x, scale, shift, self.groups, EPS, swish, **options)


class PlainGN(nn.Module):
    """Group norm with a learned scale and shift; takes and ignores w, so that it can stand where AdaGN stands."""

    def __init__(self, channels):
        super().__init__()
        self.groups = groups_of(channels)
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x, w=None, swish=False, **options):
        return adaptive_group_norm(x, self.weight, self.bias, self.groups, EPS, swish, **options)


class ResBlock(nn.Module):
    """BigGAN residual block of NCSN++ with AdaGN: out = (shortcut(x) + branch(x)) / sqrt(2).

    fir: None, "up" or "down": both branches are resampled by the FIR filter behind the first norm and Swish.
    """

    def __init__(self, inputs, outputs, time_dim, norm, dropout=0.0, fir=None):
        super().__init__()
        self.fir = fir
        self.norm0 = norm(inputs)
        self.conv0 = conv(inputs, outputs)
        self.time = linear(time_dim, outputs)
        self.norm1 = norm(outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv1 = conv(outputs, outputs, scale=NEAR_ZERO)
        self.shortcut = conv(inputs, outputs, 1) if inputs != outputs or fir else None

    def forward(self, features, time, w, skip=None):
        """features: Features; time: [B, time_dim], Swish already applied; w: [B, E] or None; skip: Features to concatenate, or None."""
        x, stats = features
        if skip is not None:
            h, x = self.norm0(x, w, swish=True, stats=stats, skip=skip.x, skip_stats=skip.stats, concat=True)
        elif self.fir:
            h, x = self.norm0(x, w, swish=True, stats=stats, fir=self.fir)
        else:
            h = self.norm0(x, w, swish=True, stats=stats)
        h = self.norm1(without_bias(self.conv0, h), w, swish=True, bias=self.conv0.bias, embedding=self.time(time))
        h = without_bias(self.conv1, self.dropout(h))
        if self.shortcut is None:
            return Features(*residual_join(x, h, None, self.conv1.bias, with_stats=True))
        return Features(*residual_join(without_bias(self.shortcut, x), h, self.shortcut.bias, self.conv1.bias, with_stats=True))


def attend(queries, keys, values):
    """F.scaled_dot_product_attention of [B, 1, HW, C]; in an exported program two products and a softmax in float32."""
    if not torch.compiler.is_exporting():
        return F.scaled_dot_product_attention(queries, keys, values)
    scores = (queries * queries.shape[-1] ** -0.5) @ keys.transpose(2, 3)
    return scores.float().softmax(dim=3).to(values.dtype) @ values


class Attention(nn.Module):
    """Single-head self-attention over the pixels: out = (x + projection) / sqrt(2)."""

    def __init__(self, channels):
        super().__init__()
        self.norm = PlainGN(channels)
        self.query, self.key, self.value = (linear(channels, channels, scale=0.1) for _ in range(3))
        self.projection = linear(channels, channels, scale=NEAR_ZERO)

    def forward(self, features):
        x, stats = features
        tokens = self.norm(x, stats=stats).flatten(2).transpose(1, 2)  # [B, HW, C]
        layers = self.query, self.key, self.value
        weight, bias = (torch.cat([getattr(layer, name) for layer in layers]) for name in ("weight", "bias"))
        heads = F.linear(tokens, weight, bias).unsqueeze(1).chunk(3, dim=3)  # the tokens are read once; fused kernels want a head dimension
        h = self.projection(attend(*heads).squeeze(1)).transpose(1, 2).unflatten(2, x.shape[2:]).contiguous(memory_format=layout_of(x))
        return Features(*residual_join(x, h, with_stats=True))


class PyramidDown(nn.Module):
    """Half the size with anti-aliasing, FIR blur and a 3x3 convolution of stride 2: out = (half of the pyramid + h) / sqrt(2)."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv = init_uniform(nn.Conv2d(inputs, outputs, 3, stride=2))

    def forward(self, pyramid, features):
        halved = without_bias(self.conv, fir_blur(pyramid))
        return Features(*residual_join(halved, features.x, self.conv.bias, with_stats=True))
