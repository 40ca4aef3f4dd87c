"""The ablations of paper Table 2: losses and samples against formulas by hand in float64, and runs that train, resume and sample."""

from dataclasses import asdict
from hashlib import sha256
from json import dumps

import pytest
import torch
import torch.nn.functional as F

from ddgan_fast import DDGANPipeline
from ddgan_fast.checkpoint.model import fingerprint
from ddgan_fast.config import override, preset
from ddgan_fast.data import open_loader
from ddgan_fast.diffusion import draw_noise, draw_start
from ddgan_fast.engines.export import make_graph
from ddgan_fast.models import build_discriminator, build_generator
from ddgan_fast.noise import normal
from ddgan_fast.ops import backend
from ddgan_fast.training.loop import Run, train
from ddgan_fast.training.losses import d_loss, g_loss
from ddgan_fast.training.one_shot import arranged
from ddgan_fast.training.run import open_run
from ddgan_fast.training.state import TrainState
from ddgan_fast.training.trainer import D_HALF, draw, step_words

ONE_SHOT = {"steps": 1, "augment_steps": 4}
PARAMETRIZATIONS = {
    "direct": {"prediction": "x_t", "tanh": False},
    "noise": {"prediction": "noise", "tanh": False},
    "one-shot": ONE_SHOT,
}
VARIANTS = {"T = 1": {"steps": 1}, "T = 8": {"steps": 8}, **PARAMETRIZATIONS, "no latent": {"latent": False}}
SIZE = 8


def settings(**changes):
    return override(preset("tiny"), {"epsilon": 0.0, "flip": True, "iterations": 4, "log_every": 1, "checkpoint_every": 4} | changes)


def networks(config):
    """Generator and discriminator in float64, with weights that let every input matter."""
    torch.manual_seed(0)
    built = build_generator(config.model), build_discriminator(config.model)
    for network in built:
        for parameter in network.double().parameters():
            parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    return built


def alpha_bars(steps):
    """alpha_bar of x_0, ..., x_T, paper C.2, float64 [T + 1]."""
    time = torch.arange(steps + 1, dtype=torch.float64) / steps
    return torch.exp(-0.1 * time - 0.5 * 19.9 * time**2)


def by_hand(prediction, output, x_tp1, before, after, noise):
    """x_t from what the generator puts out; before, after: alpha_bar of x_t and x_{t+1}, which broadcast."""
    if prediction == "x_t":
        return output
    x0 = output if prediction == "x0" else (x_tp1 - (1 - after).sqrt() * output) / after.sqrt()  # Eq. 13
    alpha = after / before
    mean = before.sqrt() * (1 - alpha) / (1 - after) * x0 + alpha.sqrt() * (1 - before) / (1 - after) * x_tp1  # Eq. 11
    return mean + ((1 - before) / (1 - after) * (1 - alpha)).sqrt() * noise


def losses_by_hand(config, generator, discriminator, images, t, z, noises, gamma):
    """(D's loss with R1, G's loss) of a step, in float64."""
    noise_tp1, noise_t, noise_fake = noises
    bars = alpha_bars(config.train.augment_steps or config.diffusion.steps)[:, None, None, None]
    before, after = bars[t], bars[t + 1]
    real = (before.sqrt() * images + (1 - before).sqrt() * noise_t).requires_grad_()
    if config.train.augment_steps:
        x0 = generator(noise_tp1, torch.zeros_like(t), z)
        fake = before.sqrt() * x0 + (1 - before).sqrt() * noise_fake
        told = torch.zeros_like(t), torch.zeros_like(images)
    else:
        x_tp1 = ((after / before).sqrt() * real + (1 - after / before).sqrt() * noise_tp1).detach()
        fake = by_hand(config.diffusion.prediction, generator(x_tp1, t, z), x_tp1, before, after, noise_fake)
        told = t, x_tp1
    real_logits = discriminator(real, *told)
    (slope,) = torch.autograd.grad(real_logits.sum(), real, create_graph=True)
    r1 = gamma / 2 * slope.flatten(1).square().sum(dim=1).mean()
    d = F.softplus(-real_logits).mean() + F.softplus(discriminator(fake.detach(), *told)).mean() + r1
    return d, F.softplus(-discriminator(fake, *told)).mean()


