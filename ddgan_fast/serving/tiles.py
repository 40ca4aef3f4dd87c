"""Images as HTML that enlarges them without blurring."""

import html

from ddgan_fast.pictures import to_pil
from ddgan_fast.serving.canvas import picture_url

LEAST_SHOWN = 128  # CSS pixels of a small image; less on a narrow screen

CSS = """
.tiles { display: flex; flex-wrap: wrap; gap: 8px; }
.tiles figure, .film figure { margin: 0; min-width: 0; max-width: 100%; }
.tiles img, .film img { display: block; image-rendering: pixelated; margin: 0; width: var(--side); max-width: 100%; aspect-ratio: 1; }
.film { display: grid; grid-template-columns: repeat(var(--columns), minmax(48px, var(--side))); gap: 8px; overflow-x: auto; }
@media (max-width: 640px) {
  .tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(calc(0.7 * var(--side)), 1fr)); }
  .tiles img { width: 100%; }
}
.tiles figcaption, .film figcaption { font-size: 13px; line-height: 1.4; color: var(--body-text-color); overflow-wrap: anywhere; }
.note { margin: 0 0 8px; color: var(--body-text-color); }
"""


def tiles(images, captions, note=""):
    """HTML of images, one after the other, under a line of text.  images: numpy uint8 [N, R, R, C].  captions: N plain texts."""
    figures = "".join(_figure(*pair) for pair in zip(images, captions, strict=True))
    return f'{_note(note)}<div class="tiles" style="--side: {shown_side(images.shape[1])}px">{figures}</div>'


def strip(rows, captions, note):
    """HTML of rows of images in columns that become narrower where there is no room for them.

    rows: lists of equally many numpy uint8 [R, R, C]; a None leaves its cell empty.  captions: a text for each cell, as rows.
    """
    cells = "".join(_figure(*pair) for pair in zip(sum(rows, []), sum(captions, []), strict=True))
    side = shown_side(rows[0][0].shape[0])
    return f'{_note(note)}<div class="film" style="--side: {side}px; --columns: {len(rows[0])}">{cells}</div>'


def shown_side(side):
    """CSS pixels of an image with `side` pixels: a whole multiple, LEAST_SHOWN or somewhat more."""
    return side * -(-LEAST_SHOWN // side)


def _note(text):
    return f'<p class="note">{html.escape(text)}</p>'


def _figure(image, caption):
    if image is None:
        return "<span></span>"
    text = html.escape(caption)
    return f'<figure><img src="{picture_url(to_pil(image))}" alt="{text}"><figcaption>{text}</figcaption></figure>'
