"""The folded form of the generator: each transformation alone and all of them together against the plain network."""

import copy

import pytest
import torch

from ddgan_fast.config import override, preset
from ddgan_fast.diffusion import Schedule, denoise
from ddgan_fast.errors import InputError
from ddgan_fast.models import build_generator
from ddgan_fast.models.inference import TRANSFORMATIONS, MergedPyramid, optimize_for_sampling, transform_convolutions

ALL = (*TRANSFORMATIONS, transform_convolutions)

SMALL = {"resolution": 16, "channels": 16, "channel_mult": (1, 2, 2), "blocks": 1, "attention": (8,), "latent_dim": 8, "embedding_dim": 24}
FORMS = {
    "usual": {},
    "without latent": {"latent": False},
    "one step": {"steps": 1},
    "one channel, not centered": {"image_channels": 1, "centered": False},
    "one level": {"channel_mult": (1,), "attention": ()},
    "odd width": {"channels": 20, "channel_mult": (1, 2)},
}


def network(changes):
    """(generator in float64 with no weight near zero, its schedule, x_t [3, ...], z [T, 3, nz] or None)."""
    config = override(preset("cifar10"), SMALL | changes)
    torch.manual_seed(0)
    generator = build_generator(config.model).eval().requires_grad_(False).double()
    for parameter in generator.parameters():
        if parameter.dim() > 1 and parameter.std() < 1e-3:
            parameter.normal_(0, 0.05)
        elif parameter.dim() == 1:
            parameter.add_(0.1 * torch.randn_like(parameter))
    x = torch.randn(3, *config.model.sample_shape, dtype=torch.float64)
    z = torch.randn(config.diffusion.steps, 3, config.model.latent_dim, dtype=torch.float64) if config.model.latent else None
    return generator, Schedule.of(config.diffusion), x, z


CASES = [("usual", transformations) for transformations in ((), *[(f,) for f in ALL], TRANSFORMATIONS)]
CASES += [(name, ALL) for name in FORMS]


@pytest.mark.parametrize(
    "name, transformations", CASES, ids=lambda case: case if isinstance(case, str) else "+".join(f.__name__ for f in case)
)
def test_equals_the_plain_network(name, transformations):
    generator, schedule, x, z = network(FORMS[name])
    form = optimize_for_sampling(generator, schedule, transformations=transformations)
    evaluate = form.bind(z)
    narrow = optimize_for_sampling(generator, schedule, torch.float32, transformations=transformations).bind(z)
    for t in range(schedule.steps):
        each = torch.full((3,), t)
        want = generator(x, each, None if z is None else z[t])
        assert want.std() > 0.1  # nothing vanished
        assert relative(evaluate(x, t), want) < 1e-12
        assert relative(narrow(x.float(), t), want) < 1e-5
        assert torch.equal(form(x, each, None if z is None else z[t]), form(x, t, None if z is None else z[t]))


def relative(got, want):
    return ((got.double() - want).norm() / want.norm()).item()


def test_transformations_may_come_in_any_order():
    generator, schedule, x, z = network({})
    form = optimize_for_sampling(generator, schedule, torch.float32, transformations=ALL[::-1])
    assert relative(form.bind(z)(x.float(), 2), generator(x, torch.full((3,), 2), z[2])) < 1e-5


def test_indices_of_steps_may_differ_within_the_batch():
    generator, schedule, x, z = network({})
    t = torch.tensor([2, 0, 3])
    assert relative(optimize_for_sampling(generator, schedule)(x, t, z[0]), generator(x, t, z[0])) < 1e-12


@pytest.mark.parametrize("changes", [{}, {"latent": False}])
def test_a_whole_sampling_run(changes):
    generator, schedule, x, z = network(changes)
    noise = torch.randn(schedule.steps, *x.shape, dtype=torch.float64)
    for start in (None, 1):
        want = denoise(generator, schedule, x, z, noise, start)
        assert relative(denoise(optimize_for_sampling(generator, schedule), schedule, x, z, noise, start), want) < 1e-12


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_no_worse_than_that_of_the_plain_network(dtype):
    generator, schedule, x, z = network({"channels": 32})
    form = optimize_for_sampling(generator, schedule, dtype)
    assert form.style.weight.dtype == form.time_table.dtype == torch.float32
    got, t = form.bind(z)(x.to(dtype), 2), torch.full((3,), 2)
    want = generator(x, t, z[2])
    assert got.dtype == dtype
    assert relative(got, want) < relative(generator.to(dtype)(x.to(dtype), t, z[2].to(dtype)), want) < 0.05


def test_the_generator_stays_as_it_is():
    generator, schedule, x, z = network({})
    before = copy.deepcopy(generator.state_dict())
    optimize_for_sampling(generator, schedule, torch.bfloat16)
    assert generator.conv_in.weight.dtype == torch.float64
    assert all(torch.equal(tensor, before[name]) for name, tensor in generator.state_dict().items())


def test_only_the_image_is_merged():
    generator, schedule, *_ = network({})
    down = optimize_for_sampling(generator, schedule).net.down
    assert [isinstance(level.pyramid, MergedPyramid) for level in down[:-1]] == [True, False]


def test_points_have_no_folded_form():
    config = preset("gaussians25")
    with pytest.raises(InputError, match="no folded form; take engine eager"):
        optimize_for_sampling(build_generator(config.model), Schedule.of(config.diffusion))
