"""Schedule, forward pairs, posterior and the sampling run against the reference implementation."""

import numpy as np
import pytest
import torch

from ddgan_fast.checkpoint import load_reference_generator
from ddgan_fast.diffusion import Schedule, denoise, posterior_table, q_sample, q_sample_pair
from ddgan_fast.errors import InputError
from ddgan_fast.ops import backend, posterior_step

STEPS = [1, 2, 4, 8]
SLOW = [pytest.mark.slow, pytest.mark.timeout(1200)]


def ulps(got, want):
    """Distance in units in the last place of float32."""
    got, want = (np.asarray(x, np.float32).view(np.int32).astype(np.int64) for x in (got, want))
    return np.abs(got - want).max()


@pytest.mark.parametrize("steps", STEPS)
def test_coefficients(golden, steps):
    g, schedule = golden("E_diffusion"), Schedule(steps)
    out = g.group(f"out/T{steps}/")
    assert ulps(schedule.betas[1:], out["betas"]) == 0
    for ours, theirs in (("a", "a_s"), ("sigma", "sigmas"), ("a_cum", "a_s_cum"), ("sigma_cum", "sigmas_cum")):
        assert ulps(getattr(schedule, ours), out[theirs]) <= 2, ours
    coef_x0, coef_x_t, std = schedule.posterior
    assert ulps(coef_x0, out["posterior_mean_coef1"]) <= 2
    assert ulps(coef_x_t, out["posterior_mean_coef2"]) <= 2
    assert ulps(std, (0.5 * out["posterior_log_variance_clipped"]).exp() * torch.tensor([0.0] + [1.0] * (steps - 1))) <= 2
    assert schedule.a_cum[0] == 1 and schedule.sigma_cum[0] == 0
    exact = {  # what IEEE 754 gives, whatever the CPU
        "a": (1 - schedule.betas).double().sqrt(),
        "sigma": schedule.betas.double().sqrt(),
        "a_cum": schedule.a.double().cumprod(0),
        "sigma_cum": (1 - schedule.a_cum * schedule.a_cum).double().sqrt(),
    }
    assert all(torch.equal(getattr(schedule, name), want.float()) for name, want in exact.items())


@pytest.mark.parametrize("dtype, limit", [(torch.float32, 2e-5), (torch.float64, 1e-6)], ids=["f32", "f64"])
@pytest.mark.parametrize("name", [None, "cpp"])
@pytest.mark.parametrize("steps", STEPS)
def test_forward_pair_and_posterior(golden, assert_near, steps, name, dtype, limit):
    if name == "cpp" and dtype == torch.float64:
        pytest.skip("the extension serves float32 and narrower")
    with backend.force(name):
        replay_forward_pair_and_posterior(golden, assert_near, steps, dtype, limit)


def replay_forward_pair_and_posterior(golden, assert_near, steps, dtype, limit):
    g, schedule = golden("E_diffusion"), Schedule(steps)
    data = {k: v if k == "t" else v.to(dtype) for k, v in g.group(f"in/T{steps}/").items()}
    t = data["t"]
    x_t, x_tp1 = q_sample_pair(schedule, data["x_0"], t, data["noise_t"], data["noise_tp1"])
    assert_near(x_t, g[f"out/T{steps}/x_t"], limit)
    assert_near(x_tp1, g[f"out/T{steps}/x_tp1"], limit)
    assert torch.equal(x_t, q_sample(schedule, data["x_0"], t, data["noise_t"]))
    stored = g[f"out/T{steps}/x_tp1"].to(dtype)
    got = posterior_step(data["x_0_pred"], stored, t, schedule.posterior, noise=data["noise_posterior"])
    assert_near(got, g[f"out/T{steps}/x_posterior"], limit)
    assert got.dtype == x_t.dtype == dtype


@pytest.mark.parametrize(
    "name, dtype, limit",
    [
        ("reference", torch.float32, 2e-5),
        ("reference", torch.float64, 1e-6),
        ("cpp", torch.float32, 2e-5),
        pytest.param("triton", torch.float32, 2e-5, marks=SLOW),
    ],
    ids=str,
)
def test_sampling_run(golden, assert_near, name, dtype, limit):
    with backend.force(name):
        replay_sampling_run(golden("F_sampling_T4"), assert_near, dtype, limit)


