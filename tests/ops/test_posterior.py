"""The posterior step against its formula in float64; the golden values are in tests/test_diffusion.py."""

import pytest
import torch

from ddgan_fast import noise as philox
from ddgan_fast.diffusion import Schedule
from ddgan_fast.errors import InputError
from ddgan_fast.ops import backend, posterior_step
from ddgan_fast.ops.posterior import BACKENDS

TABLE = Schedule(4).posterior
LIMITS = {torch.float64: 1e-12, torch.float32: 1e-6, torch.float16: 2**-11, torch.bfloat16: 2**-8}
IMAGES, POINTS = (5, 3, 17, 9), (7, 2)
each_backend = pytest.mark.parametrize("name", BACKENDS)


def make_inputs(shape=IMAGES, dtype=torch.float32, layout=torch.contiguous_format):
    """x0, x_t, noise, and t that differs within the batch."""
    torch.manual_seed(0)
    tensors = (torch.randn(shape).to(dtype).to(memory_format=layout) for _ in range(3))
    return *tensors, torch.arange(shape[0]) % 4


def formula(x0, x_t, noise, t):
    """Sample by sample in float64."""
    a, b, s = TABLE.double()
    return torch.stack([a[k] * x0[i].double() + b[k] * x_t[i].double() + s[k] * noise[i].double() for i, k in enumerate(t)])


@pytest.mark.parametrize("dtype", LIMITS, ids=str)
@pytest.mark.parametrize(
    "shape, layout", [(IMAGES, torch.contiguous_format), (IMAGES, torch.channels_last), (POINTS, torch.contiguous_format)], ids=str
)
@each_backend
def test_matches_float64_formula(assert_near, name, shape, layout, dtype):
    x0, x_t, noise, t = make_inputs(shape, dtype, layout)
    with backend.force(name):
        got = posterior_step(x0, x_t, t, TABLE, noise=noise)
    assert got.dtype == dtype
    assert got.stride() == x0.stride()
    assert_near(got, formula(x0, x_t, noise, t), LIMITS[dtype])


@pytest.mark.parametrize("shape", [IMAGES, POINTS], ids=str)
@each_backend
def test_the_last_step_adds_no_noise(name, shape):
    x0, x_t, noise, _ = make_inputs(shape)
    t = torch.zeros(len(x0), dtype=torch.int64)
    with backend.force(name):
        got = posterior_step(x0, x_t, t, TABLE, noise=noise)
        assert torch.equal(got, posterior_step(x0, x_t, t, TABLE, noise=-100 * noise))
    torch.testing.assert_close(got, x0, rtol=3e-7, atol=0)


@pytest.mark.parametrize("dtype", LIMITS, ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("step", [3, 0])
@each_backend
def test_seeds_name_the_noise(assert_near, name, step, layout, dtype):
    """Also in channels_last: elements are numbered by (c, h, w), wherever they lie."""
    x0, x_t, _, _ = make_inputs(dtype=dtype, layout=layout)
    seeds, t = philox.as_seeds([0, 7, 2**32, 2**63 - 1, 7]), torch.full((5,), step)
    noise = philox.normal(seeds, philox.POSTERIOR, step, x0.shape[1:])
    with backend.force(name):
        got = posterior_step(x0, x_t, t, TABLE, seeds=seeds, step=step)
    assert got.dtype == dtype
    assert got.stride() == x0.stride()
    assert_near(got, formula(x0, x_t, noise, t), max(LIMITS[dtype], 4e-6))


@each_backend
def test_seeded_points(assert_near, name):
    x0, x_t, _, _ = make_inputs(POINTS)
    seeds, t = torch.arange(7), torch.full((7,), 2)
    with backend.force(name):
        got = posterior_step(x0, x_t, t, TABLE, seeds=seeds, step=2)
        alone = posterior_step(x0[4:5], x_t[4:5], t[:1], TABLE, seeds=seeds[4:5], step=2)
    assert_near(got, formula(x0, x_t, philox.normal(seeds, philox.POSTERIOR, 2, (2,)), t), 4e-6)
    assert torch.equal(alone, got[4:5])


@pytest.mark.parametrize("seeded", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@each_backend
def test_gradients_to_x0_and_x_t(name, dtype, seeded):
    x0, x_t, noise, t = make_inputs(dtype=dtype, layout=torch.channels_last)
    leaves = x0.requires_grad_(), x_t.requires_grad_()
    source = {"seeds": torch.arange(5), "step": 1} if seeded else {"noise": noise}
    with backend.force(name):
        got = torch.autograd.grad(posterior_step(x0, x_t, t, TABLE, **source), leaves, noise)
    for gradient, coefficient in zip(got, TABLE.to(dtype), strict=False):
        torch.testing.assert_close(gradient, coefficient[t].view(-1, 1, 1, 1) * noise, rtol=1e-6, atol=1e-6)
        assert gradient.stride() == x0.stride()


@pytest.mark.parametrize("given", [(), ("noise", "seeds", "step"), ("noise", "step"), ("noise", "seeds"), ("seeds",), ("step",)], ids=str)
def test_noise_or_seeds_and_step_are_needed(given):
    x0, x_t, noise, t = make_inputs()
    source = {"noise": noise, "seeds": torch.arange(5), "step": 0}
    with pytest.raises(InputError, match="either noise, or seeds and step"):
        posterior_step(x0, x_t, t, TABLE, **{key: source[key] for key in given})


@pytest.mark.parametrize("seeded", [False, True])
def test_compiles_into_one_graph(seeded):
    x0, x_t, noise, t = make_inputs()
    source = {"seeds": torch.arange(5), "step": 1} if seeded else {"noise": noise}
    compiled = torch.compile(posterior_step, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x0, x_t, t, TABLE, **source), posterior_step(x0, x_t, t, TABLE, **source), rtol=1e-6, atol=1e-6)
