"""What only a GPU can show: the same images as on the CPU, and a training run that resumes."""

import numpy as np
import pytest
import torch

from ddgan_fast.bench import Truth, randomise
from ddgan_fast.config import override, preset
from ddgan_fast.data import open_loader
from ddgan_fast.models import build_generator
from ddgan_fast.pipeline import DDGANPipeline
from ddgan_fast.sampling.engine import build
from ddgan_fast.training import loop
from ddgan_fast.training.run import open_run

pytestmark = pytest.mark.gpu


def test_a_seed_names_the_same_image_as_on_the_cpu():
    torch.manual_seed(0)
    config = override(preset("tiny"), {"resolution": 32, "image_channels": 3})
    generator = build_generator(config.model)
    for parameter in generator.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    pipe = DDGANPipeline(generator, config)
    cpu = pipe(num_images=9, output_type="pt").images
    gpu = pipe.to("cuda")(num_images=9, output_type="pt", batch_size=4).images
    assert gpu.is_cuda
    assert (gpu.cpu() - cpu).abs().max() < 1e-4


def test_training_runs_and_resumes(tmp_path):
    config = preset("tiny")
    state = open_run(tmp_path, config, {}, device="cuda")
    loop.train(state, open_loader(config, torch.device("cuda")), tmp_path)
    longer = override(config, {"iterations": 12})
    resumed = open_run(tmp_path, longer, {}, device="cuda", resume=True)
    for (name, before), after in zip(state.generator.named_parameters(), resumed.generator.parameters(), strict=True):
        assert torch.equal(before, after), name
        assert resumed.optim_g.optimiser.state[after]["exp_avg"].stride() == after.stride()
    loop.train(resumed, open_loader(longer, torch.device("cuda")), tmp_path)
    assert resumed.step == 12


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_graph_draws_what_the_plain_network_draws_and_never_waits(precision):
    torch.manual_seed(0)
    config = override(preset("tiny"), {"resolution": 32, "image_channels": 3})
    generator = build_generator(config.model)
    randomise(generator)
    pipe = DDGANPipeline(generator, config).to("cuda")
    truth = Truth(pipe.generator, pipe.schedule, range(4))
    sampler = pipe.compile("graph", precision).sampler
    error, image_error = truth.errors(sampler)
    if precision == "fp32":
        assert error < 1e-5 and image_error < 0.01
    else:  # no worse than the plain network in the same precision
        assert error < 1.2 * truth.errors(build("eager", pipe.generator, pipe.schedule, precision))[0] and image_error < 2
    whole = sampler.sample(range(8), as_uint8=True)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        again, part = sampler.sample(range(8), as_uint8=True), sampler.sample(range(7), as_uint8=True)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(again, whole) and torch.equal(part, whole[:7])
    assert len(sampler.graphs) == 2  # of 4 floats and of 8 images
    image, mask = whole[0].cpu().numpy(), np.eye(32, dtype=bool)
    edited = pipe.edit(image, 0.5, mask, num_images=4, output_type="uint8").images
    assert (edited[:, ~mask] == image[~mask]).all()
    other = pipe.edit(image[::-1].copy(), 0.5, ~mask, num_images=3, output_type="uint8").images  # padded into the graph of 4
    folded = pipe.compile("folded", precision)
    for found, picture, free in ((edited, image, mask), (other, image[::-1].copy(), ~mask)):
        want = folded.edit(picture, 0.5, free, num_images=len(found), output_type="uint8").images
        assert np.abs(found.astype(int) - want).mean() < (0.05 if precision == "fp32" else 2)
