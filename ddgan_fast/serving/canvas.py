"""The canvas of the demo page, with as many pixels as the model's images, and what it sends: small PNG pictures as data URLs.

gradio's own editor keeps what clients send in memory until it is asked for, and takes paths and URLs from them; this one takes neither.
"""

import base64
import binascii
import io

from PIL import Image

from ddgan_fast.errors import InputError

PREFIX = "data:image/png;base64,"
PHOTO_SIDE = 256  # pixels of a photo's middle square, which the browser sends
MOST_SIDE = 1024  # of any picture; checked before it is decoded
GRAYS = ("#000000", "#404040", "#808080", "#c0c0c0", "#ffffff")
COLORS = (*GRAYS, "#c0392b", "#e08e45", "#f2d16b", "#3c8d40", "#2c6fbb", "#87bfe8", "#6b4226", "#e8b796")


def picture_url(image):
    """The data URL of a PIL image, as PNG."""
    file = io.BytesIO()
    image.save(file, format="PNG")
    return PREFIX + base64.b64encode(file.getvalue()).decode()


def read_picture(drawing, name):
    """The PIL image RGB under a name of what the canvas sent, or None where there is none.

    drawing: a dict of data URLs: picture [R, R], painted [R, R] (white where strokes are), photo; any object where the client is hostile.
    Raises InputError for anything but a PNG of at most MOST_SIDE pixels a side.
    """
    url = drawing.get(name) if isinstance(drawing, dict) else None
    if url is None:
        return None
    if not isinstance(url, str) or not url.startswith(PREFIX):
        raise InputError(f"{name}: it must be a PNG picture as a data URL")
    try:
        image = Image.open(io.BytesIO(base64.b64decode(url[len(PREFIX) :], validate=True)), formats=["PNG"])
        if max(image.size) > MOST_SIDE:
            raise InputError(f"{name}: {image.width} x {image.height} pixels; {MOST_SIDE} x {MOST_SIDE} is the most")
        return image.convert("RGB")
    except (binascii.Error, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # SyntaxError: a broken PNG chunk
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name}: not a PNG picture that can be read") from error


