"""A training run: steps, records, sample grids, checkpoints, and an orderly end on a signal."""

import logging
import signal
import time
from contextlib import contextmanager
from pathlib import Path

import torch
from tqdm import tqdm

from ddgan_fast.checkpoint.folder import prune, verify, write_json
from ddgan_fast.distributed import sum_over_ranks
from ddgan_fast.errors import CheckpointError, DataError, NonFiniteError, ResourceError, StoppedError
from ddgan_fast.pictures import picture_of, write_png
from ddgan_fast.training.records import Records, peak_memory_mb
from ddgan_fast.training.trainer import Trainer

log = logging.getLogger(__name__)
SAVE_TRIES = 3  # intervals without a checkpoint after which a run ends
COLLAPSE = 1e-3, 20.0, 2000  # a D loss below or above, for so many steps, is reported
LEAST_SCALE = 1.0  # of fp16: where halving it has come this far, it is no overflow any more


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
    """Train `state` up to its config's `iterations` on the loader's batches; the first rank writes what a run has under `out`.

    loader: has `batches(start)` (an endless iterator of this rank's share [B, ...] from step `start` on), `steps_per_epoch`, and
    `indices(step)`, the items of a step.
    Raises StoppedError after SIGINT or SIGTERM and, on the first rank, DataError for a bad image, both once a checkpoint is saved;
    NonFiniteError for a NaN (which has not reached the weights); ResourceError when checkpoints cannot be written, or memory runs out.
    """
    settings, run = state.config.train, Run(state, loader, Path(out))
    with run, stop_signals() as stopped:
        try:
            stopping = False
            while state.step < settings.iterations and not stopping:
                stopping = run.step(stop=bool(stopped))
            run.finish(picture=not stopping)
        except DataError:
            run.save(last=True)
            raise
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
                raise ResourceError(_out_of_memory(error, run)) from error
            if "DataLoader worker" in str(error):  # raised by a signal, maybe within a step: what it left is not saved
                text = f"{str(error).splitlines()[0]} Continue from the last checkpoint with --resume and fewer --workers"
                raise ResourceError(f"step {state.step}: {text}, or with more memory (a container: more --shm-size)") from error
            raise
    if stopping and state.step < settings.iterations:
        number = stopped[0] if stopped else signal.SIGTERM
        raise StoppedError(f"stopped by {signal.Signals(number).name} at step {state.step}; saved, continue with --resume", number)


def _out_of_memory(error, run):
    device, train = run.trainer.device, run.settings
    return (
        f"step {run.state.step}: out of memory on {device} at a peak of {peak_memory_mb(device):,.0f} MB ({str(error).splitlines()[0]}). "
        f"Continue or begin anew with --accumulate {2 * train.accumulate}, --precision bf16 or --checkpoint-activations "
        "(--resume takes the first two with --allow-inexact)"
    )


