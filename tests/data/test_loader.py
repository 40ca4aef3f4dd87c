"""The order of training data: resumable, the same over any number of ranks, and refused early where it cannot be."""

from dataclasses import replace
from itertools import islice

import pytest
import torch
from PIL import Image

from ddgan_fast.config import Model, override, preset
from ddgan_fast.data import Loader, open_loader
from ddgan_fast.data.decode import Images
from ddgan_fast.data.formats.folder import Folder
from ddgan_fast.data.images import InMemory
from ddgan_fast.errors import DataError, InputError, ResourceError

DIGITS = override(preset("tiny"), {"batch_size": 400, "flip": True})  # 4 steps an epoch


def take(loader, count, start=0):
    return list(islice(loader.batches(start), count))


def numbered(count):
    """A set whose image i holds the number i."""
    return InMemory("numbers", torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(count, 1, 2, 2))


def numbers(batch):
    return ((batch[:, 0, 0, 0] + 1) * 127.5).round().long().tolist()


@pytest.mark.parametrize("config", [DIGITS, override(preset("gaussians25"), {"batch_size": 40_000})], ids=["digits", "points"])
def test_started_later_gives_the_same_batches_across_epochs(config):
    loader = open_loader(config, "cpu")
    want = take(loader, 10)
    assert loader.steps_per_epoch <= 4
    for start in (1, 4, 7):
        got = take(loader, 3, start)
        assert all(torch.equal(a, b) for a, b in zip(got, want[start : start + 3], strict=True))


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_together_are_one_rank(world):
    ranks = [open_loader(DIGITS, "cpu", rank=rank, world=world) for rank in range(world)]
    assert {loader.batch_size for loader in ranks} == {400 // world}
    parts = [take(loader, 6, start=1) for loader in ranks]
    for whole, *shares in zip(take(open_loader(DIGITS, "cpu"), 6, start=1), *parts, strict=True):
        assert torch.equal(torch.cat(shares), whole)


def test_an_epoch_is_a_permutation_and_the_next_is_another():
    loader = Loader(numbered(22), 4, "cpu", seed=1)
    epochs = [numbers(torch.cat(take(loader, 5, start))) for start in (0, 5)]
    assert loader.steps_per_epoch == 5
    for epoch in epochs:
        assert len(set(epoch)) == 20 and set(epoch) < set(range(22))
    assert epochs[0] != epochs[1]
    assert epochs[0] != numbers(torch.cat(take(Loader(numbered(22), 4, "cpu", seed=2), 5)))


def test_values_shape_and_type():
    loader = open_loader(override(DIGITS, {"flip": False}), "cpu")
    batch = take(loader, 1)[0]
    assert batch.shape == (400, 1, 8, 8) and batch.dtype == torch.float32 and batch.is_contiguous()
    assert batch.min() == -1 and batch.max() == 1
    assert torch.equal(((batch + 1) * 127.5).round().to(torch.uint8).float() / 127.5 - 1, batch)
    points = open_loader(preset("gaussians25"), "cpu")
    batch = take(points, 1)[0]
    assert torch.equal(batch.sort(0).values[0], batch.min(0).values) and batch.shape == (512, 2) and batch.dtype == torch.float32


def test_flips_mirror_about_half_and_change_with_the_step():
    slope = torch.tensor([0, 255], dtype=torch.uint8).expand(100, 1, 2, 2)
    loader = Loader(InMemory("slope", slope), 100, "cpu", flip=True)
    flipped = [batch[:, 0, 0, 0] > 0 for batch in take(loader, 20)]
    assert 0.45 < torch.stack(flipped).float().mean() < 0.55
    assert not torch.equal(flipped[0], flipped[1])
    assert not any((batch[:, 0, 0, 0] > 0).any() for batch in take(Loader(loader.dataset, 100, "cpu"), 3))


def test_the_global_random_state_is_left_alone():
    loader = open_loader(DIGITS, "cpu")
    torch.manual_seed(0)
    want, first = torch.random.get_rng_state(), take(loader, 5)
    assert torch.equal(torch.random.get_rng_state(), want)
    torch.manual_seed(1)
    assert all(torch.equal(a, b) for a, b in zip(first, take(loader, 5), strict=True))


def test_the_seed_of_the_config_orders_the_data():
    batches = [take(open_loader(override(DIGITS, {"seed": seed}), "cpu"), 1)[0] for seed in (0, 0, 1)]
    assert torch.equal(batches[0], batches[1])
    assert not torch.equal(batches[0], batches[2])


def test_workers_give_the_same_and_their_errors_come_unwrapped(tmp_path):
    for number in range(8):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number}.png")
    config = override(preset("tiny"), {"data": str(tmp_path), "batch_size": 4, "workers": 2, "image_channels": 3, "flip": True})
    want = take(open_loader(config, "cpu"), 5, start=1)
    loader = open_loader(override(config, {"resident_gb": 0}), "cpu")
    assert loader.workers == 2
    assert all(torch.equal(a, b) for a, b in zip(take(loader, 5, start=1), want, strict=True))
    (tmp_path / "3.png").write_bytes((tmp_path / "3.png").read_bytes()[:50])
    with pytest.raises(DataError) as raised:
        take(loader, 2)
    assert str(raised.value).startswith(f"{tmp_path}/3.png: broken or truncated") and "\n" not in str(raised.value)


def test_what_cannot_be_loaded_is_refused_at_once():
    with pytest.raises(DataError, match="1797 items are fewer than one batch of 1800; batch_size must be 1797 or less"):
        open_loader(override(DIGITS, {"batch_size": 1800}), "cpu")
    with pytest.raises(InputError, match="batch_size = 400: it must be a multiple of the 3"):
        open_loader(DIGITS, "cpu", world=3)
    with pytest.raises(InputError, match="rank = 2"):
        open_loader(DIGITS, "cpu", rank=2, world=2)
    with pytest.raises(InputError, match="flip"):
        open_loader(override(preset("gaussians25"), {"flip": True}), "cpu")
    with pytest.raises(InputError, match="--preset gaussians25"):
        open_loader(replace(preset("gaussians25"), model=Model()), "cpu")


def test_workers_without_shared_memory_are_refused_with_the_way_out(monkeypatch):
    images = Images(Folder("set", ["a.png"] * 8), (1, 8, 8))
    monkeypatch.setattr("ddgan_fast.data.loader.SHARED_MEMORY", "/nowhere")
    with pytest.raises(ResourceError, match="/nowhere.*--workers 0"):
        Loader(images, 8, "cpu", workers=2)
    assert Loader(images, 8, "cpu", workers=0).workers == 0


@pytest.mark.gpu
@pytest.mark.parametrize("options", [{"resident_gb": 1}, {"resident_gb": 0}, {"resident_gb": 0, "workers": 2}], ids=str)
def test_a_gpu_gets_the_same(tmp_path, options):
    for number in range(8):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number}.png")
    config = override(
        preset("tiny"), {"data": str(tmp_path), "batch_size": 4, "image_channels": 3, "flip": True, "loader": "torch"} | options
    )
    want = take(open_loader(config, "cpu"), 7, start=1)
    batches = open_loader(config, "cuda").batches(1)
    for each in want:
        torch.cuda._sleep(10_000_000)  # the step before is still at work on its batch when the next one comes
        got = next(batches)
        assert got.device.type == "cuda" and torch.equal(got.cpu(), each)
