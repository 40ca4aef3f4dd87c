"""What only a GPU can show: the same images as on the CPU, and a training run that resumes."""

import pytest
import torch

from ddgan_fast.config import override, preset
from ddgan_fast.data import open_loader
from ddgan_fast.models import build_generator
from ddgan_fast.pipeline import DDGANPipeline
from ddgan_fast.training import loop
from ddgan_fast.training.run import open_run

pytestmark = pytest.mark.gpu


def test_a_seed_names_the_same_image_as_on_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
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
        assert resumed.optim_g.state[after]["exp_avg"].stride() == after.stride()
    loop.train(resumed, open_loader(longer, torch.device("cuda")), tmp_path)
    assert resumed.step == 12
