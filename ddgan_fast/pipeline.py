"""`DDGANPipeline`, the public face: a generator with its schedule, called with seeds, answers with images."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ddgan_fast import config as configs
from ddgan_fast.checkpoint.model import load_model, save_model
from ddgan_fast.checkpoint.released import convert
from ddgan_fast.diffusion import Schedule, denoise
from ddgan_fast.errors import InputError, MissingError
from ddgan_fast.models import build_generator
from ddgan_fast.noise import MAX_SEED
from ddgan_fast.pictures import to_pil, to_uint8
from ddgan_fast.sampling import generate

OUTPUT_TYPES = "pil", "np", "pt", "uint8"
ENGINES = ("eager",)
BATCH = 100  # samples per batch of a call, as in the paper's timing


@dataclass(frozen=True)
class Output:
    """What a call of the pipeline returns."""

    images: Any
    """pil: list of PIL images; np: float32 [N, H, W, C] in [0, 1]; pt: float32 [N, C, H, W] in [0, 1]; uint8: numpy [N, H, W, C].
    Points: float32 [N, 2] in data units, numpy for np, a tensor for pt."""
    seeds: list[int]
    nfe: int
    """Network evaluations per sample, T."""
    seconds: float
    """Wall time of noise, network and posterior steps, device work included."""


def parse_seeds(seeds, num_images=1):
    """Seeds as a range or list: "0-63" (inclusive), "3,5,9", one number s with num_images n (s .. s + n - 1), or a sequence.

    Raises InputError for anything else, for none, and for a seed outside 0 to 2^63 - 1.
    """
    try:
        if isinstance(seeds, str):
            parts = [part.split("-") if "-" in part else (part, part) for part in seeds.split(",")]
            ranges = [range(int(first), int(last) + 1) for first, last in parts]
            found = ranges[0] if len(ranges) == 1 else [seed for part in ranges for seed in part]
        elif isinstance(seeds, int):
            found = range(seeds, seeds + num_images)
        else:
            found = seeds if isinstance(seeds, range) else [int(seed) for seed in seeds]
    except (TypeError, ValueError) as error:
        raise InputError(f"seeds {seeds!r}: give a range as 0-63, a list as 3,5,9, or whole numbers") from error
    if not found:
        raise InputError(f"seeds {seeds!r}, num_images {num_images}: that is no image; num_images must be 1 or more, a range ascending")
    if min(found[0], found[-1], min(found) if isinstance(found, list) else 0) < 0 or max(found[-1], max(found) if isinstance(found, list) else 0) > MAX_SEED:
        raise InputError(f"seeds {seeds!r}: a seed must be 0 to {MAX_SEED} (2^63 - 1)")
    return found
