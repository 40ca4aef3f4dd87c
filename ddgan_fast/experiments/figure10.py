"""Paper Fig. 10: the discriminator's loss at each denoising step during training, from the metrics.jsonl of a run."""

import json

import numpy as np

from ddgan_fast.errors import DataError
from ddgan_fast.experiments.panels import new_figure, save_figure

LONGEST = 2**16  # bytes of a line
MOST_STEPS = 1000  # T
MOST = 4000  # points of a curve: from twice as many on, a point is the mean of twice as many lines
SMOOTHED = 40  # of a curve's points, over which the thick line is a mean at most


def read_losses(path):
    """(step float64 [N], D's loss [N, T]) of a metrics.jsonl; N <= 2 * MOST, whatever its length. NaN where no image had that t.

    In a long file a point is the mean of lines, of equally many everywhere; the last one is of those that are left. A last line that is
    half written is left out.  Raises DataError for a file that is not such a record.
    """
    rows, group, lines, width = [], [], 1, None  # whole points, the lines of the next one, and how many it takes
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(LONGEST + 1), b""), 1):
                if len(line) > LONGEST:
                    raise DataError(f"{path}:{number}: a line of more than {LONGEST:,} bytes; ddgan train writes none")
                if not line.endswith(b"\n"):
                    break
                group.append(_row(path, number, line, width))
                width = len(group[-1])
                if len(group) == lines:
                    rows += _means(group, lines)
                    group = []
                if len(rows) == 2 * MOST:
                    rows, lines = _means(rows, 2), 2 * lines
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}; give --model the folder of a run of ddgan train") from error
    rows += _means(group, len(group)) if group else []
    if not rows:
        raise DataError(f"{path}: no line is whole; the run must reach its first log_every steps")
    table = np.array(rows)
    return table[:, 0], table[:, 1:]


def _row(path, number, line, width):
    """[step, loss at t = 0, .., loss at t = T - 1] of a line."""
    try:
        values = json.loads(line)
        row = np.array([values["step"], *values["d_loss_t"]], dtype=np.float64)  # None becomes NaN
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
        raise DataError(f"{path}:{number}: no record with step and d_loss_t: {type(error).__name__}: {error}") from error
    if not 2 <= len(row) <= MOST_STEPS + 1 or len(row) != (width or len(row)):
        raise DataError(f"{path}:{number}: d_loss_t holds {len(row) - 1} losses; it must be one for each t, as in the lines before")
    return row


def _means(rows, count):
    """Each `count` neighbours as their mean; a loss that some lack is that of the others."""
    groups = np.array(rows).reshape(len(rows) // count, count, -1)
    counts = (~np.isnan(groups)).sum(1)
    sums = np.nan_to_num(groups).sum(1)
    return list(np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0))


def smooth(values, width):
    """The centred running mean of `width` values [N], over fewer at the ends; NaN counts for nothing."""
    here, kernel = ~np.isnan(values), np.ones(width)
    counts = np.convolve(here, kernel, "same")
    sums = np.convolve(np.where(here, values, 0.0), kernel, "same")
    return np.divide(sums, counts, out=np.full(len(values), np.nan), where=counts > 0)


def draw(path, steps, losses):
    """Write the figure. steps: [N].  losses: [N, T].  Each t has a thin curve, and a thick one of its running mean."""
    figure = new_figure(figsize=(6.4, 4.0), layout="constrained")
    axis = figure.subplots()
    width = max(1, min(SMOOTHED, len(steps) // 10))
    for t, curve in enumerate(losses.T):
        label = f"t = {t}" + (" (last denoising step)" if t == 0 else "")
        if width == 1:
            axis.plot(steps, curve, color=f"C{t % 10}", marker=".", ms=3, label=label)
        else:
            axis.plot(steps, curve, color=f"C{t % 10}", lw=0.6, alpha=0.35)
            axis.plot(steps, smooth(curve, width), color=f"C{t % 10}", label=label)
    axis.set_xlabel("training step")
    axis.set_ylabel("discriminator loss, without R1")
    axis.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    save_figure(figure, path)
