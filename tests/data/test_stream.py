"""Streamed tar shards: each image once, the same when started later, in bounded memory."""

import json
import logging
import random
import shutil
import subprocess
import sys
import tarfile
import threading
from collections import Counter
from itertools import islice

import pytest
import torch

from ddgan_fast.data import stream
from ddgan_fast.data.formats.shards import Shard
from ddgan_fast.errors import DataError, InputError

from .streaming import numbers, open_stream, png, same, take, write_shards, write_tar


def test_an_epoch_holds_every_image_once_and_the_next_in_another_order(tmp_path):
    loader = open_stream(write_shards(tmp_path, 8, 8, 8, 8))
    assert (loader.batch_size, loader.steps_per_epoch) == (4, 8)
    epochs = [numbers(take(loader, 8, start)) for start in (0, 8, 16)]
    assert all(sorted(epoch) == list(range(32)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert numbers(take(open_stream(tmp_path, seed=1), 8)) not in epochs


def test_values_shape_and_type(tmp_path):
    batch = take(open_stream(write_shards(tmp_path, 8)), 1)[0]
    assert batch.shape == (4, 1, 8, 8) and batch.dtype == torch.float32 and batch.is_contiguous()
    assert (batch[..., 4:] == -1).all() and (batch[..., :4] == batch[..., :1, :1]).all()


@pytest.mark.parametrize("buffer", [1, 5, 64])
def test_the_buffer_bounds_how_early_an_image_comes(tmp_path, buffer):
    loader = open_stream(write_shards(tmp_path, 10, 3, 9), shuffle_buffer=buffer)
    for epoch in range(4):
        mine, starts, order = loader.order(epoch, 0)
        assert sorted(order) == list(range(22)) and starts[-1] == 22
        assert all(position < place + buffer for place, position in enumerate(order))
        if buffer == 1:
            assert list(order) == list(range(22))
    assert len({tuple(loader.order(epoch, 0)[0]) for epoch in range(8)}) > 2


def test_what_is_held_is_bounded_by_the_buffer(tmp_path, monkeypatch):
    """At any start, by the buffer and the batches that are decoded ahead, of 200 images."""
    loader, read_shard, read = open_stream(write_shards(tmp_path, 50, 50, 50, 50)), stream.read_shard, Counter()

    def counted(shard):
        for item in read_shard(shard):
            read["images"] += 1
            yield item

    monkeypatch.setattr(stream, "read_shard", counted)
    for used, _ in enumerate(islice(loader.batches(), 50), 1):
        assert read["images"] <= 4 * (used + stream.AHEAD) + loader.buffer


def test_indices_name_the_images_of_a_step(tmp_path):
    loader = open_stream(write_shards(tmp_path, 7, 9, 5, 8), flip=True)
    steps = [loader.indices(step) for step in range(20)]
    assert loader.steps_per_epoch == 7
    assert [number for step in steps for number in step] == numbers(take(loader, 20))
    ranks = [open_stream(tmp_path, rank, 2) for rank in range(2)]
    for step in (0, 3, 7):
        assert ranks[0].indices(step) == ranks[1].indices(step) == [n for rank in ranks for n in numbers(take(rank, 1, step))]


def test_flips_mirror_about_half_and_change_with_step_and_rank(tmp_path):
    write_tar(tmp_path / "0.tar", [(f"{number}.png", png(255)) for number in range(40)])
    shutil.copy(tmp_path / "0.tar", tmp_path / "1.tar")
    ranks = [take(open_stream(tmp_path, rank, 2, flip=True, batch_size=40), 6) for rank in range(2)]
    mirrored = torch.stack([batch[:, 0, 0, 0] < 0 for batches in ranks for batch in batches])  # [2 ranks * 6 steps, 20]
    assert 0.4 < mirrored.float().mean() < 0.6
    assert len(mirrored.unique(dim=0)) == 12
    assert not any((batch[:, 0, 0, 0] < 0).any() for batch in take(open_stream(tmp_path), 4))


def test_ranks_read_other_shards_and_are_the_epoch_together(tmp_path):
    write_shards(tmp_path, 8, 8, 8, 8)
    ranks = [open_stream(tmp_path, rank, 2) for rank in range(2)]
    assert {(rank.batch_size, rank.steps_per_epoch) for rank in ranks} == {(2, 8)}
    for epoch in range(3):
        parts = [numbers(take(rank, 8, 8 * epoch)) for rank in ranks]
        assert sorted(parts[0] + parts[1]) == list(range(32))
        assert {n // 8 for n in parts[0]}.isdisjoint(n // 8 for n in parts[1])
        assert ranks[0].order(epoch, 0)[0] == ranks[1].order(epoch, 0)[0]


def test_ranks_with_unequal_shards_take_as_many_steps(tmp_path):
    """Also where a shard is left over in each epoch, another one each time."""
    write_shards(tmp_path, 3, 20, 6, 11, 4)
    ranks = [open_stream(tmp_path, rank, 2) for rank in range(2)]
    assert {rank.steps_per_epoch for rank in ranks} == {(3 + 4) // 2}
    met = set()
    for epoch in range(8):
        parts = [numbers(take(rank, 3, 3 * epoch)) for rank in ranks]
        assert len(set(parts[0] + parts[1])) == 12
        met.update(shard for rank in range(2) for shard in ranks[0].order(epoch, rank)[0])
    assert met == set(range(5))


def test_more_ranks_than_shards_are_refused(tmp_path):
    write_shards(tmp_path, 8, 8)
    with pytest.raises(InputError, match="2 shards cannot be shared by 4 processes; pack the set into more"):
        open_stream(tmp_path, world=4)
    with pytest.raises(DataError, match="a rank's share of 8 images is less than its 10 of a batch of 20; give a smaller batch_size"):
        open_stream(tmp_path, world=2, batch_size=20)


def test_local_shards_without_an_index_are_counted(tmp_path):
    write_shards(tmp_path, 5, 7)
    (tmp_path / "index.json").unlink()
    assert open_stream(tmp_path).steps_per_epoch == 3
    (tmp_path / "list.txt").write_text("# shards\n1.tar\n")
    assert numbers(take(open_stream(tmp_path / "list.txt", shuffle_buffer=1), 1)) == [5, 6, 7, 8]
    (tmp_path / "1.tar").write_bytes((tmp_path / "1.tar").read_bytes()[:3000])
    with pytest.raises(DataError, match=f"{tmp_path}/1.tar: cannot be read"):
        open_stream(tmp_path)


def test_one_shard_that_holds_more_than_its_list_says_is_refused(tmp_path):
    loader = open_stream(write_shards(tmp_path, 9, seen=[8]))
    batches = loader.batches()
    assert len(list(islice(batches, 2))) == 2
    with pytest.raises(DataError, match="more images in it"):
        next(batches)


def test_a_buffer_is_of_shards_alone(tmp_path):
    (tmp_path / "a.png").write_bytes(png(1))
    with pytest.raises(InputError, match="shuffle_buffer = 8: it mixes tar shards"):
        open_stream(tmp_path)
    with pytest.raises(InputError, match="shuffle_buffer = 8"):
        open_stream("digits")
    (tmp_path / "set").mkdir()
    for name, value in (("loader", "dali"), ("max_images", 4)):
        with pytest.raises(InputError, match=f"no {name} = {value}"):
            open_stream(write_shards(tmp_path / "set", 8), **{name: value})


def broken(path, *bad):
    """The shard with the images of those names cut."""
    with tarfile.open(path) as tar:
        members = [(m.name, tar.extractfile(m).read()) for m in tar if m.name.endswith(".png")]
    write_tar(path, [(name, content[:-20] if name in bad else content) for name, content in members])


def test_a_bad_image_ends_the_run_or_is_replaced(tmp_path, caplog):
    want = take(open_stream(write_shards(tmp_path, 8, 8)), 8)
    broken(tmp_path / "0.tar", "3.png", "4.png")
    steps = [open_stream(tmp_path).indices(step) for step in range(8)]
    loader, first = open_stream(tmp_path), next(step for step in range(8) if {3, 4} & set(steps[step]))
    batches = loader.batches()
    assert same(islice(batches, first), want[:first])
    with pytest.raises(DataError, match=f"{tmp_path}/0.tar:[34].png: broken or truncated"):
        next(batches)
    assert not list(batches)

    loader = open_stream(tmp_path, on_bad_image="skip")
    with caplog.at_level(logging.WARNING):
        got = take(loader, 8)
    assert caplog.text.count("left out: ") == 2 and "0.tar:3.png" in caplog.text  # once each in two epochs
    for step, batch in zip(steps, got, strict=True):
        good = [n for n in step if n not in (3, 4)]
        replaced = [n if n in good else next(m for m in step[place:] + step[:place] if m in good) for place, n in enumerate(step)]
        assert numbers([batch]) == replaced
    assert same(take(loader, 3, start=5), got[5:])


def test_a_batch_of_bad_images_ends_the_run_though_they_may_be_skipped(tmp_path):
    write_tar(tmp_path / "0.tar", [(f"{n}.png", png(n) if n > 3 else b"") for n in range(8)])
    batches = open_stream(tmp_path, on_bad_image="skip", shuffle_buffer=1).batches()
    with pytest.raises(DataError, match="0.tar:0.png: empty"):
        next(batches)


def test_a_broken_shard_ends_the_run_behind_the_batches_before_it(tmp_path):
    loader = open_stream(write_shards(tmp_path, 10, 10, 10), shuffle_buffer=1)
    want, second = take(loader, 7), tmp_path / f"{loader.order(0, 0)[0][1]}.tar"
    second.write_bytes(second.read_bytes()[: 5 * 2048 + 530])  # inside of its sixth image
    batches = loader.batches()
    assert same(islice(batches, 3), want[:3])  # 12 of the 15 whole images
    with pytest.raises(DataError, match=f"{second}:.*.png: truncated: the shard ends inside of it"):
        next(batches)
    assert not list(batches)
    second.unlink()
    with pytest.raises(DataError, match=f"{second}: cannot be read"):
        take(loader, 4)


@pytest.mark.parametrize("used", [0, 1, 5])
def test_an_abandoned_iterator_leaves_no_thread(tmp_path, used):
    before = set(threading.enumerate())
    batches = open_stream(write_shards(tmp_path, 8, 8), workers=4).batches()
    list(islice(batches, used))
    batches.close()
    assert set(threading.enumerate()) == before


def test_an_interrupt_gets_through(tmp_path, monkeypatch):
    images, before = stream.images, set(threading.enumerate())

    def interrupted(*arguments):
        yield from islice(images(*arguments), 5)
        raise KeyboardInterrupt

    loader = open_stream(write_shards(tmp_path, 8, 8))
    monkeypatch.setattr(stream, "images", interrupted)
    with pytest.raises(KeyboardInterrupt):
        take(loader, 4)
    assert set(threading.enumerate()) == before


def test_no_damage_to_a_shard_escapes_as_another_error(tmp_path):
    draw, path, found = random.Random(0), write_shards(tmp_path, 4) / "0.tar", Counter()
    whole = path.read_bytes()
    for attempt in range(200):
        content = bytearray(whole)
        for _ in range(draw.randrange(1, 4)):  # most of it in headers
            content[draw.randrange(0, 8192, 512) + draw.randrange(512)] = draw.randrange(256)
        path.write_bytes(content[: draw.randrange(9000)] if attempt % 2 else content)
        try:
            found[len(list(stream.read_shard(Shard(str(path), 4))))] += 1
        except DataError as error:
            found["refused"] += 1
            assert str(path) in str(error)
    assert found.keys() == {4, "refused"} and min(found.values()) > 20, found


MEMORY = """
import os
import sys
from itertools import islice
from ddgan_fast.config import override, preset
from ddgan_fast.data import open_loader

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

settings = {"data": sys.argv[1], "shuffle_buffer": 256, "batch_size": 500, "workers": 2}
loader = open_loader(override(preset("tiny"), settings), "cpu")
batches = loader.batches()
for _ in islice(batches, loader.steps_per_epoch // 10):
    pass
early = resident()
for _ in islice(batches, loader.steps_per_epoch - loader.steps_per_epoch // 10):
    pass
print(loader.steps_per_epoch, early, resident())
"""


@pytest.mark.slow
def test_memory_is_flat(tmp_path):
    """50,000 images of 100 MB in all: a loader that kept them would grow by a third."""
    images = [png(number, padding=2000) for number in range(50)]
    write_tar(tmp_path / "0.tar", [(f"{number}.png", images[number % 50]) for number in range(5000)])
    lines = [{"url": "0.tar", "nsamples": 5000}] * 10
    (tmp_path / "index.json").write_text(json.dumps({"shardlist": lines}))
    result = subprocess.run([sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    steps, early, late = map(int, result.stdout.split())
    print(f"{early / 2**20:.1f} MiB after a tenth of the epoch, {late / 2**20:.1f} MiB at its end")
    assert steps == 100 and late <= 1.05 * early
