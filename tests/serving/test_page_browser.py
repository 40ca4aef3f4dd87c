"""The demo page in a browser, as a desktop and as a phone shows it: paint, draw, open a photo, read what was refused."""

import os
import shutil
import socket
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

gradio = pytest.importorskip("gradio", reason='needs pip install "ddgan_fast[demo]"')
playwright = pytest.importorskip("playwright.sync_api", reason="needs pip install playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")]
WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}


@pytest.fixture(scope="module")
def address(make):
    from ddgan_fast.serving import page

    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        port = opened.getsockname()[1]
    running = page.launch(make(image_channels=3, resolution=16), "tiny", port=port, card="# Card\nOf a test.\n")
    yield f"http://127.0.0.1:{port}"
    running.close()


@pytest.fixture(scope="module")
def chromium():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(params=list(WIDTHS))
def tab(request, chromium, address):
    """A page that is open, and must neither complain nor ask another host; `tab.kind` names its width."""
    width, height = WIDTHS[request.param]
    context = chromium.new_context(viewport={"width": width, "height": height})
    opened, complaints = context.new_page(), []
    opened.set_default_timeout(60_000)
    opened.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("request", lambda asked: None if asked.url.startswith((address, "data:", "blob:")) else complaints.append(asked.url))
    opened.goto(address)
    opened.kind = request.param
    yield opened
    context.close()
    assert not complaints


def shot(tab, name, tmp_path):
    folder = Path(os.environ.get("DDGAN_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    tab.screenshot(path=folder / f"{name}-{tab.kind}.png", full_page=True)


def paint(tab, *points):
    """Draw a line through points in [0, 1] of the canvas with the mouse."""
    canvas = tab.locator("#canvas canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    tab.mouse.move(*places[0])
    tab.mouse.down()
    for place in places[1:]:
        tab.mouse.move(*place, steps=4)
    tab.mouse.up()


def pixels(tab):
    """The canvas as the browser has it, [16, 16, 3]."""
    values = tab.evaluate("Array.from(document.querySelector('#canvas canvas').getContext('2d').getImageData(0, 0, 16, 16).data)")
    return np.array(values).reshape(16, 16, 4)[:, :, :3]


def variants(tab):
    return tab.eval_on_selector_all("#variants img", "found => found.map(image => image.src)")


@contextmanager
def redraw(tab, count=5):
    """Waits after the block for other variants, `count` pictures with the given one."""
    before = variants(tab)
    yield
    script = """([before, count]) => {
      const now = [...document.querySelectorAll('#variants img')].map(image => image.src);
      return now.length === count && now.join() !== before.join();
    }"""
    tab.wait_for_function(script, arg=[before, count])


def test_sample(tab, tmp_path):
    tab.get_by_label("First seed").first.fill("5")
    tab.get_by_role("button", name="Draw", exact=True).click()
    tab.wait_for_selector("#film img")
    assert tab.locator("#samples img").count() == 16 and tab.locator("#film img").count() == 9
    assert tab.locator("#samples figcaption").first.inner_text() == "seed 5"
    shot(tab, "sample", tmp_path)
    wide = tab.locator("#samples img").first.bounding_box()["width"]
    assert wide >= 80 and tab.evaluate("document.documentElement.scrollWidth") <= WIDTHS[tab.kind][0]
    assert tab.eval_on_selector("#samples img", "image => getComputedStyle(image).imageRendering") == "pixelated"
    tab.get_by_label("First seed").first.fill("x")
    tab.get_by_role("button", name="Draw", exact=True).click()
    tab.get_by_text("seed: it must be a whole number").wait_for()


def test_edit(tab, tmp_path):
    tab.get_by_role("tab", name="Edit").click()
    empty = pixels(tab)
    with redraw(tab):
        paint(tab, (0.3, 0.2), (0.7, 0.2), (0.4, 0.9))
    painted, first = pixels(tab), variants(tab)
    assert (painted != empty).any(2).sum() > 8
    with redraw(tab):
        paint(tab, (0.1, 0.5), (0.9, 0.5))
    shot(tab, "edit", tmp_path)
    with redraw(tab):
        tab.get_by_role("button", name="Undo").click()
    assert np.array_equal(pixels(tab), painted) and variants(tab) == first
    with redraw(tab):
        tab.get_by_label("Change only where I painted").check()
    with redraw(tab):
        tab.get_by_role("spinbutton", name="Strength").fill("1")
        tab.get_by_role("button", name="Draw variants").click()
    tab.get_by_text("Strength 1: k = 4 of 4 steps, NFE 4.").wait_for()
    assert tab.evaluate("document.documentElement.scrollWidth") <= WIDTHS[tab.kind][0]
    tab.get_by_role("tab", name="Sample").click()
    tab.get_by_role("tab", name="Edit").click()
    assert np.array_equal(pixels(tab), painted)  # it outlives a visit to another tab


def test_photo(tab, tmp_path):
    photo = np.zeros((60, 90, 3), np.uint8)
    photo[:, :45], photo[:, 45:] = (200, 30, 30), (30, 30, 200)
    photo[20:40, 30:60] = np.random.default_rng(0).integers(0, 256, (20, 30, 3))  # strokes have none of it
    Image.fromarray(photo).save(tmp_path / "photo.png")
    tab.get_by_role("tab", name="Edit").click()
    with redraw(tab):
        tab.locator("#canvas input[type=file]").set_input_files(tmp_path / "photo.png")
    assert abs(pixels(tab)[:4, :7] - [200, 30, 30]).max() < 8 and abs(pixels(tab)[:4, 9:] - [30, 30, 200]).max() < 8
    with redraw(tab):
        tab.get_by_role("button", name="Clear").click()
    with redraw(tab):
        tab.get_by_role("button", name="Undo").click()
    colors = len(np.unique(pixels(tab).reshape(-1, 3), axis=0))
    with redraw(tab):
        tab.get_by_role("button", name="Make strokes of the photo").click()
    shot(tab, "photo", tmp_path)
    assert abs(pixels(tab)[:4, :6] - [200, 30, 30]).max() < 8 and len(np.unique(pixels(tab).reshape(-1, 3), axis=0)) < colors


def test_about(tab, tmp_path):
    tab.get_by_role("tab", name="About").click()
    tab.get_by_text("Of a test.").wait_for()
    shot(tab, "about", tmp_path)
    assert "ms, measured at the start" in tab.locator("table").inner_text()
