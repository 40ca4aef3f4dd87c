"""The baselines of Fig. 6 against computations by hand, and the figure of short trainings."""

import csv
import dataclasses
import itertools
import math
import sys

import pytest
import torch
from PIL import Image

from ddgan_fast.config import override, preset
from ddgan_fast.data.toy import open_gaussians25
from ddgan_fast.errors import CheckpointError, InputError, MissingError, NonFiniteError
from ddgan_fast.experiments import figure6
from ddgan_fast.experiments.point_baselines import (
    DDPM,
    GAN,
    LEVELS,
    WassersteinGAN,
    ddpm_loss,
    gan_d_loss,
    gan_g_loss,
    gradient_penalty,
    read,
    train,
)
from ddgan_fast.models import build_generator
from ddgan_fast.pipeline import DDGANPipeline
from ddgan_fast.training.run import locked

MODEL = dataclasses.replace(preset("gaussians25").model, channels=32)
KINDS = [GAN, WassersteinGAN, DDPM]
COLUMNS = "method,points,modes,high_quality,kl,NFE,iterations,batch_size,ms_per_step,training_seconds,seconds,seed,device,setting"


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batches():
    """An endless iterator of 64 points each."""
    return itertools.cycle(open_gaussians25(0).items[:6400].split(64))


def test_gan_losses_by_hand():
    real, fake = torch.tensor([0.3, -2.0], dtype=torch.float64), torch.tensor([1.0, 0.5], dtype=torch.float64)
    log_d = [math.log(1 / (1 + math.exp(-value))) for value in real.tolist()]
    log_not = [math.log(1 - 1 / (1 + math.exp(-value))) for value in fake.tolist()]
    assert gan_d_loss(real, fake).item() == pytest.approx(-sum(log_d) / 2 - sum(log_not) / 2)
    assert gan_g_loss(fake).item() == pytest.approx(sum(math.log(1 + math.exp(-value)) for value in fake.tolist()) / 2)


def test_the_gradient_penalty_of_a_linear_critic_is_that_of_its_slope():
    weight = torch.tensor([3.0, 4.0], dtype=torch.float64, requires_grad=True)
    penalty = gradient_penalty(lambda x: x @ weight + 7, normal(8, 2), normal(8, 2, seed=1), torch.rand(8, 1, dtype=torch.float64))
    assert penalty.item() == pytest.approx((5 - 1) ** 2)
    (gradient,) = torch.autograd.grad(penalty, weight)
    assert torch.allclose(gradient, 2 * (5 - 1) * weight.detach() / 5)


def test_the_gradient_penalty_is_taken_between_real_and_fake():
    real, fake, mix = normal(8, 2), normal(8, 2, seed=1), torch.linspace(0, 1, 8, dtype=torch.float64)[:, None]
    at = mix * real + (1 - mix) * fake  # where the slope of |x|^2 is 2 |x|
    want = (2 * at.norm(dim=1) - 1).square().mean()
    assert gradient_penalty(lambda x: x.square().sum(dim=1), real, fake, mix).item() == pytest.approx(want.item())


def test_ddpm_loss_of_a_perfect_predictor_is_0():
    x0, noise, t = torch.tensor([[0.5, -1.0]], dtype=torch.float64).expand(1000, 2), normal(1000, 2), torch.arange(1, 1001)

    def perfect(x, time):
        alpha, sigma = LEVELS[(1000 * time).round().long() - 1].unsqueeze(2).unbind(1)
        return (x - alpha * x0) / sigma

    assert ddpm_loss(perfect, x0, t, noise).item() < 1e-20
    assert ddpm_loss(lambda x, _: torch.ones_like(x), x0, t, noise).item() == pytest.approx((1 - noise).square().mean().item())


def test_ddpm_learns_at_the_levels_of_its_sampler():
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)  # Ho et al. 2020, Sec. 4
    assert (LEVELS[:, 0] ** 2 - torch.cumprod(1 - beta, 0)).abs().max() < 2e-3
    assert (LEVELS.square().sum(dim=1) - 1).abs().max() < 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_changes_every_network(kind):
    baseline = kind(MODEL, 0)
    networks = [baseline.network] + ([baseline.discriminator] if kind is not DDPM else [])
    before = [[p.detach().clone() for p in network.parameters()] for network in networks]
    baseline.step(batches())
    for network, old in zip(networks, before, strict=True):
        changed = [not torch.equal(p, q) for p, q in zip(network.parameters(), old, strict=True)]
        assert all(changed[:-1])  # the last bias of a critic adds to real and fake alike


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_names_training_and_samples(kind):
    def drawn(seed, sampling):
        baseline = kind(MODEL, seed)
        torch.rand(1)  # torch's own generator plays no part
        train(baseline, lambda start: batches(), 2, watch=lambda text: None)
        return baseline.sample(8, torch.Generator().manual_seed(sampling), 1)

    first = drawn(1, 5)
    assert torch.equal(first, drawn(1, 5))
    assert not torch.equal(first, drawn(2, 5)) and not torch.equal(first, drawn(1, 6))


