"""What a run does when something goes wrong: NaN, a full disk, a collapsed discriminator, no memory, changed settings."""

import errno
import json
import os
import signal
import sys
import types

import pytest
import torch

from ddgan_fast.checkpoint.folder import newest_checkpoint
from ddgan_fast.cli import main
from ddgan_fast.config import override, preset
from ddgan_fast.data import open_loader
from ddgan_fast.errors import InputError, MissingError, NonFiniteError, ResourceError
from ddgan_fast.training import loop, records
from ddgan_fast.training.run import locked, open_run
from ddgan_fast.training.state import TrainState
from ddgan_fast.training.trainer import Trainer


def config(**changes):
    return override(preset("tiny"), changes)


def run(settings, out, **options):
    state = open_run(out, settings, {}, **options)
    loop.train(state, open_loader(settings, "cpu"), out)
    return state


def poison(monkeypatch, step):
    """The images of one step become NaN on their way to the networks."""
    whole = Trainer.step

    def poisoned(self, images, stop=False):
        return whole(self, images * float("nan") if self.state.step == step else images, stop)

    monkeypatch.setattr(Trainer, "step", poisoned)


def test_a_nan_ends_the_run_before_it_reaches_weights_and_names_its_images(tmp_path, monkeypatch):
    poison(monkeypatch, 5)
    settings = config()
    state = open_run(tmp_path, settings, {})
    with pytest.raises(NonFiniteError, match="step 5: .*bad-step-00000005.json names its images.*--on-nan skip"):
        loop.train(state, open_loader(settings, "cpu"), tmp_path)
    assert all(p.isfinite().all() for p in (*state.generator.parameters(), *state.discriminator.parameters()))
    assert newest_checkpoint(tmp_path / "checkpoints").name == "checkpoint-00000004"
    dump = json.loads((tmp_path / "bad-step-00000005.json").read_text())
    dataset = open_loader(settings, "cpu").dataset
    shown = dataset.__getitems__(dump["items"]).float() / 127.5 - 1
    assert dump["step"] == 5 and torch.equal(shown, next(open_loader(settings, "cpu").batches(5)))


def test_a_nan_is_skipped_where_that_is_asked_for(tmp_path, monkeypatch, caplog):
    poison(monkeypatch, 5)
    state = run(config(on_nan="skip"), tmp_path)
    assert state.step == 8 and caplog.text.count("training goes on") == 1
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["skipped"] for line in lines] == [0, 0, 2, 0]
    assert all(line["d_loss"] == pytest.approx(1.386, abs=0.01) for line in lines)


def test_fp16_that_overflows_for_ever_is_no_overflow(tmp_path, monkeypatch):
    settings = config(precision="fp16", log_every=1, iterations=200, checkpoint_every=1000)
    state = open_run(tmp_path, settings, {})
    state.generator.conv_in.weight.data[0, 0, 0, 0] = float("inf")
    with pytest.raises(NonFiniteError, match="NaN or infinite"):
        loop.train(state, open_loader(settings, "cpu"), tmp_path)
    assert 16 < state.step < 24


def failing_saves(monkeypatch, fails, call="fsync", number=errno.ENOSPC):
    """A call of `os` raises while `fails()`: fsync as on a full disk, rename as on some network disks, mkdir as on a read-only one."""
    whole = getattr(os, call)

    def failing(*arguments, **options):
        if fails():
            raise OSError(number, os.strerror(number))
        return whole(*arguments, **options)

    monkeypatch.setattr(os, call, failing)


@pytest.mark.parametrize("call, number", [("fsync", errno.ENOSPC), ("fsync", errno.EDQUOT), ("rename", errno.EIO), ("mkdir", errno.EROFS)])
def test_a_save_that_fails_is_tried_again_and_nothing_is_pruned_before(tmp_path, monkeypatch, caplog, call, number):
    settings = config(checkpoint_every=1, keep=1, iterations=6)
    state = open_run(tmp_path, settings, {})
    failing_saves(monkeypatch, lambda: state.step in (3, 4), call, number)
    seen = []
    save = loop.Run.save

    def watched(self, last=False):
        save(self, last)
        seen.append([path.name[-1] for path in sorted((tmp_path / "checkpoints").iterdir())])

    monkeypatch.setattr(loop.Run, "save", watched)
    loop.train(state, open_loader(settings, "cpu"), tmp_path)
    assert seen == [["1"], ["2"], ["2"], ["2"], ["5"], ["6"], ["6"]]
    assert caplog.text.count("NOT SAVED") == 2 and "(2 of 3 tries failed)" in caplog.text


def test_after_a_fall_back_the_checkpoint_just_saved_is_kept(tmp_path):
    settings = config(checkpoint_every=2, keep=2, iterations=4)
    loop.train(open_run(tmp_path, settings, {}), open_loader(settings, "cpu"), tmp_path)
    (tmp_path / "checkpoints/checkpoint-00000004/ema.safetensors").write_bytes(b"bad sector")
    settings = override(settings, {"iterations": 3, "keep": 1})
    loop.train(open_run(tmp_path, settings, {}, resume=True), open_loader(settings, "cpu"), tmp_path)
    assert newest_checkpoint(tmp_path / "checkpoints").name == "checkpoint-00000003"
    assert not (tmp_path / "checkpoints/checkpoint-00000002").exists()


def test_a_killed_process_of_the_loader_ends_the_run_with_the_way_out(tmp_path, monkeypatch):
    def killed(run, stop=False):
        raise RuntimeError("DataLoader worker (pid 12) is killed by signal: Bus error. It is possible that ...")

    monkeypatch.setattr(loop.Run, "step", killed)
    with pytest.raises(ResourceError, match=r"step 0: DataLoader worker \(pid 12\) is killed.*--resume and fewer --workers.*--shm-size"):
        loop.train(open_run(tmp_path, config(), {}), open_loader(config(), "cpu"), tmp_path)


