"""Sampling: a seed names an image, memory stays bounded, files are whole."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from ddgan_fast import DDGANPipeline
from ddgan_fast.config import preset
from ddgan_fast.diffusion import denoise, draw_start
from ddgan_fast.errors import InputError, MissingError, ResourceError
from ddgan_fast.models import build_generator
from ddgan_fast.noise import POSTERIOR, X_T, normal
from ddgan_fast.pipeline import parse_seeds
from ddgan_fast.sampling import writers


@pytest.fixture(scope="module")
def pipe(make):
    return make()


@pytest.mark.parametrize(
    "name, changes", [("tiny", {}), ("tiny", {"resolution": 32, "image_channels": 3}), ("gaussians25", {}), ("tiny", {"latent": False})]
)
def test_the_same_seed_is_the_same_image_at_any_batch_size(make, name, changes):
    pipe = make(name, **changes)
    whole = pipe(num_images=19, output_type="pt").images
    assert len(torch.unique(whole.flatten(1), dim=0)) == 19
    for batch_size in (1, 2, 3, 8, 18):
        assert torch.equal(pipe(num_images=19, output_type="pt", batch_size=batch_size).images, whole)
    order = [18, 3, 7, 0]
    assert torch.equal(pipe(seeds=order, output_type="pt").images, whole[order])
    assert torch.equal(pipe(num_images=3, seed=5, output_type="pt").images, whole[5:8])


def test_a_sample_is_denoise_of_its_seeds_noise(pipe):
    seeds = torch.arange(5)
    start = draw_start(seeds, pipe.config.model, 4)
    noise = [normal(seeds, POSTERIOR, t, (1, 8, 8)) for t in range(4)]
    want = denoise(pipe.generator, pipe.schedule, *start, noise)
    got = pipe(num_images=5, output_type="pt").images
    assert torch.allclose(got, ((want + 1) / 2).clamp(0, 1), atol=1e-5)
    torch.testing.assert_close(start[0], normal(seeds, X_T, 4, (1, 8, 8)), rtol=0, atol=4e-6)


def test_output_types_agree(pipe):
    out = pipe(num_images=3)
    assert out.seeds == [0, 1, 2] and out.nfe == 4 and out.seconds > 0
    uint8 = pipe(num_images=3, output_type="uint8").images
    assert uint8.shape == (3, 8, 8, 1) and uint8.dtype == np.uint8
    assert np.array_equal(np.stack([np.asarray(image) for image in out.images])[..., None], uint8)
    array, tensor = (pipe(num_images=3, output_type=kind).images for kind in ("np", "pt"))
    assert np.array_equal(array, tensor.permute(0, 2, 3, 1).numpy())
    assert np.abs(array * 255 - uint8).max() <= 0.5 + 1e-4
    assert array.min() >= 0 and array.max() <= 1


def test_given_latents_and_generators(pipe):
    latents = normal(torch.arange(4), X_T, 4, (1, 8, 8))
    given = pipe(latents=latents, output_type="pt").images
    assert torch.allclose(given, pipe(num_images=4, output_type="pt").images, atol=1e-5)
    draws = [pipe(num_images=2, generator=torch.Generator().manual_seed(seed), output_type="pt").images for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    torch.manual_seed(42)
    x = torch.randn(2, 1, 8, 8)
    drawn = [(torch.randn(2, 4), torch.randn(2, 1, 8, 8)) for _ in range(4)][::-1]
    want = denoise(pipe.generator, pipe.schedule, x, *(torch.stack(part) for part in zip(*drawn, strict=True)))
    got = pipe(num_images=2, generator=torch.Generator().manual_seed(42), output_type="pt").images
    assert torch.allclose(got, ((want + 1) / 2).clamp(0, 1), atol=1e-5)


def test_bfloat16_is_near(make, pipe):
    full = pipe(num_images=4, output_type="pt").images
    half = make().to(torch.bfloat16)(num_images=4, output_type="pt").images
    assert half.dtype == torch.float32
    assert (full - half).abs().mean() < 0.02


@pytest.mark.parametrize(
    "arguments, named",
    [
        ({"num_images": 0}, "num_images"), ({"num_images": -1}, "num_images"), ({"seeds": "5-3"}, "5-3"), ({"seeds": "a"}, "0-63"),
        ({"seeds": [2**63]}, "2\\^63"), ({"seed": -1, "num_images": 1}, "seed"), ({"seeds": [1, 2], "num_images": 3}, "num_images"),
        ({"num_images": 1, "output_type": "jpg"}, "output_type"), ({"num_images": 1, "batch_size": 0}, "batch_size"), ({"seeds": [1.5]}, "whole"), ({"num_images": 10**9}, "100,000,000"), ({"seeds": f"0-{2**63 - 1}"}, "100,000,000"), ({"seeds": "5-3,7"}, "ascending"),
        ({"latents": torch.zeros(2, 3, 8, 8)}, "latents"), ({"latents": torch.zeros(2, 1, 8, 8), "num_images": 3}, "2 latents"), ({"latents": torch.zeros(2, 1, 8, 8), "seeds": "0-4"}, "fit the seeds"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused(pipe, arguments, named):
    with pytest.raises(InputError, match=named):
        pipe(**arguments)


def test_seed_forms():
    assert list(parse_seeds("0-3")) == [0, 1, 2, 3]
    assert parse_seeds("3,5-6,9") == [3, 5, 6, 9]
    assert list(parse_seeds(7, 2)) == [7, 8] and list(parse_seeds(7)) == [7]
    assert list(parse_seeds(np.int64(7), 2)) == [7, 8]
    assert parse_seeds(f"{2**63 - 1}") == range(2**63 - 1, 2**63)


def test_unknown_presets_and_engines(make):
    with pytest.raises(InputError, match="did you mean 'cifar10'"):
        DDGANPipeline.from_preset("cifar-10")
    with pytest.raises(InputError, match="auto, eager, folded, compile, graph"):
        make().compile("fast")
    with pytest.raises(InputError, match="fp32, tf32, bf16, fp16"):
        make().compile("auto", "int8")
    with pytest.raises(MissingError, match="CUDA device"):
        make().compile("graph")
    with pytest.raises(MissingError, match="take fp32"):
        make().compile("auto", "tf32")
    with pytest.raises(InputError, match="take eager or auto"):
        make("gaussians25").compile("folded")
    assert make("gaussians25").compile().sampler.network.body


def test_a_saved_pipeline_draws_the_same(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "model")
    loaded = DDGANPipeline.from_pretrained(tmp_path / "model")
    assert torch.equal(loaded(num_images=3, output_type="pt").images, pipe(num_images=3, output_type="pt").images)
    assert loaded.config == pipe.config
    loaded.save_pretrained(tmp_path / "model")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other/thesis.txt").write_text("mine")
    (tmp_path / "other/config.json").write_text("{}")
    with pytest.raises(InputError, match="other files"):
        pipe.save_pretrained(tmp_path / "other")
    assert (tmp_path / "other/thesis.txt").read_text() == "mine"


def test_a_failed_replacement_keeps_the_old_model(pipe, tmp_path, monkeypatch):
    pipe.save_pretrained(tmp_path / "model")
    before = sorted(p.name for p in (tmp_path / "model").iterdir())
    rename, calls = os.rename, []

    def fails_once(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise OSError(116, "Stale file handle")
        rename(source, target)

    monkeypatch.setattr("os.rename", fails_once)
    with pytest.raises(ResourceError, match="Stale"):
        pipe.save_pretrained(tmp_path / "model")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == before
    DDGANPipeline.from_pretrained(tmp_path / "model")


def test_sampling_mixes_no_devices():
    """The meta device stands in for a GPU: tensors of two devices in one operation raise."""
    config = preset("tiny")
    with torch.device("meta"):
        generator = build_generator(config.model)
    assert DDGANPipeline(generator, config).sampler.sample([0, 1]).device.type == "meta"


def test_writers(pipe, tmp_path):
    want = pipe(num_images=5, output_type="uint8").images
    for kind, name in (("png", "pngs"), ("npz", "all.npz"), ("grid", "grid.png")):
        writers.write(pipe.batches, range(5), tmp_path / name, kind, (1, 8, 8), 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["all.npz", "grid.png", "pngs"]
    assert np.array_equal(np.stack([np.asarray(Image.open(p)) for p in sorted((tmp_path / "pngs").glob("*.png"))])[..., None], want)
    loaded = np.load(tmp_path / "all.npz")
    assert np.array_equal(loaded["images"], want) and loaded["seeds"].tolist() == [0, 1, 2, 3, 4] and loaded["seeds"].dtype == np.int64
    grid = np.asarray(Image.open(tmp_path / "grid.png"))
    scale = grid.shape[1] // 27  # 3 columns of 8 pixels and a line
    assert np.array_equal(grid[::scale, ::scale][:8, 9:17], want[1, :, :, 0])


def test_points_have_npz_and_a_density_picture(make, tmp_path):
    pipe = make("gaussians25")
    writers.write(pipe.batches, range(10), tmp_path / "points.npz", "npz", (2,), 4)
    assert np.array_equal(np.load(tmp_path / "points.npz")["points"], pipe(num_images=10, output_type="np").images)
    writers.write(pipe.batches, range(10), tmp_path / "grid.png", "grid", (2,), 4)
    assert Image.open(tmp_path / "grid.png").size == (512, 512)
    with pytest.raises(InputError, match="2-D points"):
        writers.write(pipe.batches, range(10), tmp_path / "pngs", "png", (2,), 4)
    with pytest.raises(InputError, match="np, pt"):
        pipe(num_images=1, output_type="pil")
    assert pipe(num_images=2).images.shape == (2, 2)


@pytest.mark.parametrize("kind", ["png", "npz", "grid"])
def test_nothing_half_written_stays(pipe, tmp_path, kind):
    def broken(seeds, batch_size):
        yield from pipe.batches("0-1", batch_size)
        raise OSError(28, "No space left on device")

    with pytest.raises(ResourceError, match="No space left"):
        writers.write(broken, range(4), tmp_path / "out", kind, (1, 8, 8), 2)
    left = [p.name for p in tmp_path.rglob("*") if p.is_file() and p.name != writers.RECORD]
    assert sorted(left) == {"png": ["00000000.png", "00000001.png"], "npz": ["000000000.npy"], "grid": []}[kind]  # of finished batches


MEMORY = """
import re, sys, torch
torch.set_num_threads(1)
from ddgan_fast import DDGANPipeline
from ddgan_fast.config import override, preset
from ddgan_fast.sampling.writers import write

class Constant(torch.nn.Module):  # a generator that costs nothing, so that 10,000 images of 32x32 take seconds
    def __init__(self, config):
        super().__init__()
        self.config, self.weight = config, torch.nn.Parameter(torch.zeros(1))
    def forward(self, x, t, z):
        return x * self.weight

config = override(preset("tiny"), {"resolution": 32, "image_channels": 3, "steps": 1})
pipe = DDGANPipeline(Constant(config.model), config)
count = int(sys.argv[1])
def draw(seeds, batch_size):
    batches = pipe.batches(seeds, batch_size)
    return list(batches) if "keep" in sys.argv else batches

write(draw, range(count), sys.argv[2], "npz", config.model.sample_shape, 100)
print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])  # unlike ru_maxrss, without the parent's peak
"""


def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    """Peak memory of drawing 10,000 images at batch 100 is that of 200; to keep them would show."""

    def peak(count, *extra):
        command = [sys.executable, "-c", MEMORY, str(count), str(tmp_path / f"{count}{''.join(extra)}.npz"), *extra]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    limit = 1.05 * peak(200)
    assert peak(10_000) < limit < peak(10_000, "keep")
