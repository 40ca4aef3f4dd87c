"""The posterior step against its formula in float64; the golden values are in tests/test_diffusion.py."""

import pytest
import torch

from ddgan_fast import noise as philox
from ddgan_fast.diffusion import Schedule
from ddgan_fast.errors import InputError, MissingError
from ddgan_fast.ops import backend, posterior_final_uint8, posterior_step
from ddgan_fast.ops.posterior import BACKENDS
from ddgan_fast.pictures import to_uint8

TABLE = Schedule(4).posterior
LIMITS = {torch.float64: 1e-12, torch.float32: 1e-6, torch.float16: 2**-11, torch.bfloat16: 2**-8}
IMAGES, POINTS = (5, 3, 17, 9), (7, 2)
each_backend = pytest.mark.parametrize("name", BACKENDS)


def make_inputs(shape=IMAGES, dtype=torch.float32, layout=torch.contiguous_format):
    """x0, x_t, noise, and t that differs within the batch."""
    torch.manual_seed(0)
    tensors = (torch.randn(shape).to(dtype).to(memory_format=layout) for _ in range(3))
    return *tensors, torch.arange(shape[0]) % 4


def skip_unserved(name, dtype):
    """The extension has no float64, and says so."""
    if name == "cpp" and dtype == torch.float64:
        x0, x_t, noise, t = make_inputs(dtype=dtype)
        with backend.force(name), pytest.raises(MissingError, match="float64; it serves one dtype of float32, bfloat16 and float16"):
            posterior_step(x0, x_t, t, TABLE, noise=noise)
        pytest.skip("float64 is refused")


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
    skip_unserved(name, dtype)
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
    skip_unserved(name, dtype)
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
    skip_unserved(name, dtype)
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


def call(x0, x_t, noise, t, seeded):
    """posterior_step by either source of noise."""
    source = {"seeds": torch.arange(len(x0)), "step": 1} if seeded else {"noise": noise}
    return posterior_step(x0, x_t, t, TABLE, **source)


@pytest.mark.parametrize("seeded", [False, True])
@each_backend
def test_compiles_into_one_graph(name, seeded):
    inputs = make_inputs()
    with backend.force(name):
        compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(*inputs, seeded), call(*inputs, seeded), rtol=1e-6, atol=1e-6)


class Step(torch.nn.Module):
    def forward(self, x0, x_t, t, seeds):
        return posterior_step(x0, x_t, t, TABLE, seeds=seeds, step=2), posterior_final_uint8(x0, x_t, TABLE)


@pytest.mark.cpp
def test_exports():
    x0, x_t, _, t = make_inputs(layout=torch.channels_last)
    inputs = x0, x_t, t, torch.arange(5)
    program = torch.export.export(Step(), inputs)
    assert "ddgan_cpp.posterior_step_seeded" in str(program.graph) and "ddgan_cpp.posterior_final_uint8" in str(program.graph)
    for got, want in zip(program.module()(*inputs), Step()(*inputs), strict=True):
        assert torch.equal(got, want)


@pytest.mark.cpp
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_registration(layout):
    x0, x_t, noise, t = make_inputs(layout=layout)
    x0.requires_grad_(), x_t.requires_grad_()
    ops = torch.ops.ddgan_cpp
    torch.library.opcheck(ops.posterior_step.default, (x0, x_t, t, TABLE, noise))
    torch.library.opcheck(ops.posterior_step_seeded.default, (x0, x_t, t, TABLE, torch.arange(5), 2, 1))
    torch.library.opcheck(ops.posterior_final_uint8.default, (x0.detach(), x_t.detach(), TABLE))


SHAPES = [(5, 3, 17, 9), (2, 3, 64, 48), (3, 1, 5, 7), (2, 70, 6, 5), (4, 2), (1, 3000)]


@pytest.mark.cpp
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_given_noise_gives_the_bits_of_the_reference(shape, layout, dtype):
    if layout == torch.channels_last and len(shape) != 4:
        pytest.skip("points have one layout")
    x0, x_t, noise, t = make_inputs(shape, dtype, layout)
    values = torch.tensor([0.0, -0.0, 1e-7, -6e-8, 5e-5, 7e4, -1e30, float("inf"), float("nan")]).to(dtype)
    flat = torch.as_strided(x0, (x0.numel(),), (1,))
    flat[: min(len(values), len(flat))] = values[: len(flat)]
    found = []
    for name in ("cpp", "reference"):
        with backend.force(name):
            found.append(posterior_step(x0, x_t, t, TABLE, noise=noise))
    assert torch.allclose(*found, rtol=0, atol=0, equal_nan=True)


@pytest.mark.cpp
@pytest.mark.parametrize("shape", SHAPES[:4], ids=str)
def test_noise_does_not_depend_on_layout_batch_or_threads(shape):
    x0, x_t, _, t = make_inputs(shape)
    seeds = torch.arange(len(x0)) + 2**40
    whole = posterior_step(x0, x_t, t, TABLE, seeds=seeds, step=3)
    other = [x.to(memory_format=torch.channels_last) for x in (x0, x_t)]
    assert torch.equal(posterior_step(*other, t, TABLE, seeds=seeds, step=3), whole)
    assert torch.equal(posterior_step(x0[1:2], x_t[1:2], t[1:2], TABLE, seeds=seeds[1:2], step=3), whole[1:2])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3 - min(threads, 2))
        assert torch.equal(posterior_step(x0, x_t, t, TABLE, seeds=seeds, step=3), whole)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("shape", [(5, 3, 17, 9), (2, 3, 64, 48), (3, 1, 5, 7)], ids=str)
