"""Paper Fig. 4: FID against the time of 100 images, of the rows of tables.table1 that have both; one panel for each kind of FID.

The paper drew curves over the number of steps, whose numbers it does not print: published points are those of its Table 1.
"""

from typing import NamedTuple

from ddgan_fast.errors import InputError
from ddgan_fast.experiments.panels import new_figure, save_figure
from ddgan_fast.experiments.tables import MEASURED, SECONDS

PANEL, DPI = (8, 5.5), 120  # inches; as panels.save_figure writes, so that names stay where they are placed
OURS, OTHERS = {"color": "tab:red", "marker": "*", "s": 90}, {"color": "tab:blue", "marker": "o", "s": 28}  # measured, published
PLACES = [  # of a name: its shift from the point in points of 1/72 inch, and the side of it that is there
    (x, y, side) for y in (0, 9, -9, 18, -18) for x, side in ((7, "left"), (-7, "right"))
] + [(0, y, "center") for y in (12, -12, 22, -22)]


class Point(NamedTuple):
    """A row as the figure has it. where: what the legend calls it."""

    seconds: float
    fid: float
    name: str
    measured: bool
    where: str


def draw(rows, path):
    """Write the figure as PNG.

    rows: {column: value} as tables.table1 returns them and tables.read_rows reads them.  Raises InputError where no row has both an FID and
    a time, MissingError without matplotlib.
    """
    panels = panels_of(rows)
    width, height = PANEL
    figure = new_figure(figsize=(width * len(panels), height), dpi=DPI, layout="constrained")
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    renderer = FigureCanvasAgg(figure).get_renderer()
    for axes, (metric, points) in zip(figure.subplots(1, len(panels), sharex=True, squeeze=False)[0], panels.items(), strict=True):
        _panel(axes, metric, points)
    figure.draw_without_rendering()  # the layout is made here, and names are placed on it
    for axes, points in zip(figure.axes, panels.values(), strict=True):
        _write_names(axes, points, renderer)
    save_figure(figure, path)


def panels_of(rows):
    """{name of an FID: [Point]}, the published kind first; FIDs of other networks or images are of another kind."""
    panels = {}
    for row in rows:
        for metric in (name for name in row if name == "FID" or name.endswith("-FID")):
            if not (row[metric] and row.get(SECONDS)):
                continue
            name, measured = row["model"], row["source"] == MEASURED
            if not measured and name.endswith(")"):
                name = name.rpartition(" (")[0]  # without its citation
            where = f"measured, {row['device']}" if measured else row["source"]
            panels.setdefault(metric, []).append(Point(row[SECONDS], row[metric], name, measured, where))
    if not panels:
        raise InputError(f"figure 4: no row has both an FID and {SECONDS!r}; give rows of Table 1")
    return dict(sorted(panels.items(), key=lambda panel: panel[0] != "FID"))


def _panel(axes, metric, points):
    for where in dict.fromkeys(point.where for point in points):
        there = [point for point in points if point.where == where]
        style = OURS if there[0].measured else OTHERS
        axes.scatter([point.seconds for point in there], [point.fid for point in there], label=where, **style)
    axes.set(xscale="log", yscale="log", xlabel=SECONDS, ylabel=metric)
    axes.margins(0.12)
    for axis, (low, high), most in ((axes.xaxis, axes.get_xlim(), 10), (axes.yaxis, axes.get_ylim(), 30)):
        axis.set_major_formatter("{x:g}")
        if high < most * low:  # 2, 3, .. have room for numbers too
            axis.set_minor_formatter("{x:g}")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left")


def _write_names(axes, points, renderer):
    """The name of each point beside it, where it covers no other point or name, and stays inside; else at the first place."""
    from matplotlib.transforms import Bbox

    taken = [axes.get_legend().get_window_extent(renderer)]
    taken += [Bbox.from_bounds(x - 5, y - 5, 10, 10) for x, y in axes.transData.transform([point[:2] for point in points])]
    for point in points:
        name = axes.annotate(point.name, point[:2], PLACES[0][:2], textcoords="offset points", fontsize=8, va="center")
        name.set_in_layout(False)
        for x, y, side in (*PLACES, PLACES[0]):
            name.set(position=(x, y), horizontalalignment=side)
            box = name.get_window_extent(renderer)
            if box.count_overlaps(taken) == 0 and axes.bbox.x0 < box.x0 and box.x1 < axes.bbox.x1:
                break
        taken.append(box)
