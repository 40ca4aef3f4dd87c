"""The exponential moving average of the generator's weights, which is the model that a run gives (paper Table 8)."""

import copy

import torch


class EMA:
    """module: a copy of a network; after the first step it has that step's weights, then ema = decay * ema + (1 - decay) * weights."""

    def __init__(self, network, decay):
        self.module = copy.deepcopy(network).requires_grad_(False)
        self.decay = decay
        self.pairs = list(self.module.parameters()), list(network.parameters())

    @torch.no_grad()
    def update(self, first=False):
        """Take the network's weights in; first: they replace the average."""
        torch._foreach_lerp_(*self.pairs, 1.0 if first else 1 - self.decay)
