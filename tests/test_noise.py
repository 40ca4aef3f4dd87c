"""Philox4x32-10 against its published vectors, and the layout of design section 4 against plain Python integers."""

import math

import pytest
import torch

from ddgan_fast import noise

LOW = 2**32 - 1
SEEDS = [0, 1, 2**32 - 1, 2**32, 1_234_567_890_123_456_789, noise.MAX_SEED]
VECTORS = [  # Random123, kat_vectors, philox4x32 10: counter, key, output
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((LOW,) * 4, (LOW,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def python_philox(counter, key):
    x0, x1, x2, x3 = counter
    for i in range(10):
        k0, k1 = ((k + i * weyl) % 2**32 for k, weyl in zip(key, (0x9E3779B9, 0xBB67AE85), strict=True))
        high0, low0 = divmod(0xD2511F53 * x0, 2**32)
        high1, low1 = divmod(0xCD9E8D57 * x2, 2**32)
        x0, x1, x2, x3 = high1 ^ x1 ^ k0, low1, high0 ^ x3 ^ k1, low0
    return x0, x1, x2, x3


def python_words(seed, stream, step, count):
    """Element e is word e % 4 of counter (e // 4, 0, stream, step) under key (low half, high half)."""
    return [python_philox((e // 4, 0, stream, step), (seed % 2**32, seed // 2**32))[e % 4] for e in range(count)]


def python_normals(seed, stream, step, count):
    """Box-Muller on the word pairs (0, 1) and (2, 3), cosine first."""
    u = [((word // 256) + 0.5) / 2**24 for word in python_words(seed, stream, step, count + count % 2)]
    pairs = [(math.sqrt(-2 * math.log(a)), 2 * math.pi * b) for a, b in zip(u[::2], u[1::2], strict=True)]
    return [r * f(angle) for r, angle in pairs for f in (math.cos, math.sin)][:count]


@pytest.mark.parametrize("counter, key, want", VECTORS)
def test_published_vectors(counter, key, want):
    assert tuple(noise.philox4x32(counter, key)) == want
    counter, key = ([torch.tensor([word]) for word in words] for words in (counter, key))
    assert tuple(word.item() for word in noise.philox4x32(counter, key)) == want
    assert python_philox([int(c) for c in counter], [int(k) for k in key]) == want


@pytest.mark.parametrize("stream, step", [(noise.X_T, 4), (noise.Z, 0), (noise.POSTERIOR, 3), (40, 351_194), (2**32 - 1, 2**32 - 1)])
def test_words_are_laid_out_as_documented(stream, step):
    got = noise.words(noise.as_seeds(SEEDS), stream, step, 11)
    assert got.tolist() == [python_words(seed, stream, step, 11) for seed in SEEDS]


@pytest.mark.parametrize("shape", [(1,), (2,), (3,), (100,), (3, 5, 7), (1, 1, 1)], ids=str)
def test_normals_are_laid_out_as_documented(shape):
    """Also where the count is odd, so that the last sine is left over."""
    got = noise.normal(noise.as_seeds(SEEDS), noise.POSTERIOR, 2, shape)
    want = torch.tensor([python_normals(seed, 2, 2, math.prod(shape)) for seed in SEEDS], dtype=torch.float64)
    assert got.shape == (len(SEEDS), *shape)
    assert got.dtype == torch.float32
    assert (got.flatten(1) - want).abs().max() <= 4e-6


def test_streams_have_the_documented_numbers():
    assert (noise.X_T, noise.Z, noise.POSTERIOR, noise.MAX_SEED) == (0, 1, 2, 2**63 - 1)


def test_extreme_words_give_finite_normals(monkeypatch):
    """u is never 0 or 1: the largest radius is sqrt(-2 log 2^-25), the smallest above 0."""
    monkeypatch.setattr(noise, "words", lambda seeds, stream, step, count: torch.tensor([[0, 0, LOW, LOW]]))
    got = noise.normal(torch.tensor([0]), 0, 0, (4,))[0]
    small = math.sqrt(-2 * math.log(1 - 2.0**-25))
    want = torch.tensor([math.sqrt(50 * math.log(2)), math.sqrt(50 * math.log(2)) * math.pi * 2.0**-24, small, -small * math.pi * 2.0**-24])
    torch.testing.assert_close(got, want, rtol=1e-6, atol=0)


def test_an_image_does_not_depend_on_its_batch():
    seeds, shape = noise.as_seeds(range(7)), (3, 5, 3)
    whole = noise.normal(seeds, noise.X_T, 4, shape)
    assert torch.equal(noise.normal(seeds.flip(0), noise.X_T, 4, shape).flip(0), whole)
    assert torch.equal(torch.cat([noise.normal(seeds[i : i + 1], noise.X_T, 4, shape) for i in range(7)]), whole)


def test_a_longer_draw_begins_with_the_shorter_one():
    seeds = noise.as_seeds(SEEDS)
    long = noise.normal(seeds, noise.Z, 1, (64,))
    for count in (1, 2, 5, 63):
        assert torch.equal(noise.normal(seeds, noise.Z, 1, (count,)), long[:, :count])


@pytest.mark.parametrize("seed", [-1, 2**63, 2**64])
def test_seeds_out_of_range_are_refused(seed):
    with pytest.raises(ValueError, match=str(seed)):
        noise.as_seeds([0, seed])


def test_seeds_in_range_are_taken():
    assert noise.as_seeds(SEEDS).tolist() == SEEDS
    assert noise.as_seeds(range(3)).dtype == torch.int64


def test_moments():
    x = noise.normal(torch.arange(64), noise.X_T, 4, (4096,)).double()
    count = x.numel()
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(x.pow(power).mean() - mean) < 4 * math.sqrt(variance / count), power
    assert abs((x < -1).double().mean() - 0.158655) < 4 * math.sqrt(0.1335 / count)


def test_seeds_streams_and_steps_are_uncorrelated():
    seeds = torch.tensor([0, 1, 2**32, 2**32 + 1])
    rows = torch.cat([noise.normal(seeds, stream, step, (4096,)) for stream in range(4) for step in range(4)])
    correlation = torch.corrcoef(rows.double()).fill_diagonal_(0)
    assert correlation.abs().max() < 5 / math.sqrt(4096)
    neighbours = torch.corrcoef(torch.stack((rows.flatten()[:-1], rows.flatten()[1:])))[0, 1]
    assert abs(neighbours) < 4 / math.sqrt(rows.numel())
