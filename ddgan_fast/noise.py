"""Normal numbers that a seed names: counter-based Philox4x32-10 in plain torch.

Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011. A number is a pure function of (seed, stream, step,
element), so it is the same at any batch size, rank count, device and order of drawing.
"""

import math

import torch

X_T, Z, POSTERIOR = 0, 1, 2  # the streams of sampling; step is t
MAX_SEED = 2**63 - 1

_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_WEYL = 0x9E3779B9, 0xBB67AE85
_LOW = 0xFFFFFFFF


def philox4x32(counter, key):
    """Ten rounds of Philox4x32.

    counter: 4 and key: 2 int64 tensors (or ints) of 32-bit words, broadcast against each other.
    Returns the 4 output words as int64 tensors in [0, 2^32).
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        # int64 products wrap; the bits are those of the unsigned product, and the mask drops the sign that >> drags in
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (p1 >> 32 & _LOW) ^ c1 ^ k0, p1 & _LOW, (p0 >> 32 & _LOW) ^ c3 ^ k1, p0 & _LOW
        k0, k1 = k0 + _WEYL[0] & _LOW, k1 + _WEYL[1] & _LOW
    return c0, c1, c2, c3


def words(seeds, stream, step, count):
    """The first `count` 32-bit words of each seed: int64 [B, count] in [0, 2^32).

    seeds: int64 [B], 0 to 2^63 - 1.  Word e is output e % 4 of counter (e // 4, 0, stream, step) under the key (low, high half).
    """
    block = torch.arange(-(-count // 4), device=seeds.device)
    zero = torch.zeros_like(block)
    key = (seeds & _LOW)[:, None], (seeds >> 32 & _LOW)[:, None]
    return torch.stack(philox4x32((block, zero, zero + stream, zero + step), key), dim=-1).flatten(1)[:, :count]


def normal(seeds, stream, step, shape):
    """Standard normal numbers, float32 [B, *shape], element numbered row by row over `shape`.

    Box-Muller on the word pairs (0, 1) and (2, 3), cosine first, u = ((word >> 8) + 0.5) * 2^-24. Computed in float64: near
    u = 1 the logarithm of a float32 u would be off by more than the result is large.
    """
    count = math.prod(shape)
    u = ((words(seeds, stream, step, count + count % 2) >> 8).double() + 0.5) * 2.0**-24
    radius = torch.sqrt(-2 * torch.log(u[:, 0::2]))
    angle = 2 * math.pi * u[:, 1::2]
    pairs = torch.stack((radius * torch.cos(angle), radius * torch.sin(angle)), dim=-1)
    return pairs.flatten(1)[:, :count].float().unflatten(1, shape)


def as_seeds(seeds, device="cpu"):
    """Whole numbers as an int64 tensor [B]. Raises ValueError for one outside 0 to 2^63 - 1."""
    seeds = list(seeds)
    for seed in seeds:
        if not 0 <= seed <= MAX_SEED:
            raise ValueError(f"seed {seed}: a seed must be 0 to {MAX_SEED} (2^63 - 1)")
    return torch.tensor(seeds, dtype=torch.int64, device=device)