def replay_sampling_run(g, assert_near, dtype, limit):
    """The stored run of T steps: every x_t and x0."""
    generator = load_reference_generator(g.group("w/"), g.config).to(dtype).requires_grad_(False)
    steps, seen = g.config["num_timesteps"], []
    z = torch.stack([g[f"in/step{i}/z"] for i in range(steps)]).to(dtype)
    noise = torch.stack([g[f"in/step{i}/noise"] for i in range(steps)]).to(dtype)

    def watched(x, t, z):
        seen.append((x, generator(x, t, z)))
        return seen[-1][1]

    x = denoise(watched, Schedule(steps), g["in/x_init"].to(dtype), z, noise)
    assert_near(x, g["out/x_final"], limit)
    for i, (x_t, x0) in zip(range(steps - 1, -1, -1), seen, strict=True):
        assert_near(x0, g[f"out/step{i}/x_0"], limit)
        if i < steps - 1:
            assert_near(x_t, g[f"out/step{i + 1}/x"], limit)


def test_sampling_run_with_the_framework_generator(golden, assert_near):
    """x_T, then z and the posterior noise of each step, all drawn from torch's CPU generator with seed 42."""
    g = golden("F_sampling_T4")
    generator = load_reference_generator(g.group("w/"), g.config).requires_grad_(False)
    steps, shape = g.config["num_timesteps"], g["in/x_init"].shape
    torch.manual_seed(42)
    x = torch.randn(shape)
    drawn = [(torch.randn(shape[0], g.config["nz"]), torch.randn(shape)) for _ in range(steps)][::-1]
    z, noise = map(torch.stack, zip(*drawn, strict=True))
    assert_near(denoise(generator, Schedule(steps), x, z, noise), g["out/seed42/x_final"], 2e-5)


def test_start_in_the_middle_is_the_rest_of_the_run():
    def generator(x, t, z):
        return 0.5 * x + z[:, :1, None, None] + t.view(-1, 1, 1, 1)

    schedule = Schedule(4)
    x, z, noise = torch.randn(2, 3, 4, 4), torch.randn(4, 2, 5), torch.randn(4, 2, 3, 4, 4)
    t = torch.full((2,), 3)
    x_3 = posterior_step(generator(x, t, z[3]), x, t, schedule.posterior, noise=noise[3])
    assert torch.equal(denoise(generator, schedule, x_3, z, noise, start=2), denoise(generator, schedule, x, z, noise))


def test_paper_schedule_is_equation_16():
    betas = Schedule(4, epsilon=0.0).betas[1:]
    k = np.arange(1, 5)
    assert np.allclose(betas, 1 - np.exp(-0.1 / 4 - 0.5 * 19.9 * (2 * k - 1) / 16), atol=1e-7)


@pytest.mark.parametrize("steps", [*STEPS, 1000])
def test_noise_prediction_is_the_posterior_step(steps):
    """Paper App. B, Eqs. 12 to 15: with x_0 of Eq. 13 from the noise, the mean of Eq. 11 is that of Eq. 12; in float64."""
    time = torch.arange(steps + 1, dtype=torch.float64) / steps
    alpha_bar = torch.exp(-0.1 * time - 9.95 * time**2)  # C.2
    betas = 1 - alpha_bar[1:] / alpha_bar[:-1]
    x_tp1, noise = torch.randn(2, 100, steps, dtype=torch.float64)
    x0 = (x_tp1 - (1 - alpha_bar[1:]).sqrt() * noise) / alpha_bar[1:].sqrt()
    of_x0, of_x_tp1, deviation = posterior_table(betas)
    of_noise, of_seen, same_deviation = posterior_table(betas, "noise")
    assert torch.allclose(of_noise * noise + of_seen * x_tp1, of_x0 * x0 + of_x_tp1 * x_tp1, rtol=1e-9, atol=1e-9)
    assert torch.equal(same_deviation, deviation)
    alpha, bar = 1 - betas, alpha_bar[1:]
    ddpm = (x_tp1 - (1 - alpha) / (1 - bar).sqrt() * noise) / alpha.sqrt()  # Eq. 12; Eq. 15 as printed has a bar too many
    assert torch.allclose(of_noise * noise + of_seen * x_tp1, ddpm, rtol=1e-9, atol=1e-9)
    assert torch.allclose(Schedule(steps, epsilon=0.0, prediction="noise").posterior.double(), posterior_table(betas, "noise"), rtol=2e-3)


def test_direct_denoising_leaves_nothing_to_draw():
    x_t, x_tp1, noise = torch.randn(3, 4, 3, 8, 8)
    assert torch.equal(posterior_step(x_t, x_tp1, torch.arange(4), Schedule(4, prediction="x_t").posterior, noise=noise), x_t)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"epsilon": 1.0}, {"epsilon": -0.1}, {"prediction": "x1"}])
def test_wrong_schedules_are_refused(wrong):
    with pytest.raises(InputError, match="Schedule"):
        Schedule(**wrong)
