"""The time-dependent discriminators (paper C.1, Table 7; behaviour of the released weights)."""

import torch
import torch.nn.functional as F
from torch import nn

from ddgan_fast.errors import InputError
from ddgan_fast.models.layers import NEAR_ZERO, init_uniform, linear, sinusoid, without_bias
from ddgan_fast.ops import fir_down2, residual_join
from ddgan_fast.ops.arguments import wide_of

# per block: width over the base width, and whether it halves the size; the start convolution has twice the base width
SIZES = {
    "small": ((2, False), (4, True), (8, True), (8, True)),
    "large": ((4, True), (8, True), (8, True), (8, True), (8, True), (8, True)),
}


def _act(x):
    return F.leaky_relu(x, 0.2)


def _conv(inputs, outputs, size=3, scale=1.0, bias=True):
    return init_uniform(nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=bias), scale, fan="out")


def minibatch_stddev(x, parts=1):
    """x with one channel more: the spread of the batch (Karras et al. 2018).  [parts * B, C, H, W] -> [parts * B, C + 1, H, W].

    Group j of min(B, 4) samples of a part is {j, j + B/4, ...}; its value is the mean over C, H, W of sqrt(biased variance + 1e-8).
    Raises InputError for a B above 4 that is no multiple of 4.
    """
    batch, channels, height, width = x.shape[0] // parts, *x.shape[1:]
    group = min(batch, 4)
    if batch % group:
        raise InputError(f"discriminator: a batch of {batch}; above 4 it must be a multiple of 4 (minibatch stddev)")
    spread = x.to(wide_of(x)).reshape(parts, group, -1, channels, height, width)
    spread = (spread.var(dim=1, correction=0) + 1e-8).sqrt().mean(dim=(2, 3, 4)).to(x.dtype)  # [parts, B / group]
    return torch.cat((x, spread.repeat(1, group).reshape(-1, 1, 1, 1).expand(-1, 1, height, width)), dim=1)


class Block(nn.Module):
    """out = (skip(x) + branch(x)) / sqrt(2), LeakyReLU 0.2, no norm; `down` halves both branches by the FIR filter."""

    def __init__(self, inputs, outputs, time_dim, down):
        super().__init__()
        self.down = down
        self.conv0 = _conv(inputs, outputs)
        self.time = linear(time_dim, outputs, fan="out")
        self.conv1 = _conv(outputs, outputs, scale=NEAR_ZERO)
        self.skip = _conv(inputs, outputs, 1, bias=False)

    def forward(self, x, time):
        h = _act(self.conv0(_act(x)) + self.time(time)[:, :, None, None])
        if self.down:
            h, x = fir_down2(h), fir_down2(x)
        return residual_join(self.skip(x), without_bias(self.conv1, h), None, self.conv1.bias)


class Discriminator(nn.Module):
    """Discriminator(x_t, t, x_tp1, parts=1) -> logit [B].

    x_t: [B, C, H, W], real or fake, the cleaner image of a pair; x_tp1: the noisier one (condition); t: [B] int64, index of
    x_t, 0..T-1.  parts: the batch is so many batches, one behind the other, that know nothing of each other.  Any gradient order.
    small halves the size 3 times (H >= 8), large 6 times (H >= 64).
    """

    def __init__(self, config):
        """config: config.Model with network "unet"."""
        super().__init__()
        self.config = config
        base, time_dim = config.discriminator_channels, config.time_dim
        width = 2 * base
        self.time = nn.ModuleList((linear(time_dim, time_dim, fan="out"), linear(time_dim, time_dim, fan="out")))
        self.conv_in = _conv(2 * config.image_channels, width, 1)
        self.blocks = nn.ModuleList()
        for mult, down in SIZES[config.discriminator]:
            self.blocks.append(Block(width, mult * base, time_dim, down))
            width = mult * base
        self.conv_out = _conv(width + 1, width, scale=NEAR_ZERO if config.discriminator == "small" else 1.0)
        self.head = linear(width, 1, fan="out")

    def forward(self, x_t, t, x_tp1, parts=1):
        time = sinusoid(t, self.config.time_dim, x_t.dtype)
        time = _act(self.time[1](_act(self.time[0](time))))
        h = self.conv_in(torch.cat((x_t, x_tp1), dim=1))
        for block in self.blocks:
            h = block(h, time)
        h = _act(self.conv_out(minibatch_stddev(h, parts)))
        return self.head(h.sum(dim=(2, 3)))[:, 0]
