"""Generator and discriminator for 2-D points: 3 layers of LeakyReLU units, conditioned by concatenation (paper C.5)."""

import torch
from torch import nn


def _mlp(inputs, hidden, outputs):
    layers = [nn.Linear(inputs, hidden)]
    for _ in range(2):
        layers += [nn.LeakyReLU(0.2), nn.Linear(hidden, hidden)]
    return nn.Sequential(*layers, nn.LeakyReLU(0.2), nn.Linear(hidden, outputs))


class ToyGenerator(nn.Module):
    """ToyGenerator(x_t, t, z) -> x0 for points [B, 2]; arguments as models.generator.Generator."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.body = _mlp(3 + (config.latent_dim if config.latent else 0), config.channels, 2)

    def forward(self, x, t, z=None):
        parts = (x, t[:, None].to(x.dtype)) + ((z,) if self.config.latent else ())
        h = self.body(torch.cat(parts, dim=1))
        return h.tanh() if self.config.tanh else h


class ToyDiscriminator(nn.Module):
    """ToyDiscriminator(x_t, t, x_tp1) -> logit [B] for points [B, 2]; arguments as models.discriminator.Discriminator."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.body = _mlp(5, config.channels, 1)

    def forward(self, x_t, t, x_tp1):
        return self.body(torch.cat((x_t, x_tp1, t[:, None].to(x_t.dtype)), dim=1))[:, 0]
