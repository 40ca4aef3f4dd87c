"""`ddgan report`: what the page says, that it is whole, needs nothing else, and lets no text of a run act as HTML."""

import base64
import io
import json
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from ddgan_fast.cli_report import Report
from ddgan_fast.config import override, preset
from ddgan_fast.config_file import write_yaml
from ddgan_fast.errors import CheckpointError, InputError, MissingError, ResourceError
from ddgan_fast.report import page_of, write_report
from ddgan_fast.report.metrics import MOST_POINTS, read_metrics
from ddgan_fast.report.page import MOST_SAMPLES, MOST_SIDE

HOSTILE = "<script>alert('\"x&amp;')</script>"
NAMES = ("d_loss", "d_loss_t", "r1")


def a_line(step, **changes):
    line = {"step": step, "images_seen": step * 8, "d_loss": 1.4 - step / 100, "d_loss_t": [1.3, 1.2, 1.1, None], "g_loss": 0.7}
    line |= {"r1": None, "d_gradient_norm": 0.2, "g_gradient_norm": 10.0**step, "skipped": 0, "lr_g": 1e-4, "lr_d": 2e-4}
    return json.dumps(line | {"images_per_s": 80.0, "data_wait_percent": 0.5, "peak_memory_mb": 500.0 + step} | changes) + "\n"


def write_run(out, lines, name="tiny", **settings):
    """A folder like that of `ddgan train`."""
    (out / "samples").mkdir(parents=True)
    for step in (3, 7):
        (out / f"checkpoints/checkpoint-{step:08d}").mkdir(parents=True)
        Image.fromarray(np.full((40, 30), step, np.uint8)).save(out / f"samples/step-{step:08d}.png")
    write_yaml(out / "config.yaml", override(preset("tiny"), {"name": name, **settings}))
    (out / "env.json").write_text(json.dumps({"versions": {"torch": "9.9"}, "devices": {"cuda": "H900"}, "note": [1, 2]}))
    (out / "metrics.jsonl").write_text("".join(lines))
    return out


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run", map(a_line, range(1, 8)))


class Elements(HTMLParser):
    """Every start tag with its attributes; all tags must be closed in order."""

    VOID = {"meta", "img", "br", "hr"}

    def __init__(self, text):
        super().__init__()
        self.found, self.open = [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def pictures(text):
    """The decoded <img> of a page, in order."""
    sources = [attributes["src"] for tag, attributes in Elements(text).found if tag == "img"]
    return [Image.open(io.BytesIO(base64.b64decode(source.partition("base64,")[2]))) for source in sources]


def test_the_page_says_what_the_run_is(run, tmp_path):
    (tmp_path / "scores.json").write_text(json.dumps({"model": "m", "FID": 3.75, "recall": float("nan")}))
    text = page_of(run, [tmp_path / "scores.json"])
    for title in ("Training", "Samples", "Scores", "Speed", "Settings", "Machine and versions"):
        assert f"<h2>{title}</h2>" in text
    assert "Step 7 of 8 (87.5 %); checkpoints of steps 3, 7." in text and "8 x 8 x 1 images in 4 steps, trained on digits" in text
    for title in ("Losses", "D loss for each t", "R1", "Gradient norms", "Learning rates", "Images per second", "Waiting for data"):
        assert (f'aria-label="{title}' in text) == (title != "R1")  # of R1 no line has a value
    assert [len(re.findall(f"> *{label} *</text>", text)) for label in ("D, without R1", "D", "G")] == [1, 2, 3]  # of legends
    assert text.count("<svg") == 6 and all(f"t = {t}</text>" in text for t in range(3)) and "t = 3" not in text
    assert "Step 3</figcaption>" in text and [np.asarray(image)[0, 0] for image in pictures(text)] == [3, 7]
    assert "<th>FID</th>" in text and "<td>3.75</td>" in text and "<td>nan</td>" in text and "<td>scores.json</td>" in text
    assert "median 80" in text and "507 MB" in text and f"{7 * 8 / 80 / 3600:,.3g}" in text
    assert "<td>torch</td><td>9.9</td>" in text and "H900" in text and "[1, 2]" in text and "All as in the preset tiny." in text


def test_settings_that_differ_come_first(tmp_path):
    text = page_of(write_run(tmp_path / "run", [], lr_g=0.5))
    assert "<td>lr_g</td><td>0.5</td><td>0.00016</td>" in text and "All as in" not in text
    assert text.index("<td>lr_g</td>") < text.index("<details>") < text.index("<td>lr_d</td>")
    text = page_of(write_run(tmp_path / "other", [], name="mine"))
    assert "No preset is called mine" in text and "<td>resolution</td><td>8</td><td>32</td>" in text


def test_the_page_needs_nothing_else_and_runs_nothing(run):
    text = page_of(run)
    assert not re.search(r"https?:|//[a-z]|@import|javascript:", re.sub(r"base64,[^\"]*", "", text))
    for tag, attributes in Elements(text).found:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base", "form", "foreignobject")
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "xlink:href", "srcset", "data", "action"):
            assert attributes.get(name, "#").startswith(("#", "data:image/"))
    assert all(address.startswith("#") for address in re.findall(r"url\(([^)]*)\)", text))


