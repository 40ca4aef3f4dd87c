"""Bulk sampling: a run that was killed goes on, ranks share the images, files of another origin are left alone."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

from ddgan_fast.checkpoint.model import fingerprint
from ddgan_fast.cli import main
from ddgan_fast.distributed import rank_and_world
from ddgan_fast.errors import InputError
from ddgan_fast.sampling import writers

COUNT = 2000


@pytest.fixture(scope="module")
def model(make, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bulk") / "model"
    make().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def images(make):
    return make().compile()(num_images=COUNT, output_type="uint8").images


def start(*command, **environment):
    """A process on one thread."""
    return subprocess.Popen(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"} | environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )


def read(folder):
    """{seed: image} of a folder of PNGs."""
    return {int(path.stem): np.asarray(Image.open(path))[..., None] for path in folder.glob("*.png")}


@pytest.mark.parametrize("kind", ["png", "npz"])
def test_a_killed_run_of_2000_images_goes_on(model, images, tmp_path, monkeypatch, kind):
    out = tmp_path / ("pngs" if kind == "png" else "all.npz")
    parts, pattern, enough = (out, "[0-9]*.png", 300) if kind == "png" else (tmp_path / "all.npz.parts", "[0-9]*.npy", 4)
    command = ["sample", "--model", str(model), "--num-images", str(COUNT), "--format", kind, "--out", str(out), "--batch-size", "50"]
    process = start(sys.executable, "-m", "ddgan_fast.cli", *command)
    while len(list(parts.glob(pattern))) < enough and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {path: path.stat().st_mtime_ns for path in parts.glob(pattern)}
    assert enough <= len(before) and (kind == "npz" or len(before) < COUNT)
    (parts / ".tmp-1-00001999.png").touch()  # what the kill may leave
    joined = {}

    def spy(folder, *arguments, join=writers._join):
        joined.update({path: path.stat().st_mtime_ns for path in folder.glob(pattern)})
        join(folder, *arguments)

    monkeypatch.setattr(writers, "_join", spy)
    assert main(command) == 0
    if kind == "npz":
        loaded = np.load(out)
        assert np.array_equal(loaded["images"], images) and np.array_equal(loaded["seeds"], np.arange(COUNT))
        assert not parts.exists() and len(joined) == COUNT / 50 > len(before)
        assert all(joined[path] == mtime for path, mtime in before.items())  # none was drawn twice
        return
    assert all(path.stat().st_mtime_ns == mtime for path, mtime in before.items())
    assert sorted(path.name for path in out.iterdir()) == [*(f"{seed:08d}.png" for seed in range(COUNT)), writers.RECORD]
    assert all(np.array_equal(image, images[seed]) for seed, image in read(out).items())


@pytest.mark.parametrize("kind", ["png", "npz"])
def test_two_ranks_draw_what_one_draws(model, images, tmp_path, kind):
    out = tmp_path / ("pngs" if kind == "png" else "all.npz")
    command = ["--model", str(model), "--num-images", "130", "--format", kind, "--out", str(out), "--batch-size", "20"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    assert start(*torchrun, "-m", "ddgan_fast.cli", "sample", *command).wait() == 0
    if kind == "npz":
        assert np.array_equal(np.load(out)["images"], images[:130])
    else:
        assert len(drawn := read(out)) == 130 and all(np.array_equal(image, images[seed]) for seed, image in drawn.items())


def test_shares_of_ranks(monkeypatch):
    whole = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "3")
        whole += [seed for _, part in writers.share(range(101), 10) for seed in part]
    assert sorted(whole) == list(range(101))
    monkeypatch.setenv("RANK", "3")
    with pytest.raises(InputError, match="torchrun"):
        rank_and_world()


def test_files_of_another_origin_are_left_alone(model, tmp_path, capsys):
    command = ["sample", "--model", str(model), "--num-images", "2", "--out", str(tmp_path / "out")]
    assert main(command) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert main([*command, "--precision", "bf16"]) == 2
    assert "give another --out" in capsys.readouterr().err
    (tmp_path / "out" / writers.RECORD).unlink()
    assert main(command) == 2
    assert writers.RECORD in capsys.readouterr().err
    (tmp_path / "out" / writers.RECORD).write_text("half a rec")
    assert main(command) == 2
    assert {path: path.read_bytes() for path in (tmp_path / "out").glob("*.png")} == {p: b for p, b in before.items() if p.suffix == ".png"}


def test_a_whole_npz_is_kept_and_another_is_refused(model, tmp_path, capsys):
    out = tmp_path / "all.npz"
    command = ["sample", "--model", str(model), "--format", "npz", "--out", str(out)]
    assert main([*command, "--num-images", "3"]) == 0
    before = out.stat().st_mtime_ns
    (tmp_path / "all.npz.parts").mkdir()  # as a kill while the parts are removed leaves it
    (tmp_path / "all.npz.parts/000000000.npy").touch()
    assert main([*command, "--num-images", "3"]) == 0
    assert out.stat().st_mtime_ns == before and [path.name for path in tmp_path.iterdir()] == ["all.npz"]
    for other in (["--num-images", "4"], ["--num-images", "3", "--precision", "bf16"]):
        assert main([*command, *other]) == 2
    assert "give another --out" in capsys.readouterr().err
    out.write_text("mine")
    assert main([*command, "--num-images", "3"]) == 2
    assert out.read_text() == "mine"


def test_files_that_are_all_there_are_not_drawn(tmp_path):
    def draw(seeds, batch_size):
        assert seeds
        yield seeds, torch.zeros(len(seeds), 1, 2, 2)

    for kind, name in (("png", "pngs"), ("npz", "all.npz")):
        for _ in range(2):
            writers.write(draw, range(3), tmp_path / name, kind, (1, 2, 2), 3)
            (tmp_path / "pngs").mkdir(exist_ok=True)
            (tmp_path / "pngs/.tmp-foo").touch()


def test_the_record_names_the_model(make, model, tmp_path):
    assert main(["sample", "--model", str(model), "--num-images", "1", "--out", str(tmp_path / "out")]) == 0
    pipe = make()
    assert json.loads((tmp_path / "out" / writers.RECORD).read_text())["model"] == fingerprint(pipe.generator, pipe.config)
    with torch.no_grad():
        pipe.generator.conv_out.bias.add_(1e-3)
    assert fingerprint(pipe.generator, pipe.config) != fingerprint(make().generator, pipe.config)


@pytest.mark.parametrize("sizes", [[3, 1, 4, 2], [10], [1] * 10])
def test_parts_are_whole_where_batches_shrink(tmp_path, sizes):
    """Memory that runs out makes batches smaller than parts."""

    def draw(seeds, batch_size):
        at = 0
        for size in sizes:
            yield seeds[at : at + size], torch.tensor(seeds[at : at + size])[:, None, None, None].expand(-1, 1, 2, 2) / 127.5 - 1
            at += size

    writers.write(draw, range(10), tmp_path / "all.npz", "npz", (1, 2, 2), 4)
    assert np.load(tmp_path / "all.npz")["images"][:, 0, 0, 0].tolist() == list(range(10))
