"""`ddgan edit`: variants of a picture, from strokes, of a part of it, or near it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ddgan_fast.cli_arguments import open_pipe
from ddgan_fast.errors import InputError


@dataclass(frozen=True)
class Edit:
    """Draw variants of a picture: `ddgan edit --model DIR --image strokes.png --strength 0.5 --num-images 4`.

    Strokes: a crude painting and a strength around a half. A part of a picture: --mask and --strength 1. Variations: a photo and a
    strength around a quarter. Seeds name the variants.
    """

    model: Path
    """A model folder, or a training run (its newest EMA)."""
    image: Path
    """The picture, png jpg webp or bmp of any size: the model gets its middle square, resized."""
    strength: float = 0.5
    """0 to 1: of T steps the last floor(strength T + 0.5) are taken; 0 leaves the picture as it is, 1 forgets it."""
    mask: Path | None = None
    """A picture of the same size: white may change, black stays to the bit, gray is between."""
    strokes: bool = False
    """Make the picture a stroke painting first: a median filter and 6 colours, as SDEdit does to photos."""
    num_images: int | None = None
    """Seeds 0 .. N - 1; by default one."""
    seeds: str | None = None
    """Seeds as 0-63 (inclusive) or 3,5,9, in place of --num-images."""
    format: Literal["png", "npz", "grid"] = "png"
    """png: a folder with a file per seed; npz: images uint8 [N,H,W,C] and seeds int64; grid: one picture, the given one first."""
    out: Path | None = None
    """Folder (png) or file (npz, grid); by default edits, edits.npz or edits.png here."""
    batch_size: int = 100
    """Images per batch; it changes no image."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto."""
    engine: str = "auto"
    """How the network runs: auto (the fastest here), eager, folded, compile or graph; `ddgan env` says which are there."""
    engine_file: Path | None = None
    """Folder of `ddgan export --target step` that runs in place of the network."""
    precision: str | None = None
    """fp32, tf32, bf16 or fp16; by default the model's own, fp32."""

    def run(self):
        from ddgan_fast.checkpoint.model import fingerprint
        from ddgan_fast.data.strokes import stroke_painting
        from ddgan_fast.pipeline import parse_seeds
        from ddgan_fast.sampling.edit import digest
        from ddgan_fast.sampling.writers import write

        if self.num_images is not None and self.seeds is not None:
            raise InputError("give either --num-images N or --seeds 0-63")
        seeds = parse_seeds(0 if self.seeds is None else self.seeds, self.num_images)
        if self.batch_size < 1:
            raise InputError(f"--batch-size {self.batch_size}: it must be 1 or more")
        image, mask = _read(self.image), None if self.mask is None else _read(self.mask)
        pipe = open_pipe(self.model, self.device, self.engine, self.precision, self.engine_file)
        edit = pipe.start_from(stroke_painting(image) if self.strokes else image, self.strength, mask)
        origin = {"model": fingerprint(pipe.generator, pipe.config), "precision": pipe.precision or "fp32", "edit": digest(edit)}
        out = self.out or Path({"png": "edits", "npz": "edits.npz", "grid": "edits.png"}[self.format])

        def draw(part, batch_size):
            if self.format == "grid":
                yield part[:1], edit.unchanged(as_uint8=True)
            yield from pipe.batches(part, batch_size, as_uint8=True, edit=edit)

        write(draw, seeds, out, self.format, pipe.config.model.sample_shape, self.batch_size, origin)
        print(f"{out}: {len(seeds)} variants of {self.image}, {edit.steps} network evaluations each")


def _read(path):
    """The PIL image of a file, upright. Raises InputError where there is none, DataError where it is broken or too large."""
    from ddgan_fast.data.decode import MOST_BYTES, upright, use_image

    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    return use_image(content, path, lambda image: upright(image).copy())
