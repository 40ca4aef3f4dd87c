"""The networks of the 25 Gaussians: shapes, what they depend on, and the scales they start with."""

import dataclasses

import pytest
import torch

from ddgan_fast.config import preset
from ddgan_fast.models import build_discriminator, build_generator
from ddgan_fast.models.toy import DISCRIMINATOR_SCALE

MODEL = preset("gaussians25").model
POINTS = 4096


@pytest.fixture
def inputs():
    torch.manual_seed(0)
    return torch.randn(POINTS, 2, requires_grad=True), torch.arange(POINTS) % 4, torch.randn(POINTS, 2, requires_grad=True)


@pytest.mark.parametrize("latent", [True, False])
def test_generator_depends_on_all_its_inputs(inputs, latent):
    x, t, _ = inputs
    generator = build_generator(dataclasses.replace(MODEL, latent=latent))
    z = torch.randn(POINTS, MODEL.latent_dim, requires_grad=True) if latent else None
    x0 = generator(x, t, z)
    assert x0.shape == (POINTS, 2)
    gradients = torch.autograd.grad(x0.sum(), (x, z) if latent else (x,))
    assert all(gradient.abs().sum(dim=1).gt(0).all() for gradient in gradients)
    assert not torch.equal(x0, generator(x, (t + 1) % 4, z))


def test_discriminator_starts_near_zero_and_sees_x_t_finer_than_x_tp1(inputs):
    x_t, t, x_tp1 = inputs
    logits = build_discriminator(MODEL)(x_t, t, x_tp1)
    assert logits.shape == (POINTS,)
    assert 0.1 < logits.std() < 3
    fine, coarse = (gradient.square().mean().sqrt() for gradient in torch.autograd.grad(logits.sum(), (x_t, x_tp1)))
    assert fine > DISCRIMINATOR_SCALE / 2 * coarse
