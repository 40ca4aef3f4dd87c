"""Paper Fig. 6: how samplers cover the 25 Gaussians: a vanilla GAN, WGAN-GP, DDPM at 100 and 500 steps, and DDGAN.

All have the networks, the batch size and the iterations of C.5, and the points of the preset gaussians25. The rates of the baselines
are in point_baselines; that of DDGAN falls by cosine, as in its other trainings. `run` writes figure6.csv, a row for each, and
figure6.png, where they lie.
"""

import dataclasses
import logging
import time
from pathlib import Path
from typing import NamedTuple

import torch

from ddgan_fast.checkpoint.folder import newest_checkpoint, read_json
from ddgan_fast.config import override, preset
from ddgan_fast.data import open_loader
from ddgan_fast.data.toy import SCALE, SIGMA, modes25
from ddgan_fast.environment import device_name
from ddgan_fast.errors import InputError
from ddgan_fast.evaluation.points import score
from ddgan_fast.experiments import point_baselines
from ddgan_fast.experiments.panels import new_figure, save_figure
from ddgan_fast.experiments.point_baselines import DDPM, GAN, Training, WassersteinGAN
from ddgan_fast.experiments.runs import check_run, finish
from ddgan_fast.experiments.score import DECIMALS, POINTS, write_rows
from ddgan_fast.pictures import density
from ddgan_fast.pipeline import DDGANPipeline
from ddgan_fast.training.run import locked

log = logging.getLogger(__name__)
BASELINES = {"GAN": (GAN, 1), "WGAN-GP": (WassersteinGAN, 1), "DDPM-100": (DDPM, 100), "DDPM-500": (DDPM, 500)}  # method: (kind, NFE)
OURS = {"T=4": 4, "T=1": 1}  # method: steps of DDGAN
METHODS = *BASELINES, *OURS
TITLES = {
    "data": "data", "GAN": "vanilla GAN", "WGAN-GP": "WGAN-GP", "DDPM-100": "DDPM, 100 steps", "DDPM-500": "DDPM, 500 steps",
    "T=4": "DDGAN, T = 4", "T=1": "DDGAN, T = 1",
}  # fmt: skip
SAMPLING = 2**32  # added to the seed for samples of the baselines: seeds of training are below
PANEL_INCHES = 2.4, 2.95


class Drawn(NamedTuple):
    """Points [N, 2] of a method, and what it took.

    seed: of the training.  seconds: of drawing the points.  training: None where that was not measured here.
    """

    points: torch.Tensor
    seed: int
    seconds: float | None = None
    nfe: int | None = None
    iterations: int | None = None
    batch_size: int | None = None
    training: Training | None = None
    setting: str = ""


def run(out, iterations=50_000, batch_size=512, methods=METHODS, device="cpu", seed=0, ours=None, points=POINTS):
    """Train what is not given, write <out>/figure6.csv and .png, and return the rows: those of the data and of the methods, in order.

    out: folder, in which all trainings are kept, those of DDGAN as runs; they go on where they were stopped.
    iterations: steps of the generator; a baseline that has more of an earlier call keeps them, and its row says so.
    methods: some of METHODS.  seed: of data, weights and noise, 0 to 2^32 - 1.
    ours: {"T=4": a model folder or run, ...} of trained models, whose rows have their own iterations and batch size.
    points: drawn from each method.
    Raises InputError, before anything is trained, for other names, wrong settings and a training in `out` of other settings; MissingError
    without matplotlib, and what training raises.
    """
    out, device, ours = Path(out), torch.device(device), ours or {}
    _check(methods, ours, points)
    given = {name: _given(name, folder, device) for name, folder in ours.items()}
    configs = _configs(out, methods, ours, {"iterations": iterations, "batch_size": batch_size, "seed": seed})
    with locked(out):
        return _compare(out, configs, methods, given, device, points)


def _compare(out, configs, methods, given, device, points):
    """The rows of `run`."""
    config = configs["T=4"]
    kinds = {BASELINES[name][0] for name in methods if name in BASELINES}
    kept = {kind: point_baselines.read(_file(out, kind), _facts(kind, config, device)) for kind in kinds}
    loader = open_loader(config, device)
    found, trained = {"data": Drawn(loader.dataset.items[:points].cpu(), config.train.seed)}, {}
    rows = [_row("data", found["data"], device)]
    for name in methods:
        if name in BASELINES:
            kind, nfe = BASELINES[name]
            if kind not in trained:
                trained[kind] = _baseline(name, config, loader, device, _file(out, kind), kept[kind])
            found[name] = _baseline_points(*trained[kind], config.train, points, nfe)
        else:
            pipe, steps_made, training = given.get(name) or _trained(name, configs[name], out / name, device)
            found[name] = _drawn(pipe, points, steps_made, training, "given, with the config: " if name in given else "")
        rows.append(_row(name, found[name], device))
        log.info("%s: %d modes, %.1f %% within 3 sigma", name, rows[-1]["modes"], 100 * rows[-1]["high_quality"])
        write_rows(out / "figure6.csv", rows, DECIMALS)  # what there is: the next one may take hours
        draw(out / "figure6.png", {name: drawn.points for name, drawn in found.items()}, rows)
    return rows


