"""Shards on other machines: the same images, where connections break too; what cannot be had is refused at once."""

import os
import shutil
import socket

import pytest

from ddgan_fast.cli import main
from ddgan_fast.data import stream
from ddgan_fast.data.formats.shards import Shard
from ddgan_fast.errors import DataError, InputError
from ddgan_fast.training.loop import Run

from .streaming import open_stream, png, same, take, write_index, write_shards, write_tar


def listed_at(server, folder, *counts):
    """The served shards, listed by an index in another folder."""
    folder.mkdir()
    return write_index(folder, {f"{shard}.tar": count for shard, count in enumerate(counts)}, server.url)


@pytest.mark.parametrize("remote", [False, True], ids=["local", "http"])
def test_started_later_gives_the_same_batches_across_epochs(tmp_path, server, remote):
    write_shards(server.folder, 7, 9, 5, 8)
    data = listed_at(server, tmp_path / "list", 7, 9, 5, 8) if remote else server.folder
    loader = open_stream(data, flip=True)
    want = take(loader, 20)
    assert same(want, take(open_stream(server.folder, flip=True, workers=0), 20))  # local, with one thread
    for start in (1, 5, 6, 7, 8, 13, 14):
        assert same(take(loader, 20 - start, start), want[start:])


@pytest.mark.parametrize("remote", [False, True], ids=["local", "http"])
def test_a_resumed_run_opens_no_shard_that_it_is_done_with(tmp_path, server, monkeypatch, remote):
    write_shards(server.folder, 8, 8, 8, 8)
    loader = open_stream(listed_at(server, tmp_path / "list", 8, 8, 8, 8) if remote else server.folder, shuffle_buffer=3)
    mine, starts, order = loader.order(1, 0)
    members = stream._members
    opened = []
    monkeypatch.setattr(stream, "_members", lambda shard: opened.append(os.path.basename(shard.place)) or members(shard))
    for place in range(8):
        server.asked.clear()
        opened.clear()
        take(loader, 8 - place, start=8 + place)
        needed = [
            f"{shard}.tar" for turn, shard in enumerate(mine) if any(starts[turn] <= n < starts[turn + 1] for n in order[4 * place :])
        ]
        following = [f"{shard}.tar" for shard in loader.order(2, 0)[0]]  # what is decoded ahead
        assert opened == needed + following[: len(opened) - len(needed)]
        assert not remote or server.asked == opened
    assert len(needed) == 1  # the last steps need the last shard alone


def test_broken_connections_are_taken_up_again(tmp_path, server, waits, caplog):
    """Each answer ends somewhat later: between images, in a header, in an image, behind one; more often than TRIES in all."""
    write_shards(server.folder, 12, 12)
    each = 4 * 512  # bytes of an image and its sidecar
    server.cuts["0.tar"] = [1, each, 2 * each, 2 * each + 10, 3 * each + 600, 5 * each - 1024 - 400, 6 * each + 512, 8 * each + 1, 9 * each]
    loader, want = open_stream(listed_at(server, tmp_path / "list", 12, 12)), take(open_stream(server.folder), 6)
    for server.resets in (False, True):
        server.cuts["0.tar"] = server.cuts["0.tar"] or [500, 3 * each, 7 * each + 700]
        assert same(take(loader, 6), want)
        assert not server.cuts["0.tar"]
    assert f"{server.url}0.tar" in caplog.text and "trying again in 1 s" in caplog.text
    assert max(waits) <= 4 * stream.WAIT_S  # they grow only while nothing comes


@pytest.mark.parametrize("end", [0, 700, 2048, 2048 + 10, 2048 + 550], ids=str)
def test_a_connection_that_always_breaks_ends_the_run(tmp_path, server, waits, end):
    write_shards(server.folder, 12)
    server.cuts["0.tar"] = [end] * 20
    with pytest.raises(DataError, match=f"{server.url}0.tar"):
        take(open_stream(listed_at(server, tmp_path / "list", 12)), 1)
    assert len(server.asked) == stream.TRIES and waits == [1, 2, 4, 8]


