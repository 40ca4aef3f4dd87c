"""The training loop (paper Algorithm of C.2; behaviour of the released code): a D step, a G step, averaged weights."""

import json
import math
import signal
import time
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from tqdm import tqdm

from ddgan_fast import noise
from ddgan_fast.checkpoint.folder import prune
from ddgan_fast.diffusion import Schedule, denoise, draw_noise
from ddgan_fast.errors import DataError, NonFiniteError, StoppedError
from ddgan_fast.pictures import picture_of, whole_file, write_png
from ddgan_fast.training.losses import Draws, d_loss, g_loss

D_HALF, G_HALF = 16, 24  # first noise stream of each half of a step; sampling uses streams 0 to 2
PREVIEW_IMAGES, PREVIEW_POINTS = 64, 10_000


def draw(model, steps, half, step, seeds):
    """The random numbers of one half of training step `step`, a function of (seed, step, position in the global batch).

    seeds: [B] int64, see `position_seeds`; half: D_HALF or G_HALF.  Returns losses.Draws on the seeds' device.
    """
    t = noise.words(seeds, half, step, 1)[:, 0] * steps >> 32
    noise_tp1, noise_t, posterior = (noise.normal(seeds, half + i, step, model.sample_shape) for i in (1, 2, 4))
    z = noise.normal(seeds, half + 3, step, (model.latent_dim,)) if model.latent else None
    return Draws(t, noise_tp1, noise_t, z, posterior)


def position_seeds(seed, batch, device):
    """One Philox key per position of the global batch: the training seed in its low half, the position in its high half."""
    return (torch.arange(batch, device=device) << 32) + seed


def learning_rate(base, floor, epoch, epochs):
    """Cosine decay from `base` in epoch 0 to `floor` in the last of `epochs`, constant within an epoch (Loshchilov & Hutter 2016)."""
    progress = epoch / (epochs - 1) if epochs > 1 else 0.0
    return floor + (base - floor) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2


