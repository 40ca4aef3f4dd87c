"""The noise of the extension: its integers against noise.py and the published vectors, its normals against float64, its distribution."""

import math
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from ddgan_fast import noise
from ddgan_fast.errors import InputError
from ddgan_fast.ops import backend, philox_normal
from ddgan_fast.ops.philox import BACKENDS

CSRC = Path(__file__).parents[2] / "csrc"
SEEDS = [0, 1, 2**32 - 1, 2**32, 1_234_567_890_123_456_789, noise.MAX_SEED]
PROGRAM = """
#include <cstdio>
#include <cstdlib>
#include "philox.h"
int main(int argc, char** argv) {  // counter and key -> words; or two words -> the bits of two normals
  uint32_t v[6];
  for (int i = 1; i < argc; ++i) v[i - 1] = strtoul(argv[i], nullptr, 10);
  if (argc == 7) {
    uint32_t c[4] = {v[0], v[1], v[2], v[3]};
    ddgan::philox4x32<ddgan::Scalar>(c, v[4], v[5]);
    printf("%u %u %u %u", c[0], c[1], c[2], c[3]);
  } else {
    float cosine, sine;
    ddgan::box_muller<ddgan::Scalar>(v[0], v[1], cosine, sine);
    printf("%.9g %.9g", cosine, sine);
  }
}
"""
VECTORS = [  # Random123, kat_vectors, philox4x32 10: counter and key, output
    ((0,) * 6, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((2**32 - 1,) * 6, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344, 0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def exact(words):
    """Box-Muller of words [.., 2n] in float64."""
    u = ((words >> 8).double() + 0.5) * 2.0**-24
    radius, angle = torch.sqrt(-2 * torch.log(u[..., 0::2])), 2 * math.pi * u[..., 1::2]
    return torch.stack((radius * angle.cos(), radius * angle.sin()), dim=-1).flatten(-2)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """philox.h by itself, one lane, without torch."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ here")
    folder = tmp_path_factory.mktemp("philox")
    (folder / "main.cpp").write_text(PROGRAM)
    command = [compiler, "-std=c++17", "-O2", "-ffp-contract=off", f"-I{CSRC}", str(folder / "main.cpp"), "-o", str(folder / "main")]
    subprocess.run(command, check=True)
    return lambda *words: subprocess.run([folder / "main", *map(str, words)], capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.parametrize("words, want", VECTORS)
def test_published_vectors_in_cpp(program, words, want):
    assert tuple(map(int, program(*words))) == want


EDGES = [0, 255, 256, 2**31 - 1, 2**31, 2**31 + 255, 0x95F61900, 0x96000000, 2**32 - 257, 2**32 - 256, 2**32 - 1]


@pytest.mark.parametrize("first, second", [(a, b) for a in EDGES for b in (0, 2**29, 2**30, 2**31, 2**32 - 1)][::3])
def test_edges_of_box_muller(program, first, second):
    """Around u = 0, 1/2 and 1, where the logarithm changes its form, and at the quarter turns."""
    want = exact(torch.tensor([first, second]))
    got = torch.tensor([float(value) for value in program(first, second)], dtype=torch.float64)
    assert (got - want).abs().max() <= 1e-6
    assert (got.norm() / want.norm() - 1).abs() < 1e-6


@pytest.mark.cpp
@pytest.mark.parametrize("stream, step", [(noise.X_T, 4), (noise.Z, 0), (40, 351_194), (2**32 - 1, 2**32 - 1)])
@pytest.mark.parametrize("count", [1, 4, 1001])
def test_integers_are_those_of_the_reference(count, stream, step):
    seeds = noise.as_seeds(SEEDS)
    assert torch.equal(torch.ops.ddgan_cpp.philox_words(seeds, stream, step, count), noise.words(seeds, stream, step, count))


@pytest.mark.parametrize("shape", [(1,), (31,), (32,), (33,), (3, 5, 7), (3, 64, 64)], ids=str)
@pytest.mark.parametrize("name", BACKENDS)
def test_normals_match_float64(name, shape):
    seeds, count = noise.as_seeds(SEEDS), math.prod(shape)
    with backend.force(name):
        got = philox_normal(seeds, noise.X_T, 4, shape)
    assert got.shape == (len(SEEDS), *shape) and got.dtype == torch.float32
    want = exact(noise.words(seeds, noise.X_T, 4, count + count % 2))[:, :count]
    assert (got.flatten(1) - want).abs().max() <= 4e-6


@pytest.mark.cpp
def test_one_lane_and_eight_give_the_same_bits(program):
    seeds = torch.tensor([12345])
    words = torch.ops.ddgan_cpp.philox_words(seeds, 0, 4, 32)[0].tolist()
    alone = [float(value) for i in range(0, 32, 2) for value in program(*words[i : i + 2])]
    assert torch.equal(torch.tensor(alone), torch.ops.ddgan_cpp.philox_normal(seeds, 0, 4, 32)[0])


@pytest.mark.cpp
def test_distribution_of_ten_million():
    """Kolmogorov-Smirnov at the 0.1 % level; no pair of seeds, steps or streams is correlated."""
    rows = torch.cat([philox_normal(torch.arange(10), stream, step, (62_500,)) for stream in range(4) for step in range(4)])
    ordered = rows.flatten().sort().values.double()
    count = len(ordered)
    assert count == 10_000_000
    cdf, steps = torch.special.ndtr(ordered), torch.arange(count + 1, dtype=torch.float64) / count
    statistic = torch.maximum((cdf - steps[:-1]).max(), (steps[1:] - cdf).max())
    assert statistic < 1.95 / math.sqrt(count)
    assert torch.corrcoef(rows).fill_diagonal_(0).abs().max() < 5.5 / math.sqrt(62_500)


@pytest.mark.cpp
def test_registration_and_one_graph():
    seeds = torch.arange(3)
    torch.library.opcheck(torch.ops.ddgan_cpp.philox_normal.default, (seeds, 0, 1, 33))
    torch.library.opcheck(torch.ops.ddgan_cpp.philox_words.default, (seeds, 0, 1, 33))
    compiled = torch.compile(philox_normal, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(seeds, 0, 1, (3, 11)), philox_normal(seeds, 0, 1, (3, 11)))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((torch.arange(3.0), 0, 1, (2,)), r"seeds is torch.float32 \[3\]; it must be torch.int64 \[B\]"),
        ((torch.arange(4).view(2, 2), 0, 1, (2,)), r"seeds is torch.int64 \[2, 2\]"),
        ((torch.arange(3), -1, 1, (2,)), r"stream = -1; it must be 0 to 2\^32 - 1"),
        ((torch.arange(3), 0, 2**32, (2,)), "step = 4294967296"),
        ((torch.arange(3), 0, 1, (2, 0)), r"shape is \(2, 0\); no size may be 0"),
    ],
)
def test_arguments_that_do_not_fit_are_named(arguments, message):
    with pytest.raises(InputError, match=f"^philox_normal: .*{message}"):
        philox_normal(*arguments)