def draw(path, points, rows):
    """Write the figure: one row of density panels.  points: {method: [N, 2]}.  rows: of `run`, in the same order."""
    width, height = PANEL_INCHES
    figure = new_figure(figsize=(width * len(points), height), layout="constrained")
    for axis, (name, where), row in zip(figure.subplots(1, len(points), squeeze=False)[0], points.items(), rows, strict=True):
        axis.imshow(density(where.numpy(), side=256)[:, :, 0], cmap="gray", vmin=0, vmax=255)
        axis.set_title(TITLES[name])
        axis.set_xlabel(f"{row['modes']} modes, {row['high_quality']:.1%}")
        axis.set_xticks([])
        axis.set_yticks([])
    save_figure(figure, path)


def _check(methods, ours, points):
    """Raises InputError for names that there are not, and MissingError without matplotlib: now, not after hours of training."""
    for name in methods:
        if name not in METHODS:
            raise InputError(f"method {name!r}: there are {', '.join(METHODS)}")
    for name in ours:
        if name not in OURS or name not in methods:
            raise InputError(f"model for {name!r}: models are given for those of {', '.join(OURS)} that are among the methods")
    if not methods or len(set(methods)) < len(methods) or points < 1:
        raise InputError(f"methods {', '.join(methods)}; points = {points}: give each method once, one or more, and 1 point or more")
    new_figure()  # without matplotlib it raises


def _configs(out, methods, ours, settings):
    """{name: Config} of OURS. Raises InputError for wrong settings, and where `out` has a run that does not go on with them."""
    try:
        configs = {name: override(preset("gaussians25"), settings | {"steps": steps}) for name, steps in OURS.items()}
    except ValueError as error:
        raise InputError(str(error)) from error
    for name in set(OURS) & set(methods) - set(ours):
        check_run(out / name, configs[name])
    return configs


def _file(out, kind):
    """Where the training of a baseline is kept."""
    return out / f"{kind.__name__}.pt"


def _facts(kind, config, device):
    """What the training of a baseline depends on."""
    settings = config.train
    facts = {"batch_size": settings.batch_size, "rate": kind.rate, "seed": settings.seed, "device": device.type}
    return facts | {"model": dataclasses.asdict(config.model)}


def _baseline(name, config, loader, device, path, saved):
    """(baseline, Training), from where it was stopped."""
    kind, settings = BASELINES[name][0], config.train
    baseline = kind(config.model, settings.seed, device)

    def watch(text):
        log.info("%s: %s", name, text)

    return baseline, point_baselines.train(baseline, loader.batches, settings.iterations, watch, path, _facts(kind, config, device), saved)


def _baseline_points(baseline, cost, settings, points, nfe):
    """The Drawn of a trained baseline."""
    device = baseline.random.device
    random, start = torch.Generator(device).manual_seed(SAMPLING + settings.seed), time.perf_counter()
    samples = baseline.sample(points, random, nfe).cpu()
    setting = f"{baseline.setting}, rate {baseline.rate:g}"
    return Drawn(samples, settings.seed, time.perf_counter() - start, nfe, baseline.steps, settings.batch_size, cost, setting)


def _given(name, folder, device):
    """(pipeline, iterations it was trained for, None) of a model folder or run. Raises InputError for a model of another kind."""
    folder = Path(folder)
    pipe = DDGANPipeline.from_pretrained(folder).to(device)
    network, steps = pipe.config.model.network, pipe.config.diffusion.steps
    if network != "mlp" or steps != OURS[name]:
        raise InputError(f"{folder}: network {network!r} with T = {steps}; {name} takes one of points with T = {OURS[name]}")
    run_of = (folder / "checkpoints").is_dir() and not (folder / "config.json").is_file()
    made = read_json(newest_checkpoint(folder / "checkpoints") / "state.json")["step"] if run_of else pipe.config.train.iterations
    return pipe, made, None


def _trained(name, config, folder, device):
    """As `_given` of the run in a folder, once it is finished, with its Training where that is known."""
    training = finish(folder, config, device)
    return *_given(name, folder, device)[:2], training


def _drawn(pipe, points, iterations, training, origin):
    """Points of DDGAN, of the seeds 0 .. points - 1.  origin: what its setting begins with."""
    output, settings = pipe(num_images=points, output_type="pt", batch_size=points), pipe.config.train
    adam = f"Adam {settings.beta1:g}, {settings.beta2:g}, rates {settings.lr_g:g} and {settings.lr_d:g}"
    adam += f" to {settings.lr_min:g} by cosine" if settings.lr_decay else ""
    setting = f"{origin}R1 {settings.r1_gamma:g} every {settings.r1_every}, {adam}, EMA {settings.ema_decay:g}"
    return Drawn(output.images.cpu(), settings.seed, output.seconds, output.nfe, iterations, settings.batch_size, training, setting)


def _row(name, drawn, device):
    """The row of a method; None for what it has not."""
    found = score(drawn.points, modes25(), SIGMA / SCALE)
    training_seconds, ms_per_step = drawn.training or (None, None)
    row = {"method": name, "points": len(drawn.points)} | found._asdict()
    row |= {"NFE": drawn.nfe, "iterations": drawn.iterations, "batch_size": drawn.batch_size, "ms_per_step": ms_per_step}
    return row | {
        "training_seconds": training_seconds,
        "seconds": drawn.seconds,
        "seed": drawn.seed,
        "device": device_name(device),
        "setting": drawn.setting,
    }
