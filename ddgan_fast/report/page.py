"""The page of a run: heading, curves, samples, scores, speed, settings, machine.

Everything that a run's files say is text of others: it goes through `escape`, and the page forbids scripts and the network.
"""

import base64
import io
import json
import re
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from ddgan_fast.checkpoint.folder import read_json
from ddgan_fast.config import PRESETS, to_dict
from ddgan_fast.config_file import read_yaml
from ddgan_fast.errors import CheckpointError, DDGANError, InputError, ResourceError
from ddgan_fast.pictures import whole_file
from ddgan_fast.report.metrics import read_metrics
from ddgan_fast.report.plots import draw
from ddgan_fast.settings import Config

MOST_SAMPLES, MOST_SIDE = 8, 1024  # pictures of a page; pixels a side, above which a picture is shrunk
MOST_BYTES, MOST_PIXELS = 64 << 20, 64 << 20  # of a picture that is opened
MOST_OF_SCORES = 1 << 20  # bytes of a file of scores
SHOWN_T = 8  # curves of "D loss for each t"

# title, log scale where it helps, {name in metrics.jsonl: label}
PLOTS = [
    ("Losses", False, {"d_loss": "D, without R1", "g_loss": "G"}),
    ("D loss for each t (paper Fig. 10)", False, {"d_loss_t": "t = "}),
    ("R1 penalty, with its weight", True, {"r1": ""}),
    ("Gradient norms", True, {"d_gradient_norm": "D", "g_gradient_norm": "G"}),
    ("Learning rates", False, {"lr_d": "D", "lr_g": "G"}),
    ("Images per second", False, {"images_per_s": ""}),
    ("Waiting for data, % of the time", False, {"data_wait_percent": ""}),
    ("Loss scales (fp16)", True, {"d_loss_scale": "D", "g_loss_scale": "G"}),
]

