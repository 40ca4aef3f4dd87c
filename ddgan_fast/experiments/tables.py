"""Paper Tables 1, 3, 4 and 5 with our own rows above the published ones, each row marked with its source.

`tableN(models, dataset, ..., out)` scores the models {label: DDGANPipeline}, all of one size and on one device, against a data set and
writes `tableN.csv`, `tableN.md` and a grid of samples of each model into the folder `out`, anew after each model. It returns the rows
{column: value} as the CSV has them, on every rank but the first None. Raises InputError where models are missing or do not go together,
and what score.py raises.

A published number stands in the column of its name ("FID"); what another network made, or was made of other images, has its own column
("lite0-FID", "digits-FID"), and a line of the Markdown says that the two do not compare. Seconds are those of 100 images everywhere, as
the paper gives them.
"""

import csv
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ddgan_fast.data.datasets import NAMES
from ddgan_fast.environment import device_name
from ddgan_fast.errors import DataError, InputError
from ddgan_fast.evaluation.scoring import PROTOCOLS
from ddgan_fast.experiments import published, sampler_times
from ddgan_fast.experiments.panels import folder_for
from ddgan_fast.experiments.samplers import SAMPLERS
from ddgan_fast.experiments.samples import draw_grid
from ddgan_fast.experiments.score import STACKED_IMAGES, score_images, score_stacked, write_rows
from ddgan_fast.pictures import whole_file

MEASURED, PAPER, PAPER_TIMES = "measured", "paper", "paper, V100"
SECONDS = "seconds per 100 images"
TEXT = "source", "model", "data", "protocol", "engine", "device"
FIRST = "source", "model", "IS", "FID", "recall", "modes", "KL"  # then those of other networks
LAST = "NFE", SECONDS, "batch", "evaluations timed", "images", "reference images", "data", "protocol", "engine", "device"
PAPER_SETS = {1: ("cifar10", (3, 32, 32)), 4: (None, (3, 256, 256)), 5: (None, (3, 256, 256))}  # table: name among NAMES, shape of an image
# Recall and precision are of VGG16, under its name; where one network makes all numbers, these have its name too, even Inception's
RENAMED = {"recall": "inception-recall", "precision": "inception-precision"}
OTHERS = "-IS", "-FID", "-recall", "-precision", "-modes", "-KL"  # how their columns end
SAMPLES, SAMPLES_256 = 64, 16  # of a grid, up to 64x64 pixels and above


def silent(count):
    """Watches nothing."""


def table1(models, dataset, judges, cache, out, num_images=50_000, batch_size=100, protocol="default", watch=silent, timed_batch=None):
    """CIFAR-10: quality of the models beside the time of a batch, and the times of other samplers on this device (sampler_times.py).

    dataset, judges, cache, protocol, watch: as score.score_images takes them; num_images are scored in batches of batch_size, untimed.
    timed_batch: images of a timed call, by default those of sampler_times.batch_of.
    """
    if clash := SAMPLERS.keys() & models.keys():
        raise InputError(f"model {min(clash)!r}: a sampler of this table has the name; give another label")
    device = _checked(models, out)
    untrained = (
        "`untrained`: the sampler of that name on the backbone of the first model without latent, with fresh weights, op by op. "
        "It has a time and no quality; `evaluations timed` of its NFE were timed, and the rest follows from them."
    )
    sheet = _Sheet(1, "CIFAR-10", published.TABLE1, Path(out), lambda rows: [_conditions(rows), untrained])
    rows = sheet.fill(models, _score(1, dataset, judges, cache, protocol, num_images, batch_size, watch))
    if rows is None:
        return None
    batch = timed_batch or sampler_times.batch_of(next(iter(models.values())))
    for name, timed in sampler_times.measure(models, batch).items():
        cost = {"NFE": timed.nfe, SECONDS: 100 * timed.seconds / batch, "batch": batch, "evaluations timed": timed.timed}
        cost["device"] = device_name(device)
        if name in rows:
            rows[name] |= cost
        else:
            name = f"{name}, untrained"
            rows[name] = {"source": MEASURED, "model": name, "engine": "eager, float32"} | cost
    return sheet.write(rows)


def table3(models, dataset, classifier, record, digits, out, num_images=STACKED_IMAGES, batch_size=100, watch=silent):
    """StackedMNIST: modes and KL, and what the same classifier says of real stacked images.

    dataset, classifier, record: as score.score_stacked takes them.  digits: what is stacked; only those of "MNIST" stand in the columns of
    the published numbers.
    """
    _checked(models, out)
    names = {} if digits == "MNIST" else {name: f"{digits}-{name}" for name in ("modes", "KL")}
    note = (
        f"Measured: {num_images:,} images of stacked {digits}, whose classes our own classifier names, which is right about "
        f"{record['accuracy']:.2%} of the test images; real images beside them. KL is from all modes equally, as often as they are there."
    )

    def score(pipe):
        found = score_stacked(pipe, dataset, classifier, record, num_images, batch_size, watch)
        return {names.get(name, name): value for name, value in found.items()}

    sheet = _Sheet(3, "stacked MNIST", published.TABLE3, Path(out), lambda rows: [note])
    return sheet.write(sheet.fill(models, score))


def table4(models, dataset, judges, cache, out, num_images=30_000, batch_size=100, protocol="default", watch=silent):
    """CelebA-HQ at 256x256. Arguments as `table1`; the time is that of drawing the images which are scored."""
    _checked(models, out)
    sheet = _Sheet(4, "CelebA-HQ 256", published.TABLE4, Path(out), lambda rows: [_conditions(rows)])
    rows = sheet.fill(models, _score(4, dataset, judges, cache, protocol, num_images, batch_size, watch))
    return rows and sheet.write(rows)


