"""The networks. `build_generator` and `build_discriminator` choose by `config.Model.network`."""

import torch

from ddgan_fast.models.discriminator import Discriminator
from ddgan_fast.models.generator import Generator
from ddgan_fast.models.toy import ToyDiscriminator, ToyGenerator


def build_generator(config):
    """The generator of a config.Model, freshly initialised from torch's global RNG."""
    return (Generator if config.network == "unet" else ToyGenerator)(config)


def build_discriminator(config):
    """The discriminator of a config.Model, freshly initialised from torch's global RNG."""
    return (Discriminator if config.network == "unet" else ToyDiscriminator)(config)


def memory_format(device):
    """The layout that networks and images have on a device.

    channels_last on a GPU, whose convolutions want it; contiguous on a CPU, where torch's group norm is exact only so.
    """
    return torch.contiguous_format if device.type == "cpu" else torch.channels_last
