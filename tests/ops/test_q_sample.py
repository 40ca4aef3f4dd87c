"""The pair of training against its formula in float64; the golden values are in tests/test_diffusion.py."""

import pytest
import torch

from ddgan_fast import noise as philox
from ddgan_fast.diffusion import Schedule
from ddgan_fast.errors import InputError, MissingError
from ddgan_fast.ops import backend, q_sample_pair
from ddgan_fast.ops.q_sample import BACKENDS

TABLE = Schedule(4).pair
LIMITS = {torch.float64: 1e-12, torch.float32: 1e-6, torch.float16: 2**-10, torch.bfloat16: 2**-7}  # of two roundings
IMAGES, POINTS = (5, 3, 17, 9), (7, 2)
each_backend = pytest.mark.parametrize("name", BACKENDS)


def make_inputs(shape=IMAGES, dtype=torch.float32, layout=torch.contiguous_format):
    """x0, the two noises, and t that differs within the batch."""
    torch.manual_seed(0)
    x0, *noises = (torch.randn(shape).to(dtype).to(memory_format=layout) for _ in range(3))
    return x0, noises, torch.arange(shape[0]) % 4


def formula(x0, noises, t):
    """In float64."""
    rows = [row[t].view(-1, *[1] * (x0.dim() - 1)) for row in TABLE.double()]
    x_t = rows[0] * x0.double() + rows[1] * noises[0].double()
    return x_t, rows[2] * x_t + rows[3] * noises[1].double()


@pytest.mark.parametrize("seeded", [False, True])
@pytest.mark.parametrize("dtype", LIMITS, ids=str)
@pytest.mark.parametrize(
    "shape, layout", [(IMAGES, torch.contiguous_format), (IMAGES, torch.channels_last), (POINTS, torch.contiguous_format)], ids=str
)
@each_backend
def test_matches_float64_formula(assert_near, name, shape, layout, dtype, seeded):
    x0, noises, t = make_inputs(shape, dtype, layout)
    source, limit = {"noises": noises}, LIMITS[dtype]
    if seeded:
        seeds, limit = torch.arange(shape[0]) + 2**35, max(limit, 4e-6)
        source = {"seeds": seeds, "step": 9, "streams": (34, 33)}
        noises = [philox.normal(seeds, stream, 9, shape[1:]) for stream in (34, 33)]
    with backend.force(name):
        if name == "cpp" and dtype == torch.float64:
            with pytest.raises(MissingError, match="float64"):
                q_sample_pair(x0, t, TABLE, **source)
            return
        got = q_sample_pair(x0, t, TABLE, **source)
    for one, want in zip(got, formula(x0, noises, t), strict=True):
        assert one.dtype == dtype and one.stride() == x0.stride()
        assert_near(one, want, limit)


@pytest.mark.cpp
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_given_noises_give_the_bits_of_the_reference(dtype):
    x0, noises, t = make_inputs((4, 3, 33, 40), dtype, torch.channels_last)
    found = []
    for name in ("cpp", "reference"):
        with backend.force(name):
            found.append(q_sample_pair(x0, t, TABLE, noises))
    assert all(map(torch.equal, *found))


@each_backend
def test_gradient_to_x0(name):
    x0, noises, t = make_inputs(layout=torch.channels_last)
    upstream = make_inputs()[1]
    x0.requires_grad_()
    with backend.force(name):
        (got,) = torch.autograd.grad(q_sample_pair(x0, t, TABLE, noises), x0, upstream)
    wide = x0.detach().double().requires_grad_()
    (want,) = torch.autograd.grad(formula(wide, noises, t), wide, [gradient.double() for gradient in upstream])
    torch.testing.assert_close(got.double(), want, rtol=1e-6, atol=1e-6)


@pytest.mark.cpp
def test_registration_and_one_graph():
    x0, noises, t = make_inputs(layout=torch.channels_last)
    ops = torch.ops.ddgan_cpp
    torch.library.opcheck(ops.q_sample_pair.default, (x0.requires_grad_(), t, TABLE, *noises))
    torch.library.opcheck(ops.q_sample_pair_seeded.default, (x0, t, TABLE, torch.arange(5), 34, 33, 1))
    compiled = torch.compile(q_sample_pair, fullgraph=True, backend="aot_eager")
    assert all(map(torch.equal, compiled(x0, t, TABLE, noises), q_sample_pair(x0, t, TABLE, noises)))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"noises": None}, "either noises, or seeds, step and streams"),
        ({"seeds": torch.arange(5)}, "either noises"),
        ({"noises": None, "seeds": torch.arange(5), "step": 1}, "either noises"),
        ({"noises": (torch.zeros(IMAGES), torch.zeros(5, 3, 1, 1))}, r"noise_tp1 has shape \[5, 3, 1, 1\]; it must be \[5, 3, 17, 9\]"),
        ({"table": TABLE[:3]}, r"table is torch.float32 \[3, 4\] on cpu; it must be torch.float32 \[4, T\]"),
        ({"t": torch.zeros(5)}, r"t is torch.float32 \[5\] on cpu; it must be torch.int64 \[5\]"),
        ({"noises": None, "seeds": torch.arange(5), "step": 1, "streams": (0, -1)}, "stream = -1"),
    ],
)
def test_arguments_that_do_not_fit_are_named(change, message):
    x0, noises, t = make_inputs()
    with pytest.raises(InputError, match=f"^q_sample_pair: .*{message}"):
        q_sample_pair(**{"x0": x0, "t": t, "table": TABLE, "noises": noises} | change)
