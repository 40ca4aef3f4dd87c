"""Paper Table 2: the ablations trained with one budget on one set, scored, and set beside the published numbers.

The paper trains them on CIFAR-10, each until it gets no better. A small network on a small set with the same number of steps for all says
whether the order of the rows holds there, not what the numbers are.
"""

import logging
import statistics
from pathlib import Path

from ddgan_fast.config import ABLATIONS, override, to_dict
from ddgan_fast.data.datasets import open_dataset
from ddgan_fast.errors import InputError
from ddgan_fast.experiments import published
from ddgan_fast.experiments.runs import check_run, finish
from ddgan_fast.experiments.score import DECIMALS, check_counts, score_images, write_rows
from ddgan_fast.training.run import locked

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


SHARED = {"steps": 4, "prediction": "x0", "latent": True, "augment_steps": 0}  # of the row T = 4, from which the others differ


def table2(base, variants, seeds, open_judges, cache, out, device, open_pipe, num_images=10_000, **scoring):
    """Train each variant with each seed, score it, and write out/table2.csv; its rows {column: value}, one a variant.

    base: config.Config of T = 4, whose data, network and number of steps all share.  variants: names of VARIANTS.  seeds: of training.
    open_judges: () -> Judges, called once the settings are known to be right.  device: of training.  open_pipe: (run) -> DDGANPipeline.
    cache, num_images, scoring: as score.score_images takes them.
    Each training is a run in out/<variant>-seed<n>; one that was stopped goes on where it stopped, a finished one is only scored.
    A column NAME is the mean over seeds, "NAME std" their standard deviation; out/table2-runs.csv has a row for each training of this call.
    Raises InputError, before anything is trained, for what is unknown or twice, for a base of another kind, for runs in `out` of other
    settings and for too few images.
    """
    configs, out = _configs(base, variants, seeds), Path(out)
    runs = {key: out / f"{key[0]}-seed{key[1]}" for key in configs}
    for key, run in runs.items():
        check_run(run, configs[key])
    data = base.train
    dataset = open_dataset(data.data, base.model, data.seed, data.resident_gb, data.on_bad_image, data.max_images)
    judges = open_judges()
    check_counts(dataset, judges, num_images)
    rows, rows_of_runs = [], []
    with locked(out):
        for name in variants:
            found = []
            for seed in seeds:
                run, config = runs[name, seed], configs[name, seed]
                finish(run, config, device)
                found.append(score_images(open_pipe(run), dataset, judges, cache, num_images=num_images, **scoring))
                rows_of_runs.append({"variant": VARIANTS[name][0], "seed": seed} | found[-1])
                log.info("%s: %s", run.name, {key: round(value, DECIMALS) for key, value in found[-1].items() if isinstance(value, float)})
                write_rows(out / "table2-runs.csv", rows_of_runs, DECIMALS)
            rows.append(_row(VARIANTS[name][0], config, seeds, found))
            write_rows(out / "table2.csv", rows, DECIMALS)  # what there is: the next one may take hours
    return rows


def _configs(base, variants, seeds):
    """{(variant, seed): config}."""
    unknown = [name for name in variants if name not in VARIANTS]
    if unknown or not variants or not seeds or len(set(variants)) < len(variants) or len(set(seeds)) < len(seeds):
        given = f"variants {', '.join(unknown or variants)}, seeds {', '.join(map(str, seeds))}"
        raise InputError(f"{given}: give one or more of {', '.join(VARIANTS)}, and seeds, each once")
    settings = to_dict(base)
    wrong = [f"{name} = {settings[name]!r}, not {value!r}" for name, value in SHARED.items() if settings[name] != value]
    if wrong or base.model.network == "mlp":
        raise InputError(f"the settings that all rows share must be those of T = 4 for images: {'; '.join(wrong) or 'they draw points'}")
    try:
        return {(name, seed): override(base, VARIANTS[name][1] | {"seed": seed}) for name in variants for seed in seeds}
    except ValueError as error:
        raise InputError(str(error)) from error


def _row(name, config, seeds, found):
    row = {"variant": name, "data": found[0]["data"], "iterations": config.train.iterations, "batch size": config.train.batch_size}
    row["seeds"] = len(seeds)
    row |= {
        key: found[0][key]
        for key in ("images", "reference images", "protocol", "classifier accuracy", "NFE", "device", "engine")
        if key in found[0]
    }
    scores = [key for key, value in found[0].items() if isinstance(value, float) and key not in row]
    numbers = [key for key in scores if not key.endswith(" std")]  # that of IS is over its splits
    for number in numbers:
        values = [each[number] for each in found]
        row[number] = statistics.mean(values)
        row[f"{number} std"] = statistics.stdev(values) if len(values) > 1 else None
    paper = next(each for each in published.TABLE2 if each.model == name)
    return row | {"paper FID, CIFAR-10": paper.FID, "paper IS": paper.IS, "paper recall": paper.recall}
