"""The CUDA part of the extension against the CPU: the same numbers in every walk over memory, streams, graphs, devices."""

import pytest
import torch

from ddgan_fast import noise
from ddgan_fast.diffusion import Schedule
from ddgan_fast.ops import backend, extension, philox_normal, posterior_final_uint8, posterior_step, q_sample_pair

pytestmark = pytest.mark.gpu
SCHEDULE = Schedule(4)
LIMITS = {torch.float32: 4e-6, torch.float16: 2**-8, torch.bfloat16: 2**-5}  # of drawn noise, which may round otherwise; given noise: 0
# flat and three-channel walks, an image that ends inside an access, many channels, points
SHAPES = [(5, 3, 16, 24), (5, 3, 17, 9), (3, 70, 6, 5), (4, 1, 8, 8), (7, 2), (2, 3, 128, 130)]


@pytest.fixture(autouse=True)
def forced():
    assert extension.MISSING_CUDA is None
    with backend.force("cpp"):
        yield


def make(shape, dtype=torch.float32, layout=torch.contiguous_format):
    torch.manual_seed(0)
    tensors = [torch.randn(shape).to(dtype).to(memory_format=layout if len(shape) == 4 else torch.contiguous_format) for _ in range(4)]
    return *tensors, torch.arange(shape[0]) % 4, torch.arange(shape[0]) + 2**40


def on_gpu(*tensors):
    return [tensor.cuda() for tensor in tensors]


@pytest.mark.parametrize("dtype", LIMITS, ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_are_those_of_the_cpu(shape, layout, dtype):
    x0, x_t, a, b, t, seeds = make(shape, dtype, layout)
    table, pair = SCHEDULE.posterior, SCHEDULE.pair

    def all_of(x0, x_t, a, b, t, seeds, table, pair):
        given = [posterior_step(x0, x_t, t, table, noise=a), *q_sample_pair(x0, t, pair, (a, b))]
        drawn = [posterior_step(x0, x_t, t, table, seeds=seeds, step=2)]
        drawn += q_sample_pair(x0, t, pair, seeds=seeds, step=7, streams=(34, 33))
        return given, drawn, [posterior_final_uint8(x0, x_t, table)] if x0.dim() == 4 else []

    inputs = x0, x_t, a, b, t, seeds, table, pair
    for (got, want), exact in zip(zip(all_of(*on_gpu(*inputs)), all_of(*inputs), strict=True), (True, False, True), strict=True):
        for one, other in zip(got, want, strict=True):
            assert one.stride() == other.stride() and one.dtype == other.dtype
            limit = 0.0 if exact else LIMITS[dtype]
            assert (one.cpu().float() - other.float()).abs().max() <= limit


@pytest.mark.parametrize("count", [1, 4, 33, 100_000])
def test_noise_is_that_of_the_cpu(count):
    seeds = noise.as_seeds([0, 1, 2**32, noise.MAX_SEED])
    assert torch.equal(torch.ops.ddgan_cpp.philox_words(seeds.cuda(), 2, 3, count).cpu(), noise.words(seeds, 2, 3, count))
    got = philox_normal(seeds.cuda(), 2, 3, (count,)).cpu()
    assert (got - noise.normal(seeds, 2, 3, (count,))).abs().max() <= 4e-6


def test_unaligned_images_and_an_index_outside_the_table():
    x0, x_t, a, _, t, seeds = make((4, 3, 16, 16))
    moved = torch.empty(x0.numel() + 1, device="cuda")[1:].view(x0.shape).copy_(x0)
    want = posterior_step(x0, x_t, t, SCHEDULE.posterior, noise=a)
    x_t, a, t, table = on_gpu(x_t, a, t, SCHEDULE.posterior)
    assert torch.equal(posterior_step(moved, x_t, t, table, noise=a).cpu(), want)
    t[2] = 4
    got = posterior_step(moved, x_t, t, table, noise=a)
    assert got[2].isnan().all() and not got[[0, 1, 3]].isnan().any()


def test_gradients():
    x0, x_t, a, b, t, seeds = on_gpu(*make((5, 3, 16, 24), layout=torch.channels_last))
    table = SCHEDULE.posterior.cuda()
    leaves = x0.requires_grad_(), x_t.requires_grad_()
    got = torch.autograd.grad(posterior_step(x0, x_t, t, table, seeds=seeds, step=1), leaves, a)
    for gradient, row in zip(got, table, strict=False):
        torch.testing.assert_close(gradient, row[t].view(-1, 1, 1, 1) * a)


def test_a_captured_graph_repeats_the_call_on_its_stream():
    x0, x_t, _, _, t, seeds = on_gpu(*make((4, 3, 32, 32)))
    table = SCHEDULE.posterior.cuda()
    want = posterior_step(x0, x_t, t, table, seeds=seeds, step=1)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        assert torch.equal(posterior_step(x0, x_t, t, table, seeds=seeds, step=1), want)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = posterior_step(x0, x_t, t, table, seeds=seeds, step=1)
    for other in (x0.flip(0).clone(), x0.clone()):
        x0.copy_(other)
        graph.replay()
        assert torch.equal(out, posterior_step(x0, x_t, t, table, seeds=seeds, step=1))