def test_a_server_that_is_busy_is_asked_again_and_what_it_refuses_is_not(tmp_path, server, waits):
    write_shards(server.folder, 12)
    loader = open_stream(listed_at(server, tmp_path / "list", 12))
    for code, asked in ((503, stream.TRIES), (429, stream.TRIES), (404, 1), (403, 1)):
        server.refused["0.tar"] = code
        server.asked.clear()
        with pytest.raises(DataError, match=f"{server.url}0.tar: cannot be read .HTTP Error {code}"):
            take(loader, 1)
        assert len(server.asked) == asked


def test_a_silent_server_is_given_up(monkeypatch, waits):
    monkeypatch.setattr(stream, "TIMEOUT_S", 0.05)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/0.tar"
        with pytest.raises(DataError, match=f"{url}: cannot be read .*timed out"):
            list(stream.read_shard(Shard(url, 3)))
    assert len(waits) == stream.TRIES - 1


@pytest.mark.parametrize("place", ["a b.tar", "ä.tar"])
def test_addresses_that_are_none_are_not_tried_again(server, waits, place):
    with pytest.raises(DataError, match=f"{server.url}{place}: cannot be read"):
        list(stream.read_shard(Shard(server.url + place, 3)))
    assert not waits


@pytest.mark.parametrize("remote", [False, True], ids=["local", "http"])
@pytest.mark.parametrize("counts, says", [((8, 12), "8.*says 12"), ((8, 4), "more.*says 4")], ids=["too many", "too few"])
def test_counts_that_are_wrong_are_refused(tmp_path, server, waits, remote, counts, says):
    """Also of the shard that is read last."""
    write_shards(server.folder, 8, 8, seen=counts)
    loader = open_stream(listed_at(server, tmp_path / "list", *counts) if remote else server.folder)
    with pytest.raises(DataError, match=f"1.tar: {says.replace('.*', ' images in it, and its list ')}; list the shards anew"):
        take(loader, loader.steps_per_epoch + 1)
    assert not waits


def test_a_refused_member_is_not_asked_for_again(tmp_path, server, waits):
    write_tar(server.folder / "0.tar", [("0.png", png(0)), ("../1.png", png(1))])
    with pytest.raises(DataError, match=f"{server.url}0.tar:../1.png: refused: the name leads out"):
        take(open_stream(listed_at(server, tmp_path / "list", 2), batch_size=2), 1)
    assert server.asked == ["0.tar"] and not waits


def test_remote_shards_need_counts_and_a_buffer(tmp_path):
    (tmp_path / "list.txt").write_text("http://127.0.0.1:1/0.tar\n")
    with pytest.raises(DataError, match="http://127.0.0.1:1/0.tar without its number of images; list remote shards in an index.json"):
        open_stream(tmp_path / "list.txt")
    write_index(tmp_path, {"0.tar": 8}, "http://127.0.0.1:1/")
    with pytest.raises(InputError, match="http://127.0.0.1:1/0.tar: .*--shuffle-buffer"):
        open_stream(tmp_path / "index.json", shuffle_buffer=0)


@pytest.mark.parametrize("remote", [False, True], ids=["local", "http"])
def test_a_resumed_run_is_exact(tmp_path, server, caplog, monkeypatch, remote):
    """Left at step 4 of 8, in the second epoch of three steps."""
    monkeypatch.setattr(Run, "sample", lambda self: None)
    write_shards(server.folder, 12, 14)
    data = listed_at(server, tmp_path / "list", 12, 14) if remote else server.folder
    whole, half = tmp_path / "whole", tmp_path / "half"
    words = ["--preset", "tiny", "--data", data, "--shuffle-buffer", 16, "--workers", 2, "--flip", "--out", whole]
    assert main(["train", *map(str, words)]) == 0
    assert "stream loader: 2 tar shards" in caplog.text
    shutil.copytree(whole, half)
    shutil.rmtree(half / "checkpoints/checkpoint-00000008")
    assert main(["train", "--out", str(half), "--resume"]) == 0
    for file in sorted((whole / "checkpoints/checkpoint-00000008").glob("*.safetensors")):
        assert file.read_bytes() == (half / "checkpoints/checkpoint-00000008" / file.name).read_bytes(), file.name
