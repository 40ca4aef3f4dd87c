"""Curves as SVG inside a page, in the colours of the page by day and night; equal curves give equal text."""

import io
import re
from html import escape

import numpy as np

from ddgan_fast.errors import MissingError

INK, GRID = "#010203", "#010204"  # stand for the page's own colours, which differ by day and night
LOOK = dict.fromkeys(("text.color", "xtick.color", "ytick.color"), INK) | dict.fromkeys(("axes.edgecolor", "grid.color"), GRID)
LOOK |= {"svg.fonttype": "none", "font.size": 9, "axes.grid": True}
PAIR = ("#2f74d0", "#d9601a")
RAMP = ("#2f74d0", "#5a67d8", "#8257cf", "#a84cb8", "#c44a93", "#d45068", "#d9603a", "#b98012")


def draw(title, curves, last, log=False):
    """An <svg> of [(label, [N, 2] of step and value)], from step 0 to `last`.

    log: a logarithmic scale where values span much.  Raises MissingError without matplotlib.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
        from matplotlib.ticker import EngFormatter, MaxNLocator
    except ImportError as error:
        raise MissingError(f'matplotlib cannot be imported ({error}): pip install "ddgan_fast[plots]"') from error
    colours = PAIR if len(curves) <= 2 else [RAMP[round(i * (len(RAMP) - 1) / (len(curves) - 1))] for i in range(len(curves))]
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(LOOK | {"svg.hashsalt": title})
        figure = Figure(figsize=(4.8, 2.8), layout="constrained")
        figure.patch.set_visible(False)
        axis = figure.subplots()
        axis.patch.set_visible(False)
        axis.spines[["top", "right"]].set_visible(False)
        for (label, curve), colour in zip(curves, colours, strict=False):
            _line(axis, curve, colour, label)
        values = np.concatenate([curve[:, 1] for _, curve in curves])
        if log and values.min() > 0 and values.max() > 50 * values.min():
            axis.set_yscale("log")
            axis.set_ylim(bottom=max(values.min() / 2, values.max() * 1e-7))
            axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        else:
            axis.ticklabel_format(axis="y", scilimits=(-3, 6), useOffset=False)
        axis.set_xlim(0, max(last, 1) * 1.02)
        axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        if any(label for label, _ in curves):
            figure.legend(loc="outside upper left", ncols=4, frameon=False, handlelength=1.2, columnspacing=1.2)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return _inline(stream.getvalue(), title)


def _line(axis, curve, colour, label):
    """The points, and over many of them their mean over a fiftieth of the curve."""
    steps, values = curve.T
    near = len(curve) // 50
    axis.plot(steps, values, color=colour, label=label if near < 4 else None, lw=1.3 if near < 4 else 0.6, alpha=1 if near < 4 else 0.35,
              marker="." if len(curve) < 30 else None)  # fmt: skip
    if near >= 4:
        axis.plot(*(np.convolve(part, np.full(near, 1 / near), "valid") for part in (steps, values)), color=colour, label=label, lw=1.4)


def _inline(svg, title):
    """matplotlib's SVG file as part of a page: no prolog, no names that other figures have too, colours of the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"| id="[\w.]+_\d+"', "", svg).replace(INK, "currentColor").replace(GRID, "var(--line)")
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1)
