"""A training run: steps, metrics.jsonl, sample grids, checkpoints, and an orderly end on a signal."""

import json
import signal
import time
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from ddgan_fast.checkpoint.folder import prune
from ddgan_fast.errors import DataError, ResourceError, StoppedError
from ddgan_fast.pictures import picture_of, whole_file, write_png
from ddgan_fast.training.trainer import Trainer


@contextmanager
def stop_signals():
    """Yields a list to which SIGINT or SIGTERM appends its number, so that the loop can save and stop; a second SIGINT interrupts."""
    received = []

    def handle(number, _):
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def train(state, loader, out):
    """Train `state` up to its config's `iterations` on the loader's batches; write metrics, samples and checkpoints under `out`.

    loader: has `batches(start)` (an endless iterator of [B, ...] from step `start` on) and `steps_per_epoch`.
    Raises StoppedError after SIGINT or SIGTERM and DataError for a bad image, both once a checkpoint is saved;
    NonFiniteError for a NaN (nothing is saved); ResourceError when the disk is full.
    """
    settings, run = state.config.train, Run(state, loader.steps_per_epoch, Path(out))
    batches = loader.batches(state.step)
    with run, stop_signals() as stopped:
        try:
            while state.step < settings.iterations and not stopped:
                run.step(next(batches))
            run.finish(picture=not stopped)
        except DataError:
            run.save()
            raise
        except OSError as error:
            raise ResourceError(f"{out}: cannot be written: {error}; free some space and continue with --resume") from error
    if stopped:
        raise StoppedError(f"stopped by {signal.Signals(stopped[0]).name} at step {state.step}; saved, continue with --resume", stopped[0])


class Run:
    """A Trainer with its progress bar, metrics.jsonl, sample grids and checkpoints."""

    def __init__(self, state, steps_per_epoch, out):
        self.state, self.out, self.settings = state, out, state.config.train
        self.trainer = Trainer(state, steps_per_epoch)
        self.saved = state.step
        self.logged, self.since = state.step, time.perf_counter()

    def __enter__(self):
        batch = self.settings.batch_size
        self.metrics = _open_metrics(self.out / "metrics.jsonl", self.state.step)
        self.bar = tqdm(
            total=self.settings.iterations * batch, initial=self.state.step * batch, unit="img", unit_scale=True, mininterval=2.0
        )
        return self

    def __exit__(self, *_):
        self._show(lambda bar: bar.close())
        self.metrics.close()

    def _show(self, change):
        """Change the progress bar; where nobody reads it any more (a closed pipe), training goes on without."""
        try:
            change(self.bar)
        except OSError:
            self.bar.disable = True

    def step(self, images):
        """One training step, and what its number asks for."""
        rates = self.trainer.rates()
        self.trainer.step(images)
        self._show(lambda bar: bar.update(self.settings.batch_size))
        step = self.state.step
        if step % self.settings.log_every == 0:
            self.log(rates)
        if step % self.settings.sample_every == 0:
            self.sample()
        if step % self.settings.checkpoint_every == 0:
            self.save()

    def finish(self, picture=True):
        """The last checkpoint, line and picture, unless the last step wrote them."""
        self.save()
        if self.logged < self.state.step:
            self.log(self.trainer.rates())
        if picture and self.state.step % self.settings.sample_every:
            self.sample()

    def log(self, rates):
        """Append a line to metrics.jsonl."""
        step, batch, now = self.state.step, self.settings.batch_size, time.perf_counter()
        speed = (step - self.logged) * batch / (now - self.since)
        means = self.trainer.metrics()
        line = {"step": step, "images_seen": step * batch, **means, "lr_g": rates[0], "lr_d": rates[1], "images_per_s": speed}
        self.metrics.write(json.dumps(line) + "\n")
        self.metrics.flush()
        self._show(lambda bar: bar.set_postfix(D=f"{means['d_loss']:.3f}", G=f"{means['g_loss']:.3f}", refresh=False))
        self.logged, self.since = step, now

    def sample(self):
        """Write the preview picture of this step."""
        folder = self.out / "samples"
        folder.mkdir(exist_ok=True)
        write_png(folder / f"step-{self.state.step:08d}.png", picture_of(self.trainer.preview()))

    def save(self):
        """Write a checkpoint of this step, if there is none, and prune older ones."""
        if self.saved < self.state.step:
            self.state.save(self.out / "checkpoints")
            prune(self.out / "checkpoints", self.settings.keep)
            self.saved = self.state.step


def _open_metrics(path, step):
    """metrics.jsonl, open for appending, cut off behind `step`: a run that was killed may have written further than it saved."""
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            if json.loads(line)["step"] > step:
                break
        except (ValueError, TypeError, KeyError):  # the line that a power cut left half written
            break
        kept.append(line + "\n")
    with whole_file(path) as temporary:
        temporary.write_text("".join(kept), encoding="utf-8")
    return open(path, "a", encoding="utf-8")