def template(side, background, gray):
    """The HTML of a canvas of side x side pixels.  background: of an empty one, #rrggbb.  gray: whether the model has no colours."""
    shown = side * max(1, round(320 / side))  # a whole multiple, so that all pixels of the canvas are equally large
    colors = dict.fromkeys((background, *(GRAYS if gray else COLORS)))
    swatches = "".join(f'<button class="swatch" data-color="{c}" style="background:{c}" title="paint {c}"></button>' for c in colors)
    own = "" if gray else '<label class="brush">Other <input type="color" class="own"></label>'
    ink, thickest, size = "#000000" if int(background[3:5], 16) > 127 else "#ffffff", max(2, side // 4), max(1, side // 10)
    return f"""
<div class="drawing" data-background="{background}" data-ink="{ink}" data-photo="{PHOTO_SIDE}">
<canvas width="{side}" height="{side}" style="width:{shown}px" aria-label="canvas of {side} x {side} pixels"></canvas>
<div class="tools">{swatches}{own}</div>
<div class="tools"><label class="brush">Brush <input type="range" class="size" min="1" max="{thickest}" value="{size}"></label></div>
<div class="tools"><button class="undo">Undo</button><button class="clear">Clear</button>
<label class="file">Open photo<input type="file" accept="image/*"></label></div>
</div>"""


CSS = """
.drawing canvas { display: block; max-width: 100%; aspect-ratio: 1; image-rendering: pixelated; touch-action: none; cursor: crosshair;
  border: 1px solid var(--border-color-primary); box-sizing: content-box; }
.tools { display: flex; flex-wrap: wrap; gap: 8px; align-items: center; margin-top: 8px; }
.tools button, .tools .file { min-height: 36px; padding: 0 12px; border: 1px solid var(--border-color-primary); border-radius: 6px;
  background: var(--button-secondary-background-fill); color: var(--body-text-color); cursor: pointer; display: inline-flex;
  align-items: center; font-size: 14px; font-weight: 400; margin: 0; }
.tools .swatch { width: 36px; padding: 0; }
.tools .swatch.chosen { outline: 3px solid var(--color-accent); outline-offset: 1px; }
.tools .own { width: 36px; height: 36px; padding: 0; border: 0; background: none; cursor: pointer; }
.tools .brush { display: inline-flex; align-items: center; gap: 8px; font-size: 14px; }
.tools .size { width: 200px; }
.tools .file:focus-within, .tools button:focus-visible { outline: 3px solid var(--color-accent); }
.tools .file input { position: absolute; opacity: 0; width: 1px; height: 1px; }
"""

# `element`, `props`, `trigger` and `watch` are gradio's; the event "input" says that someone changed the picture.
JS = """
const find = what => element.querySelector(what), side = find('canvas').width;
const box = find('.drawing'), background = box.dataset.background, photoSide = Number(box.dataset.photo);
const layer = canvas => canvas.getContext('2d', {willReadFrequently: true});
const sheet = size => Object.assign(document.createElement('canvas'), {width: size, height: size});
const picture = layer(find('canvas')), painted = layer(sheet(side));
let color = background, photo = null, past = [], last = null;

const state = () => [picture, painted].map(at => at.getImageData(0, 0, side, side)).concat(photo);
const remember = () => { past = past.slice(-30).concat([state()]); };
const send = tell => {
  props.value = {picture: picture.canvas.toDataURL(), painted: painted.canvas.toDataURL(), photo};
  if (tell) trigger('input');
};
const fill = (at, style) => { at.fillStyle = style; at.fillRect(0, 0, side, side); };
const show = image => { fill(picture, background); picture.drawImage(image, 0, 0, side, side); fill(painted, '#000000'); };
const choose = chosen => {
  color = chosen;
  element.querySelectorAll('.swatch').forEach(swatch => swatch.classList.toggle('chosen', swatch.dataset.color === color));
};
const stroke = (at, style, from, to) => {
  Object.assign(at, {strokeStyle: style, lineWidth: Number(find('.size').value), lineCap: 'round'});
  at.beginPath(); at.moveTo(...from); at.lineTo(...to); at.stroke();
};
const place = event => {
  const area = picture.canvas.getBoundingClientRect();
  return [(event.clientX - area.left) * side / area.width, (event.clientY - area.top) * side / area.height];
};
const move = event => {
  const here = place(event);
  [[picture, color], [painted, '#ffffff']].forEach(([at, style]) => stroke(at, style, last, here));
  last = here;
};
picture.canvas.addEventListener('pointerdown', event => {
  remember(); picture.canvas.setPointerCapture(event.pointerId); last = place(event); move(event);
});
picture.canvas.addEventListener('pointermove', event => { if (last) move(event); });
['pointerup', 'pointercancel'].forEach(name => picture.canvas.addEventListener(name, () => { if (last) { last = null; send(true); } }));

element.addEventListener('click', event => { if (event.target.matches('.swatch')) choose(event.target.dataset.color); });
find('.own')?.addEventListener('input', event => choose(event.target.value));
find('.undo').addEventListener('click', () => {
  if (!past.length) return;
  const [was, where, before] = past.pop();
  picture.putImageData(was, 0, 0); painted.putImageData(where, 0, 0); photo = before; send(true);
});
find('.clear').addEventListener('click', () => {
  remember(); fill(picture, background); fill(painted, '#000000'); photo = null; send(true);
});
find('.file input').addEventListener('change', async event => {
  const file = event.target.files[0];
  if (!file) return;
  event.target.value = '';
  const image = await createImageBitmap(file).catch(() => null);
  if (!image) return alert('This file is no picture that the browser can read.');
  const square = sheet(photoSide), from = Math.min(image.width, image.height), to = layer(square);
  remember();
  Object.assign(to, {fillStyle: '#ffffff', imageSmoothingQuality: 'high'});
  to.fillRect(0, 0, photoSide, photoSide);
  to.drawImage(image, (image.width - from) / 2, (image.height - from) / 2, from, from, 0, 0, photoSide, photoSide);
  photo = square.toDataURL();
  picture.imageSmoothingQuality = 'high';
  show(square); send(true);
});
watch('value', () => {
  if (!props.value?.strokes) return;
  const image = new Image();
  image.onload = () => { remember(); show(image); send(true); };
  image.src = props.value.strokes;
});
fill(picture, background); fill(painted, '#000000');
choose(box.dataset.ink);
send(false);
"""
