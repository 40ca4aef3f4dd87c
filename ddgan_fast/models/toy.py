"""Generator and discriminator for 2-D points: 3 layers of LeakyReLU units, conditioned by concatenation (paper C.5).

The paper leaves the scale of the inputs and the initial weights open, and both decide how fine a detail is learnt in time: the
modes are 0.7 apart and 0.018 wide, and an MLP learns coarse shapes first. Hence the factors below.
"""

import torch
from torch import nn

GENERATOR_SCALE = 2.0  # of x_t and z: steeper steps from mode to mode
DISCRIMINATOR_SCALE = 3.0  # of x_t alone: it tells modes apart within hundreds of steps, and stays smooth in x_{t+1}


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
        parts = (GENERATOR_SCALE * x, t[:, None].to(x.dtype)) + ((GENERATOR_SCALE * z,) if self.config.latent else ())
        h = self.body(torch.cat(parts, dim=1))
        return h.tanh() if self.config.tanh else h


class ToyDiscriminator(nn.Module):
    """ToyDiscriminator(x_t, t, x_tp1) -> logit [B] for points [B, 2]; arguments as models.discriminator.Discriminator."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.body = _mlp(5, config.channels, 1)
        for layer in self.body[::2]:  # PyTorch's own start shrinks the signal to a third in each layer
            nn.init.kaiming_uniform_(layer.weight, a=0.2)
        with torch.no_grad():
            self.body[-1].weight *= 0.3  # logits near 0 at the start

    def forward(self, x_t, t, x_tp1, parts=1):
        return self.body(torch.cat((DISCRIMINATOR_SCALE * x_t, x_tp1, t[:, None].to(x_t.dtype)), dim=1))[:, 0]
