"""What a sample passes through on its way from noise."""

import torch

from ddgan_fast.diffusion import denoise, draw_start
from ddgan_fast.noise import as_seeds
from ddgan_fast.precision import convolutions


@torch.no_grad()
@convolutions(allow_tf32=False, benchmark=False)
def film(generator, schedule, seed):
    """(x_T .. x_0 [T + 1, C, R, R], what the generator put out on the way [T, C, R, R]) of the sample that a seed names, drawn eagerly.

    generator: models.build_generator.  schedule: diffusion.Schedule on its device.
    """
    seen = []

    def watched(x, t, z):
        put_out = generator(x, t, z)
        seen.append((x[0], put_out[0]))
        return put_out

    seeds = as_seeds([seed], schedule.posterior.device)
    x, z = draw_start(seeds, generator.config, schedule.steps)
    last = denoise(watched, schedule, x, z, seeds=seeds)
    noisy, put_out = zip(*seen, strict=True)
    return torch.stack((*noisy, last[0])), torch.stack(put_out)