def test_wgan_gp_takes_new_points_for_each_critic_step():
    source, taken = batches(), []
    WassersteinGAN(MODEL, 0).step(taken.append(1) or next(source) for _ in itertools.count())
    assert len(taken) == 5


# The data lie around one place, far from all that fresh networks draw.
@pytest.mark.parametrize("kind, rate", [(GAN, 3e-3), (WassersteinGAN, 1e-3), (DDPM, 1e-2)])
def test_a_short_training_brings_samples_to_the_data(kind, rate, monkeypatch):
    monkeypatch.setattr(kind, "rate", rate)
    place = torch.tensor([3.0, -2.0])

    def distance(baseline):
        return (baseline.sample(500, torch.Generator().manual_seed(1), 50).mean(dim=0) - place).norm().item()

    baseline, lines, steps = kind(MODEL, 0), [], 125
    if kind is DDPM:
        baseline.ema.decay = 0.9
    fresh = distance(baseline)
    cost = train(baseline, lambda start: (0.1 * points + place for points in batches()), steps, watch=lines.append)
    assert distance(baseline) < 1 < 3 < fresh
    assert cost.seconds > 0 and cost.ms_per_step == pytest.approx(1e3 * cost.seconds / steps)
    assert len(lines) == 1 and lines[0].startswith(f"step {steps} of {steps}: loss ")


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_that_was_stopped_goes_on_exactly(kind, tmp_path):
    def supply(start):
        return itertools.islice(batches(), start, None)

    def silent(text):
        pass

    path, facts = tmp_path / "training.pt", {"seed": 3}
    whole, half, rest = (kind(MODEL, 3) for _ in range(3))
    train(whole, supply, 5, silent)
    train(half, supply, 2, silent, path, facts)
    cost = train(rest, supply, 5, silent, path, facts, read(path, facts))
    for one, other in zip(whole.parts().values(), rest.parts().values(), strict=True):
        torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=0)
    assert train(kind(MODEL, 3), supply, 5, silent, saved=read(path, facts)) == cost  # nothing is left to do
    with pytest.raises(InputError, match="other settings: seed: 3 -> 4; give another --out"):
        read(path, {"seed": 4})
    more = kind(MODEL, 3)
    assert train(more, supply, 4, silent, saved=read(path, facts)) == cost and more.steps == 5  # those that it has are kept
    torch.save({name: value for name, value in read(path, facts).items() if name != "network"}, path)
    with pytest.raises(CheckpointError, match="training.pt: cannot be read .*'network'.*; remove it to train anew"):
        train(kind(MODEL, 3), supply, 5, silent, path, facts, read(path, facts))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="training.pt: cannot be read .*; remove it to train anew"):
        read(path, facts)
    assert read(tmp_path / "none.pt", facts) is None


def test_a_loss_that_is_not_finite_ends_the_training():
    with pytest.raises(NonFiniteError, match="step 1: a loss is NaN or infinite: {'epsilon': nan}"):
        train(DDPM(MODEL, 0), lambda start: itertools.repeat(torch.full((4, 2), math.nan)), 1)


def saved_model(path, **changes):
    config = override(preset("gaussians25"), changes)
    DDGANPipeline(build_generator(config.model), config).save_pretrained(path)
    return path


