"""The generator: NCSN++ U-Net with a residual input pyramid, its norms controlled by the latent z (paper C.1, Table 6)."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from ddgan_fast.models.layers import (
    NEAR_ZERO,
    AdaGN,
    Attention,
    Features,
    PlainGN,
    PyramidDown,
    ResBlock,
    conv,
    linear,
    mapping_network,
    sinusoid,
)


class Stage(nn.Module):
    """A residual block, and attention behind it where the resolution asks for it."""

    def __init__(self, block, attention):
        super().__init__()
        self.block = block
        self.attention = attention

    def forward(self, features, time, w, skip=None):
        features = self.block(features, time, w, skip)
        return features if self.attention is None else self.attention(features)


class Level(nn.Module):
    """The stages of one resolution, and the way to the next (none at the end)."""

    def __init__(self, stages, resample=None, pyramid=None):
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.resample = resample
        self.pyramid = pyramid


class Generator(nn.Module):
    """Generator(x_t, t, z) -> x0.

    x_t: [B, C, H, W], the noisier image of a pair.  t: [B] int64, index of the cleaner one, 0..T-1.  z: [B, latent_dim]
    standard normal; None where config.latent is False.  x0: [B, C, H, W] in [-1, 1], unbounded with tanh=False.
    checkpoint_activations: a stage's activations are computed again in the backward pass in place of being kept (Chen et al. 2016).
    Modules are registered in the order in which the released state dict numbers them.
    """

    def __init__(self, config):
        """config: config.Model with network "unet"."""
        super().__init__()
        self.config = config
        self.checkpoint_activations = False
        norm = partial(AdaGN, embedding_dim=config.embedding_dim) if config.latent else PlainGN
        block = partial(ResBlock, time_dim=4 * config.channels, norm=norm, dropout=config.dropout)
        widths = [config.channels * mult for mult in config.channel_mult]
        resolutions = [config.resolution >> level for level in range(len(widths))]
        attention = [(lambda c: Attention(c)) if r in config.attention else (lambda c: None) for r in resolutions]
        last = len(widths) - 1

        self.mapping = mapping_network(config.latent_dim, config.embedding_dim, config.mapping_layers) if config.latent else None
        self.time = nn.ModuleList((linear(config.channels, 4 * config.channels), linear(4 * config.channels, 4 * config.channels)))
        self.conv_in = conv(config.image_channels, config.channels)
        skips, width, pyramid = [config.channels], config.channels, config.image_channels
        self.down = nn.ModuleList()
        for level, out in enumerate(widths):
            stages = []
            for _ in range(config.blocks):
                stages.append(Stage(block(width, out), attention[level](out)))
                width = out
                skips.append(width)
            if level < last:
                self.down.append(Level(stages, block(width, width, fir="down"), PyramidDown(pyramid, width)))
                pyramid = width
                skips.append(width)
            else:
                self.down.append(Level(stages))
        self.middle = nn.ModuleList((Stage(block(width, width), Attention(width)), Stage(block(width, width), None)))
        self.up = nn.ModuleList()
        for level in range(last, -1, -1):
            stages = []
            for i in range(config.blocks + 1):
                here = attention[level](widths[level]) if i == config.blocks else None
                stages.append(Stage(block(width + skips.pop(), widths[level]), here))
                width = widths[level]
            self.up.append(Level(stages, block(width, width, fir="up") if level else None))
        self.norm_out = PlainGN(width)
        self.conv_out = conv(width, config.image_channels, scale=NEAR_ZERO)

    def forward(self, x, t, z=None):
        return self.unet(x, self.embed_time(t, x.dtype), None if self.mapping is None else self.mapping(z))

    def embed_time(self, t, dtype):
        """t [B] -> [B, 4 * channels], Swish already applied: what the residual blocks take."""
        return F.silu(self.time[1](F.silu(self.time[0](sinusoid(t, self.config.channels, dtype)))))

    def _stage(self, stage, *arguments):
        if not (self.checkpoint_activations and torch.is_grad_enabled()):
            return stage(*arguments)
        return checkpoint(stage, *arguments, use_reentrant=False, preserve_rng_state=self.config.dropout > 0)

    def unet(self, x, time, w):
        """x0 from x_t, the embedded time and w [B, E] (None without latent)."""
        pyramid = x if self.config.centered else 2 * x - 1
        h = Features(self.conv_in(pyramid))
        skips = [h]
        for level in self.down:
            for stage in level.stages:
                h = self._stage(stage, h, time, w)
                skips.append(h)
            if level.resample is not None:
                h = level.pyramid(pyramid, self._stage(level.resample, h, time, w))
                pyramid = h.x
                skips.append(h)
        for stage in self.middle:
            h = self._stage(stage, h, time, w)
        for level in self.up:
            for stage in level.stages:
                h = self._stage(stage, h, time, w, skips.pop())
            if level.resample is not None:
                h = self._stage(level.resample, h, time, w)
        x0 = self.conv_out(self.norm_out(h.x, swish=True, stats=h.stats))
        return x0.tanh() if self.config.tanh else x0