def table5(models, dataset, judges, cache, out, num_images=50_000, batch_size=100, protocol="default", watch=silent):
    """LSUN Church at 256x256. Arguments as `table4`."""
    _checked(models, out)
    sheet = _Sheet(5, "LSUN Church 256", published.TABLE5, Path(out), lambda rows: [_conditions(rows)])
    rows = sheet.fill(models, _score(5, dataset, judges, cache, protocol, num_images, batch_size, watch))
    return rows and sheet.write(rows)


def read_rows(path):
    """The rows of a table's CSV: None for an empty cell, text in the columns TEXT, numbers elsewhere. Raises DataError for another file."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return [{name: _value(name, text) for name, text in row.items()} for row in csv.DictReader(file, strict=True)]
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise DataError(f"{path}: not a table of ours: {error}") from error


def _checked(models, out):
    """The device of the models. Raises InputError unless they draw images of one size on one device, and `out` can be a folder."""
    folder_for(Path(out))
    if not models:
        raise InputError("no models: give at least one")
    kinds = {label: (pipe.config.model.sample_shape, pipe.device) for label, pipe in models.items()}
    first, (shape, device) = next(iter(kinds.items()))
    if len(shape) != 3:
        raise InputError(f"model {first!r}: it draws 2-D points; give models of images")
    for label, (other, place) in kinds.items():
        if (other, place) != (shape, device):
            raise InputError(f"model {label!r}: {list(other)} on {place}, {first!r}: {list(shape)} on {device}; one table has one of both")
    return device


def _score(number, dataset, *options):
    """score(pipe) -> the row of `score_images`, whose FID and IS carry the set's name where that cannot be the one of the paper's table."""
    name, shape = PAPER_SETS[number]

    def score(pipe):
        found = score_images(pipe, dataset, *options)
        if found is None or (pipe.config.model.sample_shape == shape and dataset.name not in NAMES.keys() - {name}):
            return found
        return {f"{dataset.name}-{key}" if key in ("FID", "IS", "IS std") else key: value for key, value in found.items()}

    return score


def _quoted(rows):
    """Published rows as rows of a table; those of a table without times say nothing of a GPU."""
    source = PAPER_TIMES if any(row.seconds for row in rows) else PAPER
    for row in rows:
        quoted = {"source": source} | row._asdict()
        yield quoted | {SECONDS: quoted.pop("seconds"), "batch": row.seconds and 100}


def _conditions(rows):
    row = next(iter(rows.values()))
    against = f"{row['images']:,} images against {row['reference images']:,} of {row['data']}"
    return f"Measured: {against}, {PROTOCOLS[row['protocol']].words}, on {row['device']}."


@dataclass
class _Sheet:
    """The files of a table in `out`: our rows above the published ones, `quoted`, and what notes(rows) says below them.

    pictures: {label: name of the grid of samples beside the table}.
    """

    number: int
    data: str
    quoted: list
    out: Path
    notes: Callable
    pictures: dict = field(default_factory=dict)

    def fill(self, models, score):
        """{label: row} of what score(pipe) says of each model, and the files after each; None on every rank but the first."""
        rows = {}
        for place, (label, pipe) in enumerate(models.items(), 1):
            found = score(pipe)
            if found is None:
                continue
            rows[label] = {"source": MEASURED, "model": label} | {RENAMED.get(name, name): value for name, value in found.items()}
            rows[label][SECONDS] = 100 * rows[label].pop("seconds") / found["images"]
            self.pictures[label] = f"table{self.number}-{place}.png"
            draw_grid(
                pipe, range(SAMPLES if pipe.config.model.resolution <= 64 else SAMPLES_256), self.out / self.pictures[label], SAMPLES_256
            )
            self.write(rows)  # what there is: the next one may take hours
        return rows or None

    def write(self, rows):
        """Write the files; the rows as the CSV has them, all with the same columns."""
        notes, rows = self.notes(rows), [*rows.values(), *_quoted(self.quoted)]
        there = [name for row in rows for name, value in row.items() if value is not None]
        columns = [name for name in dict.fromkeys([*FIRST, *there]) if name in there and name not in LAST]
        columns += [name for name in LAST if name in there]
        rows = [{name: row.get(name) for name in columns} for row in rows]
        notes = [*notes, f"Published: {self.data}, quoted from Table {self.number} of the paper."]
        if others := [name for name in columns if name.endswith(OTHERS)]:
            notes.append(
                f"{', '.join(others)}: made by another network or code, or of other data, than the published numbers; they do not compare."
            )
        write_rows(self.out / f"table{self.number}.csv", rows)
        with whole_file(self.out / f"table{self.number}.md") as path:
            text = _markdown(f"Table {self.number}: {self.data}", columns, rows, notes, self.pictures)
            path.write_text(text, encoding="utf-8")
        return rows


def _markdown(title, columns, rows, notes, pictures):
    lines = [f"# {title}", "", f"| {' | '.join(map(_cell, columns))} |", "|---" * len(columns) + "|"]
    lines += [f"| {' | '.join(_cell(row[name]) for name in columns)} |" for row in rows]
    for note in notes:
        lines += ["", note]
    for label, picture in pictures.items():
        lines += ["", f"Samples of {_cell(label)}, seeds from 0:", "", f"![]({picture})"]
    return "\n".join(lines) + "\n"


def _cell(value):
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"
    return " ".join(str(value).replace("|", "\\|").split())


def _value(name, text):
    if name is None or text is None:
        raise ValueError("a row has another number of cells than the first line")
    if text == "" or name in TEXT:
        return text or None
    return int(text) if text.isdecimal() else float(text)