STYLE = """
:root{color-scheme:light dark;--paper:#fff;--ink:#1b2126;--soft:#5b6670;--line:#d8dee4;--card:#f6f8fa}
@media(prefers-color-scheme:dark){:root{--paper:#13171a;--ink:#e4e8eb;--soft:#9aa5ae;--line:#333b42;--card:#1b2025}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1.2rem;max-width:76rem;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
h1{font-size:1.7rem;margin:.2rem 0;overflow-wrap:anywhere}h2{font-size:1.2rem;margin:2.2rem 0 .6rem}h3{font-size:1rem;margin:1rem 0 .3rem}
p{margin:.4rem 0;overflow-wrap:anywhere}.soft,figcaption{color:var(--soft);font-size:.9rem}
.cards{display:grid;gap:1rem;grid-template-columns:repeat(auto-fill,minmax(min(100%,21rem),1fr))}
.pictures{grid-template-columns:repeat(auto-fill,minmax(min(100%,16rem),1fr))}
figure{margin:0;padding:.7rem;background:var(--card);border:1px solid var(--line);border-radius:.5rem}
figcaption{overflow-wrap:anywhere;margin-bottom:.3rem}svg,img{display:block;width:100%;height:auto}
svg text{font-family:inherit!important}img.small{image-rendering:pixelated}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.9rem}
th,td{text-align:left;vertical-align:top;padding:.25rem .9rem .25rem 0;border-bottom:1px solid var(--line)}
th{color:var(--soft);font-weight:600}td{font-variant-numeric:tabular-nums;overflow-wrap:break-word;min-width:4rem;max-width:32rem}
.columns{columns:21rem;column-gap:2rem}.columns>div{break-inside:avoid;padding-bottom:1.2rem}.columns h3{margin-top:0}
summary{cursor:pointer;margin:.6rem 0}
"""
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none';style-src 'unsafe-inline';img-src data:">
<title>{title}</title><style>{style}</style></head><body>
{body}
</body></html>
"""


def write_report(run, out, scores=()):
    """Write the page of a run's folder to the file `out`; equal files give equal pages.

    scores: files of `ddgan eval --json`, a row each.  Raises InputError for what is no folder or no such file, CheckpointError for a
    folder that is no run, MissingError without matplotlib, ResourceError where `out` cannot be written.
    """
    out = Path(out)
    if out.is_dir():
        raise InputError(f"{out}: a folder; --out names the page's file")
    text = page_of(run, scores)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(out) as temporary:
            temporary.write_bytes(text.encode("utf-8", "replace"))  # a path may hold bytes that are no text
    except OSError as error:
        raise ResourceError(f"{out}: cannot be written: {error}") from error


def page_of(run, scores=()):
    """The HTML of a run. Arguments and errors as of `write_report`."""
    run = Path(run)
    if not run.is_dir():
        raise InputError(f"{run}: no such folder; give the --out folder of a `ddgan train`")
    if not (run / "config.yaml").is_file():
        raise CheckpointError(f"{run}: no run of `ddgan train`: it has no config.yaml (beside metrics.jsonl, samples/ and checkpoints/)")
    config, rows = read_yaml(run / "config.yaml", Config()), [row for path in scores for row in read_scores(Path(path))]
    metrics = read_metrics(run / "metrics.jsonl", [name for *_, names in PLOTS for name in names])
    parts = [
        _heading(run, config, metrics),
        _section("Training", _curves(metrics)),
        _section("Samples", _samples(run / "samples")),
        _section("Scores", _scores(rows)),
        _section("Speed", table(["", ""], metrics.speed())),
        _section("Settings", _settings(config)),
        _section("Machine and versions", _environment(run / "env.json")),
    ]
    return PAGE.format(title=escape(f"{config.name}: {run.name}"), style=STYLE, body="\n".join(parts))


def read_scores(path):
    """Rows {"file": its name, name: value, ...} of a file of `ddgan eval --json`: an object, or a list of them."""
    try:
        with open(path, "rb") as file:
            text = file.read(MOST_OF_SCORES + 1)
        found = None if len(text) > MOST_OF_SCORES else json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON: {error}") from error
    rows = found if isinstance(found, list) else [found]
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path}: must hold the object that `ddgan eval --json` prints, or a list of such, in at most 1 MiB")
    return [{"file": path.name} | row for row in rows]


def table(header, rows):
    """HTML of a table of any values; an empty header is left out."""
    cells = "".join(f"<th>{escape(str(name))}</th>" for name in header)
    head = f"<thead><tr>{cells}</tr></thead>" if any(header) else ""
    body = "".join("<tr>" + "".join(f"<td>{escape(shown(value))}</td>" for value in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table>{head}<tbody>{body}</tbody></table></div>'


def shown(value):
    """A value as text of a cell."""
    text = {True: "true", False: "false", None: ""}[value] if value is None or isinstance(value, bool) else str(value)
    text = f"{value:.6g}" if isinstance(value, float) else text
    return text if len(text) <= 500 else f"{text[:500]} ..."


def _section(title, content):
    return f"<section><h2>{title}</h2>\n{content}\n</section>"


def _note(text):
    return f'<p class="soft">{escape(text)}</p>'


def _heading(run, config, metrics):
    model, train = config.model, config.train
    shape = "points of a plane" if model.network == "mlp" else f"{model.resolution} x {model.resolution} x {model.image_channels} images"
    done = f"Step {metrics.step:,} of {train.iterations:,} ({100 * metrics.step / train.iterations:.3g} %)"
    saved = sorted(int(path.name[11:]) for path in run.glob("checkpoints/checkpoint-*") if path.name[11:].isdecimal())
    kept = f"checkpoints of steps {', '.join(f'{step:,}' for step in saved)}" if saved else "no checkpoint"
    what = f"Denoising diffusion GAN of {shape} in {config.diffusion.steps} steps, trained on {train.data or 'unnamed data'}"
    return (
        f"<header><h1>{escape(config.name)}</h1><p>{escape(what)}, {train.batch_size} a batch, in {train.precision}.</p>"
        f"<p>{done}; {kept}.</p>{_note(f'Folder {run}')}</header>"
    )


def _samples(folder):
    """Figures of the first, the last and pictures evenly between."""

    def order(path):
        number = re.fullmatch(r"step-(\d{1,15})", path.stem)
        return int(number[1]) if number else -1, path.name

    paths = sorted(folder.glob("*.png"), key=order)
    if not paths:
        return _note("No picture yet: samples/ holds none.")
    chosen = sorted({round(place) for place in np.linspace(0, len(paths) - 1, MOST_SAMPLES)})
    figures = []
    for path in (paths[place] for place in chosen):
        step, _ = order(path)
        caption = f"Step {step:,}" if step >= 0 else path.name
        figures.append(f"<figure><figcaption>{escape(caption)}</figcaption>{_picture(path, caption)}</figure>")
    note = _note(f"{len(chosen)} of {len(paths)} pictures, drawn by the averaged generator, from the same seeds each time.")
    return f'{note}<div class="cards pictures">{"".join(figures)}</div>'


def _picture(path, caption):
    """The <img> of a PNG file, as it is or shrunk to MOST_SIDE, or why it was left out."""
    try:
        if path.stat().st_size > MOST_BYTES:
            return _note(f"Left out: larger than {MOST_BYTES >> 20} MiB.")
        data = path.read_bytes()
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            width, height = image.size
            if width * height > MOST_PIXELS:
                return _note(f"Left out: {width} x {height} pixels.")
            image.load()
            kind = "png"
            if max(width, height) > MOST_SIDE:
                image, kind, stream = image.convert("RGB"), "jpeg", io.BytesIO()
                image.thumbnail((MOST_SIDE, MOST_SIDE), Image.Resampling.LANCZOS)
                image.save(stream, "JPEG", quality=90)
                data = stream.getvalue()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return _note(f"Left out: cannot be read as PNG ({type(error).__name__}).")
    small = ' class="small"' if max(width, height) <= 256 else ""
    return f'<img{small} alt="Samples, {escape(caption)}" src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'


def _scores(rows):
    if not rows:
        return _note("None given. `ddgan eval --model RUN --json > scores.json` makes them, and --scores scores.json shows them here.")
    names = list(dict.fromkeys(name for row in rows for name in row))
    return table(names, [[row.get(name) for name in names] for row in rows])


def _settings(config):
    """Tables: first what differs from the preset of the config's name, or from the defaults, then the rest."""
    known = PRESETS.get(config.name)
    values, usual = to_dict(config), to_dict(known or Config())
    del values["name"]
    source = f"preset {config.name}" if known else "defaults"
    differs = [(name, value, usual[name]) for name, value in values.items() if value != usual[name]]
    same = [(name, value) for name, value in values.items() if value == usual[name]]
    first = table(["setting", "here", source], differs) if differs else _note(f"All as in the {source}.")
    unknown = "" if known else _note(f"No preset is called {config.name}; compared with the defaults of all settings.")
    return f"{unknown}{first}<details><summary>{len(same)} settings as in the {escape(source)}</summary>{table(['', ''], same)}</details>"


