"""Paper Table 2: the ablations trained with one budget on one set, scored, and set beside the published numbers.

The paper trains them on CIFAR-10, each until it gets no better. A small network on a small set with the same number of steps for all says
whether the order of the rows holds there, not what the numbers are.
"""

import csv
import logging
import statistics
from pathlib import Path

from ddgan_fast.config import ABLATIONS, override
from ddgan_fast.data import open_loader
from ddgan_fast.data.datasets import open_dataset
from ddgan_fast.environment import collect
from ddgan_fast.errors import InputError
from ddgan_fast.experiments import published
from ddgan_fast.experiments.score import score_images
from ddgan_fast.pictures import whole_file
from ddgan_fast.pipeline import DDGANPipeline
from ddgan_fast.training.loop import train
from ddgan_fast.training.run import locked, open_run

log = logging.getLogger("ddgan_fast")
VARIANTS = {  # a name of the command line: the row of the table, and what differs from T = 4
    "t4": ("T = 4", {}),
    **{
        name.removeprefix("cifar10-"): (row, {setting: value for setting, value in ABLATIONS[name].items() if setting != "iterations"})
        for name, row in (
            ("cifar10-t1", "T = 1"),
            ("cifar10-t2", "T = 2"),
            ("cifar10-t8", "T = 8"),
            ("cifar10-one-shot-aug", "One-shot w/ aug"),
            ("cifar10-direct", "Direct denoising"),
            ("cifar10-noise", "Noise generation"),
            ("cifar10-no-latent", "No latent variable"),
        )
    },
}


def table2(base, variants, seeds, judges, cache, out, device="cpu", num_images=10_000, watch=lambda count: None):
    """Train each variant with each seed, score it, and write out/table2.csv; the rows {column: value}, one a variant.

    base: config.Config of T = 4, whose data, network and number of steps all share.  variants: names of VARIANTS.  seeds: of training.
    judges, cache, num_images, watch: as score.score_images takes them.  Each training is a run in out/<variant>-seed<n>; one that was
    stopped goes on where it stopped, a finished one is only scored.
    A column NAME is the mean over seeds, "NAME std" their standard deviation.  Raises InputError for an unknown variant or no seeds.
    """
    unknown = [name for name in variants if name not in VARIANTS]
    if unknown or not variants or not seeds:
        raise InputError(
            f"variants {', '.join(unknown) or 'none'}, seeds {list(seeds)}: give one or more of {', '.join(VARIANTS)}, and seeds"
        )
    configs = {name: override(base, VARIANTS[name][1]) for name in variants}  # before hours of work
    rows = []
    for name, config in configs.items():
        found = []
        for seed in seeds:
            run = Path(out) / f"{name}-seed{seed}"
            trained(override(config, {"seed": seed}), run, device)
            pipe = DDGANPipeline.from_pretrained(run).to(device).compile()
            dataset = open_dataset(config.train.data, config.model, seed)
            found.append(score_images(pipe, dataset, judges, cache, num_images=num_images, watch=watch))
            log.info(
                "%s, seed %d: %s", VARIANTS[name][0], seed, {key: value for key, value in found[-1].items() if isinstance(value, float)}
            )
        rows.append(_row(VARIANTS[name][0], config, seeds, found))
    _write(Path(out) / "table2.csv", rows)
    return rows


def trained(config, run, device):
    """Train what is left of a run."""
    with locked(run):
        state = open_run(run, config, collect(), device, resume=(run / "checkpoints").is_dir())
        if state.step < config.train.iterations:
            train(state, open_loader(config, device), run)


def _row(name, config, seeds, found):
    numbers = [key for key, value in found[0].items() if isinstance(value, float)]
    row = {"variant": name, "data": found[0]["data"], "iterations": config.train.iterations, "batch size": config.train.batch_size}
    row |= {"seeds": len(seeds), "images": found[0]["images"], "NFE": found[0]["NFE"], "device": found[0]["device"]}
    for number in numbers:
        values = [each[number] for each in found]
        row[number] = statistics.mean(values)
        row[f"{number} std"] = statistics.stdev(values) if len(values) > 1 else None
    paper = next(each for each in published.TABLE2 if each.model == name)
    return row | {"paper FID, CIFAR-10": paper.FID, "paper IS": paper.IS, "paper recall": paper.recall}


def _write(path, rows):
    with whole_file(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(
            {key: f"{value:.4f}" if isinstance(value, float) and not key.startswith("paper") else value for key, value in row.items()}
            for row in rows
        )
