"""Editing: an image is diffused to step k and denoised from there (SDEdit, Meng et al. 2021; paper Sec. 5.3, Fig. 9)."""

import math
from dataclasses import dataclass, replace
from hashlib import sha256
from numbers import Real

import torch

from ddgan_fast.diffusion import bound, q_sample
from ddgan_fast.errors import InputError
from ddgan_fast.pictures import to_uint8


def steps_of(strength, steps):
    """k = floor(strength * T + 0.5), the steps that an edit takes: 0 leaves the image as it is, T forgets it.

    Raises InputError for a strength outside [0, 1].
    """
    if not isinstance(strength, Real) or isinstance(strength, bool) or not 0 <= strength <= 1:
        raise InputError(f"strength {strength!r}: it must be a number from 0 (the image as it is) to 1 (a new one)")
    return math.floor(strength * steps + 0.5)


@dataclass(frozen=True)
class Edit:
    """What the samples of b seeds start from: `steps` of denoising are taken from images at that step.

    x0: [b, C, H, W] in [-1, 1].  steps: k in 0..T.  mask: [b, 1, H, W] in [0, 1], 1 where the image may change; None is 1 everywhere.
    An Edit of one seed depends on its own row alone.
    """

    x0: torch.Tensor
    steps: int
    mask: torch.Tensor | None = None

    def rows(self, part):
        """The Edit of some of its images.  part: a slice or indices."""
        return replace(self, x0=self.x0[part], mask=None if self.mask is None else self.mask[part])

    def spread(self, count):
        """The Edit for `count` seeds, of one image for all (a view) or of one for each. Raises InputError for another number of images."""
        if len(self.x0) not in (1, count):
            raise InputError(f"{len(self.x0)} images to start from, for {count} seeds; give one, or one for each")
        mask = None if self.mask is None else self.mask.expand(count, -1, -1, -1)
        return replace(self, x0=self.x0.expand(count, -1, -1, -1), mask=mask)

    def to(self, device):
        """The same on a device."""
        return replace(self, x0=self.x0.to(device), mask=None if self.mask is None else self.mask.to(device))

    def start(self, schedule, noise):
        """x_k, paper Eq. 8, of standard normal noise [b, C, H, W]; where k is T that noise itself, as plain sampling has it."""
        if self.steps == schedule.steps:
            return noise
        return q_sample(schedule, self.x0.to(noise), torch.full((len(noise),), self.steps, device=noise.device), noise)

    def unchanged(self, as_uint8):
        """The images themselves, as samples: what no step leaves."""
        return to_uint8(self.x0) if as_uint8 else self.x0.clone()

    def kept(self, samples):
        """Samples [b, C, H, W], or uint8 [b, H, W, C], with the image itself, to the bit, where the mask is 0."""
        if self.mask is None:
            return samples
        if samples.dtype == torch.uint8:
            return torch.where(self.mask.permute(0, 2, 3, 1) == 0, to_uint8(self.x0), samples)
        return torch.where(self.mask == 0, self.x0.to(samples), samples)

    def network(self, network):
        """The network with what it predicts blended with the image, so that in each step the kept part is drawn from q(x_t | x_{t+1}, x_0)
        of the image itself; the network as it is without a mask."""
        return network if self.mask is None else Masked(network, self)


class Masked:
    """A network for diffusion.denoise that predicts the given image where the mask is 0."""

    def __init__(self, network, edit):
        self.inner, self.edit, self.config = network, edit, network.config

    def bind(self, z=None):
        """As models.inference binds: (x_t, t) -> x0."""
        evaluate = bound(self.inner, z)

        def blended(x_t, t):
            x0 = evaluate(x_t, t)
            return torch.lerp(x0, self.edit.x0.to(x0), 1 - self.edit.mask.to(x0))  # in this order: the layout is that of the first

        return blended


def digest(edit):
    """SHA-256 of what an Edit starts from, in hexadecimal: equal for equal images, masks and steps."""
    tensors = (edit.x0,) if edit.mask is None else (edit.x0, edit.mask)
    content = b"".join(tensor.float().cpu().numpy().tobytes() for tensor in tensors)
    return sha256(f"{edit.steps} {len(tensors)} ".encode() + content).hexdigest()
