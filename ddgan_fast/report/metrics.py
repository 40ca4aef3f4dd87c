"""metrics.jsonl as curves of few points and a few numbers, in one pass over its lines, also while the run still writes it."""

import json
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from ddgan_fast.errors import CheckpointError

MOST_POINTS, MOST_LINES = 2000, 200_000  # of a curve; that are read, evenly spread over a longer file
MOST_T = 1000  # numbers of a list, which are by t


@dataclass
class Metrics:
    """What metrics.jsonl says: curves {name: [N, 2] of step and value}, N up to MOST_POINTS, and a few numbers over all lines.

    Counts of a file of more than MOST_LINES are estimates.
    """

    curves: dict = field(default_factory=dict)
    lines: int = 0
    """In the file."""
    width: int = 1
    """Lines whose mean is one point of a curve."""
    unreadable: int = 0
    not_finite: int = 0
    """Values that are NaN or infinite."""
    step: int = 0
    """The last one."""
    images_seen: int = 0
    hours: float = 0.0
    peak_memory_mb: float = 0.0
    skipped: int = 0

    def speed(self):
        """Rows (what, how much)."""
        rows = [("Images seen", f"{self.images_seen:,}")]
        for name, what in (("images_per_s", "Images per second"), ("data_wait_percent", "Waiting for data, %")):
            if name in self.curves:
                values = self.curves[name][:, 1]
                rows.append((what, f"median {np.median(values):,.4g}, at the end {values[-1]:,.4g}"))
        rows += [("Peak memory", f"{self.peak_memory_mb:,.0f} MB")] * (self.peak_memory_mb > 0)
        rows += [("Hours of training, about (images over images per second)", f"{self.hours:,.3g}")] * (self.hours > 0)
        return rows + [("Updates left out because they were not finite", f"{self.skipped:,}")] * (self.skipped > 0)


def read_metrics(path, names):
    """The Metrics of a file, which may be missing or end in half a line.

    names: of the curves.  Where a line has a list, by t, its curves are (name, 0), (name, 1), ...
    """
    found, bins = Metrics(), defaultdict(dict)
    try:
        with open(path, "rb") as file:
            found.lines = sum(1 for _ in file)
            every = max(1, -(-found.lines // MOST_LINES))
            found.width = every * max(1, -(-found.lines // (every * MOST_POINTS)))
            file.seek(0)
            for number, text in islice(enumerate(file), 0, None, every):
                _add(found, bins, number // found.width, text, names)
    except FileNotFoundError:
        return found
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    found.unreadable, found.not_finite, found.skipped = (every * n for n in (found.unreadable, found.not_finite, found.skipped))
    for name, sums in bins.items():
        found.curves[name] = np.array([(steps / count, values / count) for steps, values, count in sums.values()])
    return found


def _add(found, bins, place, text, names):
    """Add a line to the numbers of `found` and to the sums (of steps, of values, how many) of its bin."""
    try:
        line = json.loads(text)
        step = line["step"]
        if not _is_number(step):
            raise TypeError
    except (ValueError, TypeError, KeyError, RecursionError):  # the line that is being written, or was when the power went
        found.unreadable += 1
        return
    for name in names:
        value = line.get(name)
        for key, number in [((name, t), v) for t, v in enumerate(value[:MOST_T])] if isinstance(value, list) else [(name, value)]:
            if _is_number(number):
                sums = bins[key].setdefault(place, [0.0, 0.0, 0])
                sums[0], sums[1], sums[2] = sums[0] + step, sums[1] + number, sums[2] + 1
            elif isinstance(number, float):
                found.not_finite += 1
    numbers = (line.get(name) for name in ("images_seen", "images_per_s", "peak_memory_mb", "skipped"))
    seen, rate, peak, skipped = (number if _is_number(number) else 0 for number in numbers)
    if rate > 0 and seen > found.images_seen:
        found.hours += (seen - found.images_seen) / rate / 3600
    found.step, found.images_seen, found.peak_memory_mb = int(step), int(seen), max(found.peak_memory_mb, peak)
    found.skipped += int(skipped)


def _is_number(value):
    """Whether it can be drawn."""
    return type(value) in (int, float) and -1e30 < value < 1e30
