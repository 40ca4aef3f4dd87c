"""The one-shot GAN of paper C.4: x0 from noise in one step, with the forward diffusion as data augmentation (Zhao et al. 2020).

It needs no losses of its own. In tables of another schedule, the pair of a step is a real image, diffused to a step t of its own, and
noise alone, from which the generator makes x0; and the fake of a step is that x0, diffused to t as the real image is. The gradient of the
generator passes through it. Neither network is told t, and the discriminator, whose structure is that of the other models, sees zeros in
place of a second image: its weights for that one never matter.
"""

import dataclasses

import torch

from ddgan_fast.diffusion import Schedule


def arranged(config, networks):
    """(networks, schedule) as the losses train a config.Config: what is given and its diffusion, unless it has augment_steps.

    networks: (generator, discriminator), functions with the arguments of models.Generator and models.Discriminator.
    """
    if not config.train.augment_steps:
        return networks, Schedule.of(config.diffusion)
    return unconditional(*networks), augmentation(config.diffusion, config.train.augment_steps)


def augmentation(diffusion, steps):
    """The Schedule of a config.Diffusion in so many steps whose pairs are (image diffused to t, noise), and posteriors x0 diffused to t.

    t is 0..steps-1: the image as it is, or diffused to any step but the last, which destroys it (C.4).
    """
    schedule = Schedule.of(dataclasses.replace(diffusion, steps=steps))
    scale, deviation = schedule.pair[:2]
    none = torch.zeros(steps)
    schedule.pair = torch.stack((scale, deviation, none, torch.ones(steps)))
    schedule.posterior = torch.stack((scale, none, deviation))
    return schedule


def unconditional(generator, discriminator):
    """The two networks as functions that ignore t, and x_{t+1} as a condition."""

    def make(x_t, t, z=None):
        return generator(x_t, torch.zeros_like(t), z)

    def judge(x_t, t, x_tp1, **options):
        return discriminator(x_t, torch.zeros_like(t), torch.zeros_like(x_tp1), **options)

    return make, judge