@pytest.mark.parametrize("changes", [{}, *PARAMETRIZATIONS.values()], ids=["main model", *PARAMETRIZATIONS])
def test_losses_and_their_gradients(assert_near, changes):
    config = settings(**changes)
    pair = generator, discriminator = networks(config)
    arrangement, schedule = arranged(config, pair)
    seeds, t, _ = step_words(0, 0, torch.arange(SIZE), schedule.steps)
    assert len(t.unique()) > 1
    images = torch.rand(SIZE, 1, 8, 8, dtype=torch.float64) * 2 - 1
    draws = draw(config.model, D_HALF, seeds, t)
    draws = draws._replace(z=draws.z.double())
    noises = [normal(seeds, D_HALF + stream, 0, (1, 8, 8)).double() for stream in (1, 2, 4)]
    d_want, g_want = losses_by_hand(config, generator, discriminator, images, t, draws.z, noises, 0.5)
    d_got = d_loss(*arrangement, schedule, images, draws, 0.5).total
    g_got = g_loss(*arrangement, schedule, images, draws).total
    limit = 1e-5  # the schedule's tables are float32; alpha of the last step is 0.013, so that rounding beta costs 2e-6 of it
    for got, want, network in ((d_got, d_want, discriminator), (g_got, g_want, generator)):
        assert_near(got, want, limit)
        parameters = list(network.parameters())
        got, want = (torch.autograd.grad(loss, parameters, materialize_grads=True) for loss in (got, want))
        largest = max(gradient.abs().max().item() for gradient in want)
        for one, other in zip(got, want, strict=True):
            assert_near(one, other, limit, largest)


@pytest.mark.parametrize("changes", PARAMETRIZATIONS.values(), ids=PARAMETRIZATIONS)
def test_samples_are_those_of_the_formula(assert_near, changes):
    """The sampler, its folded form and the graphs of ddgan export draw what the formula does, with the noise that seeds name."""
    config = settings(**changes)
    generator, _ = networks(config)
    pipe = DDGANPipeline(generator.float(), config)
    seeds, steps = torch.arange(5), config.diffusion.steps
    x, z = draw_start(seeds, config.model, steps)
    noise, bars = draw_noise(seeds, config.model, steps), alpha_bars(steps)
    want = x.double()
    for t in reversed(range(steps)):
        output = pipe.generator(want.float(), torch.full((5,), t), z[t]).double()
        want = by_hand(config.diffusion.prediction, output, want, bars[t], bars[t + 1], noise[t].double())
    for engine in ("eager", "folded"):
        (_, got), *_ = pipe.compile(engine).batches("0-4")
        assert_near(got, want, 1e-4)
    for target in ("step", "sampler"):
        graph = make_graph(pipe.generator, pipe.schedule, target)
        with torch.no_grad(), backend.force("reference"):
            if target == "sampler":
                assert_near(graph.module(x, z, noise), want, 1e-4)
            else:
                t = torch.full((5,), steps - 1)
                assert_near(graph.module(x, t, z[-1]), pipe.generator(x, t, z[-1]), 1e-4)


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_a_run_trains_resumes_and_samples(tmp_path, same_checkpoint, changes):
    config, (whole, half) = settings(lr_g=0.01, **changes), (tmp_path / "whole", tmp_path / "half")
    train(open_run(whole, config, {}), open_loader(config, "cpu"), whole)
    left = Run(open_run(half, override(config, {"checkpoint_every": 2}), {}), open_loader(config, "cpu"), half)
    with left:
        for _ in range(2):
            left.step()
    state = open_run(half, config, {}, resume=True)
    assert state.step == 2
    train(state, open_loader(config, "cpu"), half)
    same_checkpoint(*(out / "checkpoints/checkpoint-00000004" for out in (whole, half)))
    assert (whole / "samples/step-00000004.png").is_file()

    moved = state.discriminator.conv_in.weight != TrainState(config).discriminator.conv_in.weight
    assert moved[:, :1].all()
    assert moved[:, 1:].any() == (not config.train.augment_steps)  # a one-shot GAN's discriminator sees one image

    pipe = DDGANPipeline.from_pretrained(whole)
    assert pipe.config == config
    images = pipe(seeds="3-7", output_type="pt", batch_size=2).images
    assert torch.isfinite(images).all() and len(images.unique(dim=0)) == 5
    assert torch.equal(images, pipe(seeds="3-7", output_type="pt", batch_size=5).images)
    assert torch.equal(images[2:3], pipe(seeds=[5], output_type="pt").images)
    assert pipe(num_images=1).nfe == config.diffusion.steps


def test_the_levels_of_the_augmentation_are_all_but_the_last():
    _, schedule = arranged(settings(**ONE_SHOT), (None, None))
    bars = alpha_bars(4)
    scale, other, deviation = schedule.posterior.double()
    assert torch.allclose(scale, bars[:4].sqrt(), rtol=1e-5) and torch.allclose(deviation, (1 - bars[:4]).sqrt(), rtol=1e-5)
    assert not other.any()
    assert torch.equal(schedule.pair, torch.stack((*schedule.posterior[::2], torch.zeros(4), torch.ones(4))))


def test_a_model_keeps_its_fingerprint_unless_it_is_of_another_prediction():
    """Engines and samples of before there were predictions name the model that they are of."""
    config = settings(tanh=False)
    generator = build_generator(config.model)
    before = asdict(config.diffusion)
    del before["prediction"]
    digest = sha256(dumps([asdict(config.model), before]).encode())
    for name, tensor in generator.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.numpy())
    assert fingerprint(generator, config) == digest.hexdigest()
    others = {fingerprint(generator, override(config, {"prediction": prediction})) for prediction in ("x0", "x_t", "noise")}
    assert len(others) == 3