@each_backend
def test_the_last_step_as_bytes(name, shape, layout, dtype):
    """Also exactly between two bytes, outside of [-1, 1], and with a second coefficient that is not 0."""
    x0, x_t, _, _ = make_inputs(shape, dtype, layout)
    ties = (torch.arange(-1, 257) + 0.5) / 127.5 - 1
    flat = torch.as_strided(x0, (x0.numel(),), (1,))
    flat[: min(len(ties), len(flat))] = ties[: len(flat)].to(dtype)
    for table in (TABLE, TABLE + 0.125 * (torch.arange(3) < 2).view(3, 1)):
        with backend.force(name):
            got = posterior_final_uint8(x0, x_t, table)
        want = to_uint8(posterior_step(x0, x_t, torch.zeros(len(x0), dtype=torch.int64), table, noise=torch.zeros_like(x0)))
        assert got.is_contiguous() and torch.equal(got, want)


def wrong(**change):
    x0, x_t, noise, t = make_inputs()
    return {"x0": x0, "x_t": x_t, "t": t, "table": TABLE, "noise": noise} | change


@pytest.mark.parametrize(
    "change, message",
    [
        ({"x_t": torch.zeros(5, 3, 17, 8)}, r"x_t has shape \[5, 3, 17, 8\]; it must be \[5, 3, 17, 9\]"),
        ({"x_t": torch.zeros(IMAGES).double()}, "x_t has dtype torch.float64; it must be torch.float32"),
        ({"x0": torch.zeros(IMAGES).int()}, r"x0 is torch.int32 \[5, 3, 17, 9\]; it must be floating-point"),
        ({"x0": torch.zeros(0, 3, 2, 2), "x_t": torch.zeros(0, 3, 2, 2)}, "no size 0"),
        ({"noise": torch.zeros(5, 3, 9, 17)}, r"noise has shape \[5, 3, 9, 17\]; it must be \[5, 3, 17, 9\]"),
        ({"t": torch.zeros(4, dtype=torch.int64)}, r"t is torch.int64 \[4\] on cpu; it must be torch.int64 \[5\] on cpu"),
        ({"t": torch.zeros(5)}, r"t is torch.float32 \[5\]"),
        ({"table": TABLE[:2]}, r"table is torch.float32 \[2, 4\] on cpu; it must be torch.float32 \[3, T\] on cpu"),
        ({"table": TABLE.double()}, r"table is torch.float64"),
        ({"noise": None, "seeds": torch.zeros(3, dtype=torch.int64), "step": 0}, r"seeds is torch.int64 \[3\]"),
        ({"noise": None, "seeds": torch.zeros(5), "step": 0}, r"seeds is torch.float32 \[5\]"),
        ({"noise": None, "seeds": torch.arange(5), "step": -1}, r"step = -1; it must be 0 to 2\^32 - 1"),
        ({"noise": None, "seeds": torch.arange(5), "step": 0, "stream": 2**32}, "stream = 4294967296"),
    ],
)
def test_arguments_that_do_not_fit_are_named(change, message):
    with pytest.raises(InputError, match=f"^posterior_step: .*{message}"):
        posterior_step(**wrong(**change))


@pytest.mark.cpp
@pytest.mark.parametrize("index", [-1, 4, 2**40])
def test_an_index_outside_the_table_is_an_error(index):
    with pytest.raises(RuntimeError, match=rf"posterior_step: t\[2\] is {index}; it must be 0 to 3"):
        posterior_step(**wrong(t=torch.tensor([0, 1, index, 3, 0])))


@pytest.mark.cpp
@pytest.mark.parametrize(
    "change, reason",
    [
        ({"x_t": make_inputs(layout=torch.channels_last)[1]}, "it serves one layout, contiguous or channels_last"),
        ({"noise": torch.randn(5, 3, 9, 17).transpose(2, 3)}, "it serves one layout"),
        ({"noise": torch.randn(IMAGES, requires_grad=True)}, "no gradient to the table or the noise"),
    ],
)
def test_what_the_extension_leaves_to_the_reference(assert_near, change, reason):
    arguments = wrong(**change)
    got = posterior_step(**arguments)
    assert_near(got, formula(*(arguments[name] for name in ("x0", "x_t", "noise", "t"))), 1e-6)
    with backend.force("cpp"), pytest.raises(MissingError, match=reason):
        posterior_step(**arguments)


def test_torch_func_and_forward_mode_take_plain_torch():
    """The extension has no rule for them, and a silent zero would be wrong."""
    torch.manual_seed(0)
    x0, x_t, noise, tangent = torch.randn(4, 2, 3, 4, 4)
    t, table = torch.tensor([0, 2]), Schedule(4).posterior

    def step(x0):
        return posterior_step(x0, x_t, t, table, noise=noise)

    _, got = torch.func.jvp(step, (x0,), (tangent,))
    torch.testing.assert_close(got, table[0, t][:, None, None, None] * tangent)
    torch.testing.assert_close(torch.func.grad(lambda x0: step(x0).sum())(x0), table[0, t][:, None, None, None].expand_as(x0))
