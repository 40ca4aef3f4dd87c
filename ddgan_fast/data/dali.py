"""DALI in place of torch's workers: decode, resize, mirror and normalise in C++, on a GPU with nvJPEG.

The order is `Order`'s: this file feeds DALI the image files of each step, so a resumed run goes on with the same batches. Pillow looks at
every header first; what DALI would draw otherwise (transparency, 16 bits) or not at all, Pillow decodes. Pixels agree with Pillow's to 2
of 255 levels: the filter is the same, an antialiased bilinear one, but Pillow rounds to 8 bits between its two passes. In the outermost row
and column, where the filter reaches beyond the image, Pillow leaves out what is not there and DALI repeats the edge: up to 19 levels apart
on black and white noise. From a JPEG, nvJPEG's inverse DCT adds to that on a GPU.
"""

import importlib.util
import io
import logging

import numpy as np
import torch

from ddgan_fast.data.decode import upright, use_image
from ddgan_fast.data.images import on_white
from ddgan_fast.data.loader import Loader, prepared
from ddgan_fast.errors import DataError, DDGANError, MissingError

log = logging.getLogger(__name__)
DEPTH = 2  # batches that DALI decodes while one is used
TRIES = 10  # batches in a row that it may fail at
_TURNING = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}  # Pillow's names of what may turn an image


def refuses():
    """Why DALI cannot be used, or None; without importing it."""
    try:
        found = importlib.util.find_spec("nvidia.dali")
    except ModuleNotFoundError:
        found = None
    return None if found else 'nvidia.dali is not installed: pip install "ddgan_fast[dali]"'


def pipeline(shape, batch_size, threads, decoder="cpu", device_id=None, dtype=torch.float32):
    """A DALI pipeline from image files to normalised images.

    shape: (C, R, R) of an item.  decoder: cpu, or mixed (on a GPU).  device_id: of the GPU; None builds no part of a GPU.
    dtype: torch.float32 or float16.
    Its inputs are fed by name: `files`, uint8 [bytes] each, and `mirror`, int32.  Its output is [B, R, R, C] in [-1, 1]: the middle square
    of each image, resized with an antialiased bilinear filter.
    """
    try:
        from nvidia.dali import fn, math, pipeline_def, types
    except ImportError as error:
        raise MissingError(f"DALI cannot be loaded: {refuses() or error}") from error
    channels, size, _ = shape

    @pipeline_def(batch_size=batch_size, num_threads=threads, device_id=device_id, prefetch_queue_depth=DEPTH, enable_conditionals=True)
    def graph():
        files = fn.external_source(name="files", dtype=types.UINT8, ndim=1)
        mirror = fn.external_source(name="mirror", dtype=types.INT32, ndim=0)
        height_width = fn.peek_image_shape(files, dtype=types.FLOAT)[:2]
        side = fn.reductions.min(height_width)
        corner = math.floor((height_width - side) / 2)
        image = fn.decoders.image(files, device=decoder, output_type=types.RGB if channels == 3 else types.GRAY, jpeg_fancy_upsampling=True)
        if side != size:  # else the crop below is all it needs
            roi = {"roi_start": corner, "roi_end": corner + side}
            image = fn.resize(image, size=(size, size), antialias=True, interp_type=types.INTERP_TRIANGULAR, **roi)
        kind = types.FLOAT16 if dtype == torch.float16 else types.FLOAT
        return fn.crop_mirror_normalize(
            image, crop=(size, size), rounding="truncate", mirror=mirror, mean=[127.5], std=[127.5], dtype=kind, output_layout="HWC"
        )

    return graph()


class DaliLoader(Loader):
    """Endless batches of one rank, as of `Loader`, of `decode.Images`. workers: threads of DALI."""

    def __init__(self, dataset, global_batch, device, seed=0, rank=0, world=1, flip=False, workers=0, dtype=torch.float32):
        super().__init__(dataset, global_batch, device, seed, rank, world, flip)
        self.threads, self.dtype = max(1, workers), dtype

    def batches(self, start=0):
        """An endless generator from training step `start` on: [B, C, H, W] in [-1, 1], channels_last, on the device.

        A batch that DALI cannot decode is decoded by Pillow, which names what is bad in it. Raises DataError then, unless bad images are
        skipped; and DDGANError where DALI fails time and again.
        """
        step, pipe, failed = start, None, 0
        while True:
            if pipe is None:
                pipe, fed = self._built(), step
            try:
                while fed < step + DEPTH:
                    self._feed(pipe, fed)
                    fed += 1
                batch, failed = self._run(pipe), 0
            except (RuntimeError, DataError) as error:  # DALI's errors name no image; ours may be of a later batch
                pipe, failed, bad = None, failed + 1, len(self.dataset.bad)
                if failed > TRIES:
                    raise DDGANError(
                        f"DALI failed at {TRIES} batches in a row, the last of step {step}: {error}; give --loader torch"
                    ) from error
                coins = self.order.coins(step).to(self.device) if self.flip else None
                batch = self.dataset.__getitems__(self.order.share(step)).to(self.device)
                batch = prepared(batch, coins).to(self.dtype, memory_format=torch.channels_last)
                log.warning("step %d: decoded by Pillow, DALI could not: %s", step, " ".join(str(error).split())[-200:])
                if len(self.dataset.bad) > bad:  # it was to be expected, and will not be fed again
                    failed = 0
            yield batch
            step += 1

    def _built(self):
        on_gpu = self.device.type == "cuda"
        device_id = torch.empty(0, device=self.device).device.index if on_gpu else None
        pipe = pipeline(self.dataset.shape, self.batch_size, self.threads, "mixed" if on_gpu else "cpu", device_id, self.dtype)
        pipe.build()
        return pipe

    def _feed(self, pipe, step):
        pipe.feed_input("files", [self.dataset.good(index, self._file) for index in self.order.share(step)])
        coins = self.order.coins(step).tolist() if self.flip else [False] * self.batch_size
        pipe.feed_input("mirror", [np.int32(coin) for coin in coins])

    def _run(self, pipe):
        """The next batch, copied: DALI has its memory back."""
        stream = torch.cuda.current_stream(self.device) if self.device.type == "cuda" else None
        (batch,) = pipe.run(stream)
        return torch.from_dlpack(batch.as_tensor()).clone().permute(0, 3, 1, 2)

    def _file(self, index):
        """An image file that DALI decodes to what Pillow would: the file, or its pixels as PNM. Raises DataError for a bad header."""
        item = self.dataset.source.read(index)
        pixels = use_image(item, self.dataset.source.label(index), _unlike)
        return np.frombuffer(item if pixels is None else pixels, np.uint8)


def _unlike(image):
    """The pixels of a PIL image as a PNM file, where its own file has more than 8-bit gray or colour, or is turned; else None.

    DALI turns as EXIF says, and not as XMP does.
    """
    turned = upright(image) if _TURNING & image.info.keys() else image  # or Pillow would decode a PNG to look behind its pixels
    if image.format and image.mode in ("RGB", "L") and not image.has_transparency_data and turned is image:
        return None
    image = on_white(turned)
    file = io.BytesIO()
    image.convert("L" if image.mode in ("L", "1") else "RGB").save(file, "PPM")
    return file.getvalue()