def _environment(path):
    """A table for each part of env.json."""
    try:
        found = read_json(path)
    except DDGANError as error:
        return _note(str(error))
    parts = [
        f"<h3>{escape(str(name))}</h3>{table(['', ''], part.items() if isinstance(part, dict) else [('', part)])}"
        for name, part in found.items()
    ]
    return f'<div class="columns">{"".join(f"<div>{part}</div>" for part in parts)}</div>'


def _curves(metrics):
    """Figures of PLOTS for what was recorded."""
    if not metrics.curves:
        return _note("No line could be read from metrics.jsonl yet: a run writes one every log_every steps.")
    figures = []
    for title, log, names in PLOTS:
        curves = _named(metrics.curves, names)
        if curves:
            svg = draw(title, curves, metrics.step, log)
            figures.append(f"<figure><figcaption>{escape(title)}</figcaption>{svg}</figure>")
    notes = [f"Against training steps; {metrics.lines:,} lines of metrics.jsonl."]
    notes += [f"A point is the mean of {metrics.width} lines."] * (metrics.width > 1)
    notes += [f"{metrics.unreadable} could not be read, as the one that is just being written."] * (metrics.unreadable > 0)
    notes += [f"{metrics.not_finite} values are NaN or infinite and not drawn."] * (metrics.not_finite > 0)
    return f'{_note(" ".join(notes))}<div class="cards">{"".join(figures)}</div>'


def _named(curves, names):
    """[(label, curve)] of those recorded; of curves by t at most SHOWN_T."""
    found = [(label, curves[name]) for name, label in names.items() if name in curves]
    for name, label in names.items():
        times = sorted(key[1] for key in curves if isinstance(key, tuple) and key[0] == name)
        shown_t = sorted({round(place) for place in np.linspace(0, len(times) - 1, SHOWN_T)}) if times else []
        found += [(f"{label}{times[place]}", curves[name, times[place]]) for place in shown_t]
    return found