def test_names_are_never_html(tmp_path):
    run = write_run(tmp_path / "<img src=x onerror=alert(1)>", [a_line(1, **{HOSTILE: 1.0})], name=HOSTILE, data=HOSTILE)
    (run / "samples" / "step-<b onclick=x>.png").write_bytes((run / "samples/step-00000003.png").read_bytes())
    (run / "env.json").write_text(json.dumps({HOSTILE: {HOSTILE: HOSTILE}, "a": HOSTILE, "b": [{HOSTILE: HOSTILE}]}))
    scores = tmp_path / "<i>.json"
    scores.write_text(json.dumps([{HOSTILE: HOSTILE}, {"x": [HOSTILE]}]))
    text = page_of(run, [scores])
    tags = {tag for tag, _ in Elements(text).found}
    assert not tags & {"script", "b", "i"} and len(pictures(text)) == 3
    assert "&lt;b onclick=x&gt;" in text and "&lt;i&gt;.json" in text and "&lt;img src=x" in text and "&lt;script&gt;" in text


def test_a_run_that_still_writes_or_has_nothing_yet(run):
    whole = page_of(run)
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 8, "d_lo')
    assert (
        page_of(run).replace(
            "8 lines of metrics.jsonl. 1 could not be read, as the one that is just being written.", "7 lines of metrics.jsonl."
        )
        == whole
    )
    for path in (run / "metrics.jsonl", run / "env.json", *run.glob("samples/*")):
        path.unlink()
    (run / "samples").rmdir()
    text = page_of(run)
    assert "No line could be read" in text and "No picture yet" in text and "env.json: cannot be read" in text and "<svg" not in text