def test_what_a_resumed_run_changes_is_told(tmp_path, caplog):
    settings = config(iterations=2)
    loop.train(open_run(tmp_path, settings, {}), open_loader(settings, "cpu"), tmp_path)
    open_run(tmp_path, override(settings, {"iterations": 4, "log_every": 9}), {}, resume=True)
    assert "checkpoint-00000002 goes on with iterations: 2 -> 4\n" in caplog.text


def test_a_disk_that_becomes_read_only_hides_no_error(tmp_path, monkeypatch):
    def read_only(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with pytest.raises(ResourceError, match="none was saved"), locked(tmp_path / "run"):
        monkeypatch.setattr("pathlib.Path.unlink", read_only)
        raise ResourceError("none was saved")


def test_three_saves_that_fail_end_the_run(tmp_path, monkeypatch):
    settings = config(checkpoint_every=1, iterations=50)
    state = open_run(tmp_path, settings, {})
    failing_saves(monkeypatch, lambda: state.step >= 3)
    with pytest.raises(ResourceError, match="No space left on device.*step 2 is the last one saved"):
        loop.train(state, open_loader(settings, "cpu"), tmp_path)
    assert state.step == 5 and newest_checkpoint(tmp_path / "checkpoints").name == "checkpoint-00000002"


def test_a_checkpoint_that_reads_back_wrong_counts_as_not_saved(tmp_path, monkeypatch, caplog):
    settings = config(checkpoint_every=4, keep=1)
    state = open_run(tmp_path, settings, {})
    save = TrainState.save

    def damaged(self, root):
        path = save(self, root)
        if self.step == 4:
            (path / "ema.safetensors").write_bytes(b"bad sector")
        return path

    monkeypatch.setattr(TrainState, "save", damaged)
    loop.train(state, open_loader(settings, "cpu"), tmp_path)
    assert "NOT SAVED" in caplog.text and "SHA-256" in caplog.text
    assert newest_checkpoint(tmp_path / "checkpoints").name == "checkpoint-00000008"


@pytest.mark.parametrize("loss, words", [(1e-4, "G learns nothing"), (30.0, "D is lost")])
def test_a_collapsed_discriminator_is_reported_once(tmp_path, monkeypatch, caplog, loss, words):
    monkeypatch.setattr(loop, "COLLAPSE", (1e-3, 20.0, 4))
    found = Trainer.metrics
    monkeypatch.setattr(Trainer, "metrics", lambda self: found(self) | {"d_loss": loss})
    assert run(config(), tmp_path).step == 8
    assert caplog.text.count(words) == 1


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_out_of_memory_says_how_much_and_what_helps(tmp_path, monkeypatch, error):
    def full(self, images, stop=False):
        raise error

    monkeypatch.setattr(Trainer, "step", full)
    with pytest.raises(ResourceError, match="peak of [0-9,]+ MB.*--accumulate 4, --precision bf16 or --checkpoint-activations"):
        run(config(accumulate=2), tmp_path)


def test_changed_settings_are_named_and_taken_only_where_that_is_asked_for(tmp_path, caplog):
    run(config(), tmp_path)
    changed = config(precision="bf16", lr_g=1e-3, iterations=10)
    with pytest.raises(InputError, match="precision: fp32 -> bf16; lr_g: 0.00016 -> 0.001.*--allow-inexact"):
        open_run(tmp_path, changed, {}, resume=True)
    assert run(changed, tmp_path, resume=True, allow_inexact=True).step == 10
    assert "precision: fp32 -> bf16" in caplog.text
    with pytest.raises(InputError, match="another model: channels: 8 -> 16"):
        open_run(tmp_path, config(channels=16), {}, resume=True, allow_inexact=True)


def test_tensorboard_is_written_where_it_is_installed_and_missed_by_nobody(tmp_path, monkeypatch, caplog):
    written = []

    class Writer:
        def __init__(self, path, purge_step):
            self.flush = self.close = lambda: None
            assert purge_step == 1

        def add_scalar(self, tag, value, step):
            written.append((tag, step))
            if step > 4:
                raise ConnectionError("tracker is down")

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=Writer))
    monkeypatch.setattr(records.importlib.util, "find_spec", lambda name: name == "tensorboard")
    assert run(config(), tmp_path).step == 8
    assert {("d_loss", 2), ("d_loss_t/3", 4), ("images_per_s", 2), ("g_gradient_norm", 4)} <= set(written)
    assert not any(tag == "step" for tag, _ in written)
    assert caplog.text.count("tensorboard cannot be written") == 1


def test_a_dry_run_writes_nothing_and_says_what_to_expect(tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", "--preset", "tiny", "--out", str(out), "--dry-run"]) == 0
    text = capsys.readouterr().out
    for part in ("batch_size: 8", "52,913 of G", "activations kept", "iterations: 8 of 8", "img/s", "mean of 20"):
        assert part in text, part
    assert not out.exists()


def test_a_second_interrupt_ends_at_once():
    with loop.stop_signals() as received:
        os.kill(os.getpid(), signal.SIGINT)
        assert received == [signal.SIGINT]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("change, error", [({"accumulate": 3}, InputError), ({"engine": "graph"}, MissingError)], ids=str)
def test_settings_that_cannot_run_leave_no_folder(tmp_path, change, error):
    with pytest.raises(error):
        open_run(tmp_path / "run", config(**change), {})
    assert not (tmp_path / "run").exists()
