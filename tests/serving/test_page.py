"""The demo page without a browser: what its buttons do, what they refuse, and what its server refuses."""

import base64
import io
import json
import re
import socket
import sys

import numpy as np
import pytest
from PIL import Image

from ddgan_fast.errors import DDGANError, InputError, MissingError
from ddgan_fast.serving import canvas, demo, page, tiles

PNG = re.compile(r'src="data:image/png;base64,([^"]+)"')


def images_in(html):
    """uint8 arrays of all pictures in HTML."""
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for data in PNG.findall(html)]


def drawing(side=8, color="white", **more):
    """What the canvas sends: a square of one colour in the middle of black."""
    image, painted = Image.new("RGB", (side, side)), Image.new("RGB", (side, side))
    box = (side // 4, side // 4, side // 2, side // 2)
    image.paste(color, box)
    painted.paste("white", box)
    return {"picture": canvas.picture_url(image), "painted": canvas.picture_url(painted), "photo": None} | more


@pytest.fixture(scope="module")
def gray(make):
    return make()


@pytest.fixture(scope="module")
def rgb(make):
    return make(image_channels=3, resolution=16, steps=3)


@pytest.mark.parametrize("kind", ["gray", "rgb"])
def test_sample_shows_what_the_seeds_name(kind, request):
    pipe = request.getfixturevalue(kind)
    samples, steps = demo.sample(pipe, 3, "7")
    want = pipe(3, 7, output_type="uint8").images
    assert np.array_equal(images_in(samples), want.squeeze(3) if kind == "gray" else want)
    assert re.findall("<figcaption>(.*?)</figcaption>", samples) == ["seed 7", "seed 8", "seed 9"]
    count = pipe.config.diffusion.steps
    assert len(images_in(steps)) == 2 * count + 1 and f"NFE {count}" in samples
    assert f"x_{count}</figcaption>" in steps and "x0 from x_1</figcaption>" in steps and "x_0</figcaption>" in steps


@pytest.mark.parametrize("prediction", ["noise", "x_t"])
def test_the_film_says_what_the_network_predicts(make, prediction):
    assert f"{prediction} from x_4</figcaption>" in demo.film_of(make(prediction=prediction, tanh=False), 0)


@pytest.mark.parametrize(
    "count, seed",
    [(0, "0"), (65, "0"), (2.5, "0"), (float("nan"), "0"), ("3", "0"), (None, "0"), ([1], "0"), (1, "-1"), (1, ""), (1, "1e3"), (1, "0-9"),
     (1, 5), (1, None), (1, str(2**63)), (2, str(2**63 - 1)), (1, "9" * 5000), (1, "٣")],
)  # fmt: skip
def test_wrong_numbers_are_refused(gray, count, seed):
    for act in (lambda: demo.sample(gray, count, seed), lambda: demo.edit(gray, drawing(), 0.5, count, seed)):
        with pytest.raises(InputError, match="must be"):
            act()


def test_the_last_seed_and_numbers_of_a_slider_are_taken(gray):
    assert demo.read_request(1, str(2**63 - 1), 64) == (1, 2**63 - 1)
    assert demo.read_request(4.0, " 12 ", 64) == (4, 12)


@pytest.mark.parametrize("kind, side", [("gray", 8), ("rgb", 16)])
def test_edit_shows_the_picture_and_its_variants(kind, side, request):
    pipe = request.getfixturevalue(kind)
    shown = images_in(demo.edit(pipe, drawing(side), 0.5, 2, "3"))
    picture = Image.open(io.BytesIO(base64.b64decode(drawing(side)["picture"][len(canvas.PREFIX) :])))
    assert np.array_equal(shown[0], np.asarray(picture.convert("L" if kind == "gray" else "RGB")))
    assert np.array_equal(shown[1:], [np.asarray(image) for image in pipe.edit(picture, 0.5, None, 2, 3).images])


def test_only_what_was_painted_changes(gray):
    given, *variants = images_in(demo.edit(gray, drawing(), 1, 2, "0", True))
    rest = np.ones((8, 8), bool)
    rest[2:4, 2:4] = False
    for variant in variants:
        assert np.array_equal(variant[rest], given[rest]) and not np.array_equal(variant, given)
    nothing = canvas.picture_url(Image.new("RGB", (8, 8)))
    with pytest.raises(InputError, match="nothing is painted"):
        demo.edit(gray, drawing(painted=nothing), 1, 2, "0", True)


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan"), "1", None])
def test_a_wrong_strength_is_refused(gray, strength):
    with pytest.raises(InputError, match="strength"):
        demo.edit(gray, drawing(), strength, 1, "0")


def test_a_strength_in_words(gray, rgb):
    assert demo.steps_text(gray, 0.5) == "Strength 0.5: k = 2 of 4 steps, NFE 2."
    assert demo.steps_text(rgb, 2 / 3) == "Strength 0.67: k = 2 of 3 steps, NFE 2."


def large_png():
    file = io.BytesIO()
    Image.new("1", (20000, 20000)).save(file, format="PNG")  # 50 kB, and 1.2 GB as RGB
    return canvas.PREFIX + base64.b64encode(file.getvalue()).decode()


def jpeg():
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, format="JPEG")
    return canvas.PREFIX + base64.b64encode(file.getvalue()).decode()