class Trainer:
    """One training step after the other on a TrainState."""

    def __init__(self, state, steps_per_epoch):
        """steps_per_epoch: training steps in which the data are seen once; the learning rate changes as often."""
        self.state = state
        self.steps_per_epoch = steps_per_epoch
        self.device = next(state.generator.parameters()).device
        self.schedule = Schedule.of(state.config.diffusion).to(self.device)
        self.reset_sums()

    def reset_sums(self):
        """Start the means of the metrics anew."""
        steps = self.schedule.steps
        self.sums = {name: torch.zeros((), device=self.device) for name in ("d_loss", "g_loss", "r1")}
        self.counts = {"steps": 0, "r1": 0}
        self.loss_t = torch.zeros(steps, device=self.device)
        self.count_t = torch.zeros(steps, device=self.device)

    def rates(self):
        """(lr_g, lr_d) of the coming step."""
        train = self.state.config.train
        if not train.lr_decay:
            return train.lr_g, train.lr_d
        epoch, epochs = self.state.step // self.steps_per_epoch, -(-train.iterations // self.steps_per_epoch)
        return tuple(learning_rate(base, train.lr_min, epoch, epochs) for base in (train.lr_g, train.lr_d))

    def step(self, images):
        """One iteration on images [B, ...] in [-1, 1]: D step (R1 every r1_every steps), G step on the same images, EMA."""
        state, train = self.state, self.state.config.train
        model, steps = state.config.model, self.schedule.steps
        torch.manual_seed(train.seed + state.step)  # dropout alone reads the global generator; so a resumed run repeats it
        seeds = position_seeds(train.seed, len(images), self.device)
        for optimiser, rate in zip((state.optim_g, state.optim_d), self.rates(), strict=True):
            optimiser.param_groups[0]["lr"] = rate

        state.discriminator.requires_grad_(True)
        gamma = train.r1_gamma if state.step % train.r1_every == 0 else 0.0
        draws = draw(model, steps, D_HALF, state.step, seeds)
        d = d_loss(state.generator, state.discriminator, self.schedule, images, draws, gamma)
        state.optim_d.zero_grad()
        d.total.backward()
        state.optim_d.step()

        state.discriminator.requires_grad_(False)
        g = g_loss(state.generator, state.discriminator, self.schedule, images, draw(model, steps, G_HALF, state.step, seeds))
        state.optim_g.zero_grad()
        g.total.backward()
        state.optim_g.step()
        state.ema.update_parameters(state.generator)
        state.step += 1
        self._add(d, g, draws.t)

    def _add(self, d, g, t):
        self.sums["d_loss"] += (d.real + d.fake).detach()
        self.sums["g_loss"] += g.total.detach()
        self.counts["steps"] += 1
        if d.r1 is not None:
            self.sums["r1"] += d.r1.detach()
            self.counts["r1"] += 1
        self.loss_t.index_add_(0, t, (F.softplus(-d.real_logits) + F.softplus(d.fake_logits)).float())
        self.count_t.index_add_(0, t, torch.ones_like(t, dtype=torch.float32))

    def metrics(self):
        """Means since the last call, as plain numbers. d_loss is without R1; d_loss_t is it for each t (paper Fig. 10).

        Raises NonFiniteError where a loss is NaN or infinite.
        """
        n, n_r1 = self.counts["steps"], self.counts["r1"]
        d, g, r1 = (self.sums[name].item() for name in ("d_loss", "g_loss", "r1"))
        loss_t = [total / count if count else None for total, count in zip(self.loss_t.tolist(), self.count_t.tolist(), strict=True)]
        self.reset_sums()
        if not all(map(math.isfinite, (d, g, r1))):
            raise NonFiniteError(
                f"step {self.state.step}: a loss is NaN or infinite (D {d / n}, G {g / n}, R1 {r1 / max(n_r1, 1)}). The last checkpoint is "
                "untouched; resume from it with a lower --lr-g or --lr-d, or a larger --r1-gamma"
            )
        return {"d_loss": d / n, "d_loss_t": loss_t, "g_loss": g / n, "r1": r1 / n_r1 if n_r1 else None}

    @torch.no_grad()
    def preview(self):
        """Samples of the averaged generator for seeds 0, 1, ...: [N, C, H, W] or [N, 2]."""
        model = self.state.config.model
        count = PREVIEW_IMAGES if model.network == "unet" else PREVIEW_POINTS
        noises = draw_noise(torch.arange(count, device=self.device), model, self.schedule.steps)
        generator = self.state.ema.module.eval()
        return denoise(generator, self.schedule, *noises)


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
        except DataError:
            run.save()
            raise
        run.finish()
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
        self.bar.close()
        self.metrics.close()

    def step(self, images):
        """One training step, and what its number asks for."""
        rates = self.trainer.rates()
        self.trainer.step(images)
        self.bar.update(self.settings.batch_size)
        step = self.state.step
        if step % self.settings.log_every == 0:
            self.log(rates)
        if step % self.settings.sample_every == 0:
            self.sample()
        if step % self.settings.checkpoint_every == 0:
            self.save()

    def finish(self):
        """The last line, picture and checkpoint, unless the last step wrote them."""
        if self.logged < self.state.step:
            self.log(self.trainer.rates())
        self.sample()
        self.save()

    def log(self, rates):
        """Append a line to metrics.jsonl."""
        step, batch, now = self.state.step, self.settings.batch_size, time.perf_counter()
        speed = (step - self.logged) * batch / (now - self.since)
        means = self.trainer.metrics()
        line = {"step": step, "images_seen": step * batch, **means, "lr_g": rates[0], "lr_d": rates[1], "images_per_s": speed}
        self.metrics.write(json.dumps(line) + "\n")
        self.metrics.flush()
        self.bar.set_postfix(D=f"{means['d_loss']:.3f}", G=f"{means['g_loss']:.3f}")
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
    """metrics.jsonl, open for appending, without the lines of steps after `step` (of a run that was cut off behind its checkpoint)."""
    kept = [line for line in path.read_text().splitlines() if json.loads(line)["step"] <= step] if path.exists() else []
    with whole_file(path) as temporary:
        temporary.write_text("".join(line + "\n" for line in kept))
    return open(path, "a", encoding="utf-8")
