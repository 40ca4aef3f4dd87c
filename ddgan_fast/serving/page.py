"""The demo page of `ddgan demo`: draw samples, watch the steps of one, edit strokes painted on a canvas. Needs gradio.

What the buttons do is in serving.demo. One client at a time has the model.
"""

import os

from ddgan_fast.errors import DDGANError, InputError, MissingError
from ddgan_fast.sampling.edit import steps_of
from ddgan_fast.serving import canvas, demo, tiles
from ddgan_fast.serving.bodies import Bodies

MOST_VARIANTS = 16  # of an edit, which is drawn anew with every stroke
MOST_WAITING = 32  # clicks in the queue of the model
MOST_BODY = 4_000_000  # bytes of a request; a photo of 256 x 256 and two pictures of that size are 1.1 million at most
TAKEN = ("/queue/join", "/cancel", "/reset")  # what the browser posts
BODIES = {"most": MOST_BODY, "seconds": 30.0, "total": 10 * MOST_BODY}  # what clients may make it hold, and for how long
EMPTY = '<p class="note">Paint on the canvas, or open a photo: variants of it appear here.</p>'


class QueueOnly:
    """ASGI: refuses whatever gradio would take besides clicks, as files, recordings and calls past the queue."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD") or scope["path"].rstrip("/").endswith(TAKEN):
            await self.app(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 403, "headers": [(b"connection", b"close")]})
        await send({"type": "http.response.body", "body": b"this page takes clicks alone"})


def open_gradio():
    """The package gradio, told to report nothing. Raises MissingError where it is not installed."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ImportError as error:
        raise MissingError(f'gradio is not installed ({error}): pip install "ddgan_fast[demo]"') from error
    return gradio


def _answers(gradio, function):
    """The function with our errors as messages on the page."""

    def answer(*values):
        try:
            return function(*values)
        except DDGANError as error:
            raise gradio.Error(str(error), print_exception=False) from error

    return answer


def build(pipe, name, card=""):
    """The page, a gradio.Blocks.

    pipe: DDGANPipeline of a model of images.  name: shown as the title.  card: Markdown shown under About.
    Raises MissingError without gradio, InputError for a model of points.
    """
    gradio = open_gradio()
    facts = demo.measure(pipe)
    model = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}  # CUDA graphs are for one caller at a time
    with gradio.Blocks(title=f"{name} - ddgan demo", analytics_enabled=False) as page:
        gradio.Markdown(f"# {name}\nA Denoising Diffusion GAN: {pipe.config.diffusion.steps} network evaluations per image.")
        with gradio.Tab("Sample"):
            _sample_tab(gradio, pipe, facts, model)
        with gradio.Tab("Edit"):
            _edit_tab(gradio, pipe, facts, model)
        with gradio.Tab("About"):
            gradio.Markdown(demo.about(pipe, name, facts, card))
    return page.queue(max_size=MOST_WAITING, api_open=False)


def _numbers(gradio, label, most, start):
    """The controls for the number of images and the first seed."""
    with gradio.Row():
        count = gradio.Slider(1, most, min(start, most), step=1, label=label)
        seed = gradio.Textbox("0", label="First seed", info="A seed names an image.", max_lines=1, max_length=19)
    return count, seed


def _sample_tab(gradio, pipe, facts, model):
    count, seed = _numbers(gradio, "Number of images", facts.most_images, 16)
    button = gradio.Button("Draw", variant="primary")
    images = gradio.HTML(css_template=tiles.CSS, elem_id="samples", min_height=120)
    steps = gradio.HTML(css_template=tiles.CSS, elem_id="film")
    draw = _answers(gradio, lambda count, seed: demo.sample(pipe, count, seed, facts.most_images))
    gradio.on([button.click, seed.submit], draw, [count, seed], [images, steps], trigger_mode="once", **model)


def _edit_tab(gradio, pipe, facts, model):
    """Canvas, then variants, then controls, so that on a phone the variants are next to the canvas."""
    steps, shape, most = pipe.config.diffusion.steps, pipe.config.model, min(MOST_VARIANTS, facts.most_images)
    start, masked = steps_of(0.5, steps) / steps, pipe.config.diffusion.prediction == "x0"
    html = canvas.template(shape.resolution, facts.background, shape.image_channels == 1)
    with gradio.Row():
        with gradio.Column():
            drawing = gradio.HTML(html_template=html, css_template=canvas.CSS, js_on_load=canvas.JS, elem_id="canvas")
            flat = gradio.Button("Make strokes of the photo")
        with gradio.Column():
            variants = gradio.HTML(EMPTY, css_template=tiles.CSS, elem_id="variants", min_height=180)
            strength = gradio.Slider(0, 1, start, step=1 / steps, label="Strength", info="0 keeps the picture, 1 forgets it.")
            meaning = gradio.Markdown(demo.steps_text(pipe, start))
            count, seed = _numbers(gradio, "Number of variants", most, 4)
            only_painted = gradio.Checkbox(label="Change only where I painted", visible=masked)
            button = gradio.Button("Draw variants", variant="primary")
    draw = _answers(gradio, lambda *values: demo.edit(pipe, *values, most=most))
    events = [button.click, seed.submit, drawing.input, strength.release, count.release, only_painted.input]
    values = [drawing, strength, count, seed, only_painted]
    gradio.on(events, draw, values, variants, trigger_mode="always_last", show_progress="minimal", **model)
    flat.click(_answers(gradio, demo.strokes), drawing, drawing, trigger_mode="once", show_progress="minimal", **model)
    explain = _answers(gradio, lambda strength: demo.steps_text(pipe, strength))
    strength.change(explain, strength, meaning, trigger_mode="always_last", show_progress="hidden", api_visibility="private")


def launch(pipe, name, host="127.0.0.1", port=7860, card=""):
    """Serve the page from threads; the running gradio.Blocks, whose `close()` ends it.

    host: another one than 127.0.0.1 opens the page to the network, without a password.  Arguments and errors else as of `build`;
    raises InputError for a port that is not 1 to 65535 or is taken.
    """
    if not 1 <= port <= 65535:
        raise InputError(f"--port {port}: it must be 1 to 65535")
    page, gradio = build(pipe, name, card), open_gradio()
    from starlette.middleware import Middleware

    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}  # of the machine: nothing is fetched
    try:
        page.launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            ssr_mode=False,
            max_file_size=MOST_BODY,
            enable_monitoring=False,
            run_history=False,
            footer_links=[],
            theme=gradio.themes.Default(**fonts),
            app_kwargs={"middleware": [Middleware(QueueOnly), Middleware(Bodies, **BODIES)]},
        )
    except OSError as error:
        raise InputError(f"--host {host} --port {port}: cannot be opened ({error})") from error
    return page
