"""The published networks at their true width: weights and inputs from a recipe (golden README), results stored."""

import json
from math import prod, sqrt
from pathlib import Path

import numpy as np
import pytest
import torch

from ddgan_fast.checkpoint import load_reference_discriminator, load_reference_generator

KEYS = Path(__file__).parents[1] / "golden" / "keys"
BLOCK_LAYERS = ("conv1", "conv2", "skip")


def recipe(seed, i, key, shape):
    """Tensor number i in float64."""
    n = np.random.default_rng([seed, i]).standard_normal(shape)
    if key.endswith("style.weight"):
        return n * 0.4 / sqrt(shape[1])
    if key.endswith("style.bias"):
        return 0.2 * n + (np.arange(shape[0]) < shape[0] // 2)
    if len(shape) == 1:
        return 1 + 0.2 * n if key.endswith("weight") else 0.1 * n
    if key.endswith(".W"):
        return n / sqrt(shape[0])
    block, _, layer = key.partition(".")
    in_block = block.startswith("conv") and layer.split(".")[0] in BLOCK_LAYERS
    gain = 1.7 if key.startswith("z_transform") else 1.5 if in_block else 1
    return n * gain / sqrt(prod(shape[1:]))


def inputs(seed, *shapes):
    return (torch.from_numpy(np.random.default_rng([seed, 100000 + i]).standard_normal(s).astype(np.float32)) for i, s in enumerate(shapes))


@pytest.mark.parametrize("network", ["D", "G"])
@pytest.mark.parametrize("name", ["cifar10", "celeba_256"])
def test_matches_reference(golden, assert_near, name, network):
    g = golden(f"N_full_{name}_{network}")
    shapes = json.loads((KEYS / f"{name}_{network}.json").read_text())["keys"]
    seed, batch, options = g.meta["seed"], g.meta["batch"], g.config
    weights = {key: recipe(seed, i, key, shape).astype(np.float32) for i, (key, shape) in enumerate(shapes.items())}
    check = np.array([(value.flat[0], value.sum(dtype=np.float64)) for value in weights.values()])
    np.testing.assert_allclose(check, g["chk/first_and_sum_f64"], rtol=1e-6, atol=1e-6)

    state = {key: torch.from_numpy(value) for key, value in weights.items()}
    image = batch, options["num_channels"], options["image_size"], options["image_size"]
    with torch.no_grad():
        if network == "G":
            x, z = inputs(seed, image, (batch, options["nz"]))
            got, want = load_reference_generator(state, options)(x, g["in/t"], z), g["out/y"]
        else:
            x, x_tp1 = inputs(seed, image, image)
            size = "small" if name == "cifar10" else "large"
            got, want = load_reference_discriminator(state, options, size)(x, g["in/t"], x_tp1), g["out/logits"]
    assert_near(got, want, 2e-5)