@pytest.mark.parametrize(
    "sent",
    [None, "text", 3, [], {}, {"picture": None}, {"picture": "/etc/passwd"}, {"picture": "http://127.0.0.1/a.png"}, {"picture": ["x"]},
     {"picture": canvas.PREFIX + "%%"}, {"picture": canvas.PREFIX + "AAAA"}, {"picture": canvas.PREFIX}, {"picture": drawing()["picture"][:90]},
     {"picture": large_png()}, {"picture": jpeg()}],
    ids=lambda sent: str(sent)[:40],
)  # fmt: skip
def test_a_wrong_picture_is_refused(gray, sent):
    with pytest.raises(InputError):
        demo.edit(gray, sent, 0.5, 1, "0")


def test_strokes_of_a_photo():
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    flat = canvas.read_picture(demo.strokes(drawing(photo=canvas.picture_url(photo))), "strokes")
    assert flat.size == (64, 64) and len(flat.getcolors()) <= 6
    with pytest.raises(InputError, match="no photo"):
        demo.strokes(drawing())


def test_about_has_the_numbers_and_the_card(gray):
    facts = demo.measure(gray)
    text = demo.about(gray, "a|b", facts, "---\ntags: [x]\n---\n# Card\n")
    count = sum(p.numel() for p in gray.generator.parameters())
    assert "| Model | a b |" in text and f"{count:,}" in text and "(NFE) | 4 |" in text and "eager, fp32" in text
    assert text.endswith("# Card\n") and "tags" not in text
    assert facts.ms_per_image > 0 and facts.most_images == 64 and re.fullmatch("#[0-9a-f]{6}", facts.background)


def test_a_slow_model_draws_fewer_images_a_click(gray, monkeypatch):
    monkeypatch.setattr(demo, "MOST_SECONDS", 1e-9)
    assert demo.measure(gray).most_images == demo.LEAST_IMAGES


def test_captions_are_no_html():
    assert "<b>" not in tiles.tiles(np.zeros((1, 8, 8, 1), np.uint8), ["<b>"], "<b>")


@pytest.mark.parametrize("side, shown", [(8, 128), (32, 128), (48, 144), (256, 256)])
def test_small_images_are_shown_large(side, shown):
    assert tiles.shown_side(side) == shown


def test_points_are_refused(make):
    with pytest.raises(InputError, match="points"):
        demo.measure(make("gaussians25"))


def test_without_gradio_the_extra_is_named(gray, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(MissingError, match=r'pip install "ddgan_fast\[demo\]"'):
        page.build(gray, "tiny")


def test_a_wrong_port_is_refused(gray):
    for port in (0, -1, 65536):
        with pytest.raises(InputError, match="--port"):
            page.launch(gray, "tiny", port=port)


def free_port():
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


@pytest.fixture(scope="module")
def address(gray):
    pytest.importorskip("gradio", reason='needs pip install "ddgan_fast[demo]"')
    port = free_port()
    running = page.launch(gray, "tiny", port=port, card="# Card\n")
    yield f"http://127.0.0.1:{port}"
    running.close()


def answer(address, number, *values):
    """What the event of that number answers to values, as a browser asks for it."""
    import httpx

    body = {"data": values, "fn_index": number, "session_hash": "test"}
    assert httpx.post(f"{address}/gradio_api/queue/join", json=body).status_code == 200
    with httpx.stream("GET", f"{address}/gradio_api/queue/data?session_hash=test", timeout=30) as stream:
        for line in stream.iter_lines():
            message = json.loads(line.removeprefix("data: ") or "{}")
            if message.get("msg") == "process_completed":
                return message


def test_the_server_answers_and_says_what_is_wrong(address):
    """Events in their order: sample, edit, strokes, explain."""
    good = answer(address, 0, 2, "0")
    assert good["success"] and len(images_in(good["output"]["data"][0])) == 2
    wrong = answer(address, 1, drawing(picture="/etc/passwd"), 0.5, 1, "0", False)
    assert not wrong["success"] and "PNG picture" in wrong["output"]["error"]
    assert not answer(address, 0, 10**9, "0")["success"]


def test_the_server_takes_no_files_and_gives_none(address):
    import httpx

    assert httpx.post(f"{address}/gradio_api/upload", files={"files": b"x"}).status_code == 403
    assert httpx.post(f"{address}/gradio_api/queue/join", content=b"x" * (page.MOST_BODY + 1)).status_code == 413
    for path in ("/etc/passwd", "pyproject.toml", "http://127.0.0.1:1/a"):
        assert httpx.get(f"{address}/gradio_api/file={path}").status_code >= 400
    for path in ("run/predict", "call/predict", "process_recording", "component_server", "vibe-edit"):
        assert httpx.post(f"{address}/gradio_api/{path}", json={"data": [1, "0"], "fn_index": 0}).status_code == 403
    assert not httpx.get(f"{address}/config").json()["analytics_enabled"]


def test_nothing_on_the_page_comes_from_elsewhere(address):
    import httpx

    text = httpx.get(address).text + httpx.get(f"{address}/gradio_api/theme.css").text
    assert not re.findall(r"""(?:src=|href=|url\()["']?https?://(?!127\.0\.0\.1)""", text)


def test_a_taken_port_is_refused(address, gray):
    with pytest.raises(InputError, match="cannot be opened"):
        page.launch(gray, "tiny", port=int(address.rpartition(":")[2]))


def test_the_command_says_what_is_missing_before_it_reads_the_model(tmp_path, monkeypatch):
    from ddgan_fast.cli_demo import Demo

    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(DDGANError, match="gradio"):
        Demo(model=tmp_path / "none").run()