@pytest.mark.parametrize(
    "line", ["null", "[]", "7", '{"step": null}', '{"step": "x"}', "{}", "\x00", "\xff", "[" * 100_000, '{"step": NaN}']
)
def test_lines_that_are_none_of_ours(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text(a_line(1) + line + "\n" + a_line(2, d_loss={}, r1="high", d_loss_t=[True, "x", 10**400]), encoding="latin-1")
    found = read_metrics(path, NAMES)
    assert (found.lines, found.unreadable, found.step) == (3, 1, 2)
    assert found.curves["d_loss"].tolist() == [[1, 1.39]] and sorted(found.curves, key=str) == [("d_loss_t", t) for t in range(3)] + [
        "d_loss"
    ]


def test_values_that_are_not_finite_are_counted_and_not_drawn(tmp_path):
    nan, infinite = float("nan"), float("inf")
    run = write_run(tmp_path / "run", [a_line(1, g_loss=nan, d_loss=infinite, d_loss_t=[nan, 1.0], images_per_s=nan, skipped=3), a_line(2)])
    text = page_of(run)
    assert "4 values are NaN or infinite and not drawn." in text and "were not finite</td><td>3</td>" in text


def test_a_long_file_is_thinned_to_means(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(f'{{"step": {step}, "d_loss": {step % 2}, "d_loss_t": [{step}], "skipped": 1}}\n' for step in range(1, 10_001)))
    found = read_metrics(path, NAMES)
    assert found.width == 5 and found.step == 10_000 and len(found.curves["d_loss"]) == MOST_POINTS
    assert found.curves["d_loss"][:2].tolist() == [[3.0, 0.6], [8.0, 0.4]]  # steps 1 to 5, 6 to 10
    assert found.curves["d_loss_t", 0][-1].tolist() == [9998.0, 9998.0]
    monkeypatch.setattr("ddgan_fast.report.metrics.MOST_LINES", 3000)
    found = read_metrics(path, NAMES)  # every fourth line
    assert found.lines == found.skipped == 10_000 and found.width == 8 and len(found.curves["d_loss"]) == 1250
    assert found.curves["d_loss"][0].tolist() == [3.0, 1.0]  # steps 1 and 5


def test_equal_files_give_equal_pages(run, tmp_path):
    write_report(run, tmp_path / "new/a.html")
    first = (tmp_path / "new/a.html").read_bytes()
    assert first.decode() == page_of(run)
    write_report(run, tmp_path / "new/a.html")
    assert (tmp_path / "new/a.html").read_bytes() == first
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.html"]


def test_first_last_and_some_pictures_between_and_none_too_large(run, monkeypatch):
    for step in range(10, 40):
        Image.fromarray(np.full((300, 20), step, np.uint8)).save(run / f"samples/step-{step}.png")
    Image.fromarray(np.zeros((MOST_SIDE, 2 * MOST_SIDE, 3), np.uint8)).save(run / "samples/step-99.png")
    text = page_of(run)
    found = pictures(text)
    assert len(found) == MOST_SAMPLES and found[0].size == (30, 40) and f"{MOST_SAMPLES} of 33 pictures" in text
    assert found[-1].size == (MOST_SIDE, MOST_SIDE // 2) and found[-1].format == "JPEG"
    assert text.count('class="small"') == 1  # a larger one is not enlarged
    monkeypatch.setattr("ddgan_fast.report.page.MOST_PIXELS", MOST_SIDE**2)
    assert "Left out: 2048 x 1024 pixels." in page_of(run)
    monkeypatch.setattr("ddgan_fast.report.page.MOST_BYTES", 10)
    assert not pictures(page_of(run)) and "Left out: larger than" in page_of(run)


@pytest.mark.parametrize("damage", [lambda data: data[:60], lambda data: b"", lambda data: b"<svg onload='x'/>", lambda data: data[:33]])
def test_a_broken_picture_is_left_out(run, damage):
    path = run / "samples/step-00000007.png"
    path.write_bytes(damage(path.read_bytes()))
    text = page_of(run)
    assert "Left out: cannot be read as PNG" in text and len(pictures(text)) == 1


def test_many_t_are_thinned_too(tmp_path):
    text = page_of(write_run(tmp_path / "run", [a_line(1, d_loss_t=[1.0] * 1000)]))
    assert len(re.findall(r"t = \d+</text>", text)) == 8 and "t = 0</text>" in text and "t = 999</text>" in text


def test_what_is_no_run(tmp_path, run):
    with pytest.raises(InputError, match="no such folder"):
        page_of(tmp_path / "none")
    with pytest.raises(InputError, match="no such folder"):
        page_of(run / "config.yaml")
    with pytest.raises(CheckpointError, match=r"it has no config.yaml \(beside metrics.jsonl"):
        page_of(tmp_path)
    (run / "config.yaml").write_text("name: tiny\nlr_q: 1\n")
    with pytest.raises(InputError, match="config.yaml:2: unknown setting 'lr_q'"):
        page_of(run)


@pytest.mark.parametrize("text", ["", "FID 3", "[]", "[1]", "3", "[" * 100_000, " " * (1 << 20) + "{}"])
def test_what_is_no_file_of_scores(tmp_path, run, text):
    (tmp_path / "scores.json").write_text(text)
    with pytest.raises(InputError, match="scores.json: (cannot be read as JSON|must hold the object)"):
        page_of(run, [tmp_path / "scores.json"])
    with pytest.raises(InputError, match="none.json: cannot be read"):
        page_of(run, [tmp_path / "none.json"])


def test_where_a_page_cannot_be_written(run, tmp_path):
    with pytest.raises(InputError, match="--out names the page's file"):
        write_report(run, tmp_path)
    with pytest.raises(ResourceError, match="cannot be written"):
        write_report(run, run / "config.yaml" / "page.html")


def test_without_matplotlib(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingError, match=r'pip install "ddgan_fast\[plots\]"'):
        page_of(run)


def test_the_command(run, tmp_path, capsys):
    Report(run, tmp_path / "page.html").run()
    assert "page.html" in capsys.readouterr().out and (tmp_path / "page.html").read_text().startswith("<!DOCTYPE html>")