class Run:
    """A Trainer with its batches, progress bar, records, sample grids and checkpoints."""

    def __init__(self, state, loader, out):
        self.state, self.loader, self.out, self.settings = state, loader, out, state.config.train
        self.trainer = Trainer(state, loader.steps_per_epoch)
        self.leads = self.trainer.rank == 0
        self.batches = loader.batches(state.step)
        self.saved, self.failed_saves = state.step, 0
        self.logged, self.since, self.waited = state.step, time.perf_counter(), 0.0
        self.sound, self.warned = state.step, False  # the last step whose D loss was not that of a collapse
        _require_one_step(state, self.trainer)

    def __enter__(self):
        batch, parts = self.settings.batch_size, self.trainer.parts
        if parts > 1:
            log.info(
                "%d ranks, each with %d of %d images in %d part(s); minibatch stddev looks at groups within a part, as the paper's code",
                self.trainer.world, batch // self.trainer.world, batch, self.settings.accumulate,
            )  # fmt: skip
        if self.leads:
            try:
                self.records = Records(self.out, self.state.step)
            except OSError as error:
                raise ResourceError(f"{self.out}: cannot be written: {error}") from error
        total, done = self.settings.iterations * batch, self.state.step * batch
        self.bar = tqdm(total=total, initial=done, unit="img", unit_scale=True, mininterval=2.0, disable=not self.leads)
        return self

    def __exit__(self, *_):
        self._show(lambda bar: bar.close())
        if self.leads:
            self.records.close()

    def _show(self, change):
        """Change the progress bar; where nobody reads it any more (a closed pipe), training goes on without."""
        try:
            change(self.bar)
        except OSError:
            self.bar.disable = True

    def step(self, stop=False):
        """One training step, and what its number asks for. stop: a signal has come; returns whether all ranks end the run now."""
        began = time.perf_counter()
        images = next(self.batches)
        self.waited += time.perf_counter() - began
        rates = self.trainer.rates()
        stopping = self.trainer.step(images, stop)
        self._show(lambda bar: bar.update(self.settings.batch_size))
        step = self.state.step
        if step % self.settings.log_every == 0:
            self.log(rates)
        if step % self.settings.sample_every == 0:
            self.sample()
        if step % self.settings.checkpoint_every == 0:
            self.save()
        return stopping

    def finish(self, picture=True):
        """The last checkpoint, line and picture, unless the last step wrote them."""
        if self.logged < self.state.step:
            self.log(self.trainer.rates())
        self.save(last=True)
        if picture and self.state.step % self.settings.sample_every:
            self.sample()

    def log(self, rates):
        """Append a line to the records; raises NonFiniteError for a step that was not finite, unless the config goes on after one."""
        step, batch, now = self.state.step, self.settings.batch_size, time.perf_counter()
        steps, seconds = step - self.logged, now - self.since
        means = self.trainer.metrics()
        self._check(means, means.pop("bad_step"))
        line = {"step": step, "images_seen": step * batch, **means, "lr_g": rates[0], "lr_d": rates[1]}
        line |= {
            "images_per_s": steps * batch / seconds,
            "data_wait_percent": 100 * self.waited / seconds,
            "peak_memory_mb": peak_memory_mb(self.trainer.device),
        }
        if self.leads:
            self.records.add(line)
        losses = {"D": means["d_loss"], "G": means["g_loss"]}
        self._show(lambda bar: bar.set_postfix({name: loss for name, loss in losses.items() if loss is not None}, refresh=False))
        self.logged, self.since, self.waited = step, now, 0.0

    def _check(self, means, bad_step):
        low, high, patience = COLLAPSE
        if means["d_loss"] is None or low <= means["d_loss"] <= high:
            self.sound, self.warned = self.state.step, False
        elif self.state.step - self.sound >= patience and not self.warned:
            self.warned = True
            problem = "D tells all fakes, and G learns nothing" if means["d_loss"] < low else "D is lost"
            log.warning("step %d: D loss %.2g for %d steps: %s; a larger --r1-gamma or smaller --lr-d may help", self.state.step,
                        means["d_loss"], self.state.step - self.sound, problem)  # fmt: skip
        if bad_step is None or min(means.get("d_loss_scale", 0.0), means.get("g_loss_scale", 0.0)) >= LEAST_SCALE:
            return
        dump = self.out / f"bad-step-{bad_step:08d}.json"
        if self.leads:
            content = {"step": bad_step, "seed": self.settings.seed, "items": self.loader.indices(bad_step), "of": self.settings.data}
            self.records.attempt(dump.name, lambda: write_json(dump, content))
        text = f"step {bad_step}: a loss or gradient is NaN or infinite ({means['skipped']} of the last updates); the weights are as before"
        if self.settings.on_nan == "skip":
            log.warning("%s, %s names its images, and training goes on", text, dump)
            return
        raise NonFiniteError(
            f"{text}, {dump} names its images. The last checkpoint is untouched; go on from it with --on-nan skip, or begin a new run with "
            "a lower --lr-g or --lr-d, or a larger --r1-gamma"
        )

    def sample(self):
        """Write the preview picture of this step."""
        if self.leads:
            self.records.attempt("samples", self._write_picture)

    def _write_picture(self):
        folder = self.out / "samples"
        folder.mkdir(exist_ok=True)
        write_png(folder / f"step-{self.state.step:08d}.png", picture_of(self.trainer.preview()))

    def save(self, last=False):
        """Write a checkpoint of this step, if there is none, and prune older ones behind it.

        A save that fails is tried again at the next one; raises ResourceError the third time, and where this is the last.
        """
        if not self.leads or self.saved == self.state.step:
            return
        try:
            saved = self.state.save(self.out / "checkpoints")
            verify(saved)
            prune(saved, self.settings.keep)
        except (ResourceError, CheckpointError, OSError) as error:
            self.failed_saves += 1
            if last or self.failed_saves == SAVE_TRIES:
                kept = f"step {self.saved} is the last one saved" if self.saved else "none was saved"
                raise ResourceError(f"{error}; {kept}: free some space and continue with --resume") from error
            log.warning("step %d: NOT SAVED: %s. Training goes on, and saves again after %d steps (%d of %d tries failed)", self.state.step,
                        error, self.settings.checkpoint_every, self.failed_saves, SAVE_TRIES)  # fmt: skip
        else:
            self.saved, self.failed_saves = self.state.step, 0


def _require_one_step(state, trainer):
    """Raises CheckpointError where ranks stand at different steps: they read different folders."""
    steps = torch.tensor(state.step, device=trainer.device)
    sum_over_ranks(steps)
    if int(steps) != state.step * trainer.world:
        raise CheckpointError(f"rank {trainer.rank} stands at step {state.step}, others do not; all ranks must see the same --out folder")