def test_figure_of_short_trainings(tmp_path):
    given = {"T=1": saved_model(tmp_path / "given", steps=1, iterations=1234, batch_size=128, channels=8, seed=7)}
    methods = ("GAN", "WGAN-GP", "DDPM-100", "DDPM-500", "T=4", "T=1")
    rows = figure6.run(tmp_path / "out", iterations=2, batch_size=16, methods=methods, seed=3, ours=given, points=20)
    lines = (tmp_path / "out/figure6.csv").read_text().splitlines()
    assert lines[0] == COLUMNS
    table = list(csv.DictReader(lines))
    assert [row["method"] for row in table] == ["data", *methods] == [row["method"] for row in rows]
    data, gan, wgan, ddpm100, ddpm500, four, one = table
    assert data["NFE"] == data["ms_per_step"] == data["iterations"] == "" and float(data["high_quality"]) > 0.9
    assert [row["NFE"] for row in table[1:]] == ["1", "1", "100", "500", "4", "1"]
    assert all((row["iterations"], row["batch_size"]) == ("2", "16") for row in (gan, wgan, ddpm100, ddpm500, four))
    assert all(float(row["ms_per_step"]) > 0 and float(row["training_seconds"]) > 0 for row in (gan, wgan, ddpm100, four))
    assert ddpm100["training_seconds"] == ddpm500["training_seconds"]  # one network
    assert (one["iterations"], one["batch_size"], one["ms_per_step"], one["seed"]) == ("1234", "128", "", "7")
    assert "5 critic steps" in wgan["setting"] and "R1 0.1 every 1" in four["setting"]
    assert "1000 steps" in ddpm100["setting"] and ddpm100["setting"].endswith(", rate 0.001")
    assert "rates 0.0001 and 0.0001 to 1e-05 by cosine" in four["setting"]
    assert one["setting"].startswith("given, with the config: R1 ") and four["setting"].startswith("R1 ")
    with Image.open(tmp_path / "out/figure6.png") as picture:
        assert picture.size == (round(7 * 2.4 * 120), round(2.95 * 120))
    for name in ("GAN", "T=4"):  # before anything is trained
        with pytest.raises(InputError, match="other settings: .*batch_size: 16 -> 32"):
            figure6.run(tmp_path / "out", iterations=10**9, batch_size=32, methods=("T=1", name), seed=3, points=20)
    with pytest.raises(InputError, match="T=4: was trained with other settings: iterations: 2 -> 3; give another --out"):
        figure6.run(tmp_path / "out", iterations=3, batch_size=16, methods=("T=4",), seed=3, points=20)  # its rate has come to its end
    with locked(tmp_path / "out"), pytest.raises(InputError, match="another process trains here"):
        figure6.run(tmp_path / "out", iterations=2, batch_size=16, methods=methods, seed=3, points=20)
    (_, kept) = figure6.run(tmp_path / "out", iterations=2, batch_size=16, methods=("T=4",), seed=3, points=20)
    assert (kept["training_seconds"], kept["modes"]) == (rows[5]["training_seconds"], rows[5]["modes"])
    run_of_four = {"T=4": tmp_path / "out/T=4"}
    (_, again) = figure6.run(tmp_path / "again", methods=("T=4",), seed=3, ours=run_of_four, points=20)
    assert (again["iterations"], again["batch_size"], again["modes"], again["ms_per_step"]) == (2, 16, rows[5]["modes"], None)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"methods": ("GAN", "VAE")}, "method 'VAE': there are GAN, WGAN-GP, DDPM-100, DDPM-500, T=4, T=1"),
        ({"methods": ("GAN", "GAN")}, "give each method once"),
        ({"methods": ()}, "give each method once, one or more"),
        ({"points": 0}, "points = 0: .* 1 point or more"),
        ({"iterations": 0}, "iterations = 0: it must be 1 or more"),
        ({"seed": 2**32}, "seed = 4294967296"),
        ({"ours": {"GAN": "model"}}, "model for 'GAN': models are given for those of T=4, T=1"),
        ({"methods": ("GAN",), "ours": {"T=4": "model"}}, "that are among the methods"),
    ],
)
def test_refusals_come_before_any_work(tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        figure6.run(tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_refuses_a_model_with_other_steps(tmp_path):
    model = saved_model(tmp_path / "model", steps=2, channels=8)
    with pytest.raises(InputError, match="network 'mlp' with T = 2; T=4 takes one of points with T = 4"):
        figure6.run(tmp_path / "out", methods=("T=4",), ours={"T=4": model})


def test_without_matplotlib_nothing_is_trained(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingError, match=r'pip install "ddgan_fast\[plots\]"'):
        figure6.run(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_picture_has_a_panel_for_each_method(tmp_path):
    points, row = torch.zeros(50, 2), {"modes": 1, "high_quality": 1.0}
    for count, names in enumerate([("data",), ("data", "GAN")], start=1):
        figure6.draw(tmp_path / "figure.png", dict.fromkeys(names, points), [row] * count)
        with Image.open(tmp_path / "figure.png") as picture:
            assert picture.size == (round(count * 2.4 * 120), round(2.95 * 120))
