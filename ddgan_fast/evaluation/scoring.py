"""Scores of a stream of images against a set: FID, Inception Score, precision and recall, in one pass and with no files between.

FID: Heusel et al. 2017; Inception Score: Salimans et al. 2016; precision and recall: Kynkäänniemi et al. 2019; formulas in metrics.py.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from ddgan_fast.distributed import rank_and_world, told_by_all
from ddgan_fast.errors import InputError
from ddgan_fast.evaluation.metrics import Statistics, frechet_distance, inception_score, precision_recall
from ddgan_fast.pictures import to_pil, to_uint8

JPEG_QUALITY = 75  # of Pillow, with which the released code wrote the images that it scored (behaviour.md 1.13)


def unchanged(images):
    """The images."""
    return images


def through_jpeg(images):
    """Images uint8 [B, H, W, C] as they come back from JPEG of quality 75, on the CPU."""
    return torch.stack([_jpeg(image) for image in images.cpu().numpy()])


def _jpeg(image):
    stream = io.BytesIO()
    to_pil(image).save(stream, format="JPEG", quality=JPEG_QUALITY)
    return torch.from_numpy(np.array(Image.open(stream)).reshape(image.shape))


@dataclass(frozen=True)
class Protocol:
    """How a number is made: what happens to generated images before they are looked at, and on how many of them what is taken."""

    through: Callable
    manifold_images: int
    """So many of either side have precision and recall taken: the cost is the product of both."""
    words: str


PROTOCOLS = {
    "default": Protocol(unchanged, 10_000, "uint8 images in memory"),
    "paper": Protocol(through_jpeg, 50_000, "images through JPEG of quality 75 in memory, as the released code took FID"),
}


@dataclass(frozen=True)
class Judges:
    """The networks that look at images: `fidelity` for FID and Inception Score, `manifold` for precision and recall; may be one."""

    fidelity: object
    manifold: object
    accuracy: float | None = None
    """On test images, of the classifier whose features these are; None of other networks."""

    @property
    def identity(self):
        """Text that names both and their weights."""
        return f"{self.fidelity.identity}; {self.manifold.identity}"


@dataclass
class Collected:
    """What remains of many images: sums for FID, features [M, D] float32 for precision and recall, class probabilities [N, K] or None."""

    statistics: Statistics
    manifold: torch.Tensor
    probabilities: torch.Tensor | None


def collect(batches, judges, manifold_images, through=unchanged):
    """Look at all images of this rank once, and then at what the other ranks have found.

    batches: iterable of uint8 [B, H, W, C], or float [B, C, H, W] in [-1, 1] without NaN, as the pipeline and data sets yield them.
    manifold_images: how many of them, over all ranks, precision and recall are taken on.
    Raises InputError for no images.
    """
    statistics, manifold, probabilities, kept = Statistics(judges.fidelity.dim), [], [], 0
    _, world = rank_and_world()
    most = -(-manifold_images // world)
    for batch in batches:
        images = through(to_uint8(batch)).permute(0, 3, 1, 2)
        seen = judges.fidelity(images)
        statistics.add(seen.features)
        if seen.probabilities is not None:
            probabilities.append(seen.probabilities.cpu())
        images = images[: most - kept]
        if len(images):
            looked = seen.features[: len(images)] if judges.manifold is judges.fidelity else judges.manifold(images).features
            manifold.append(looked.cpu())
            kept += len(images)
    if not manifold and world == 1:
        raise InputError("no images to score")
    manifold = torch.cat(manifold) if manifold else torch.empty(0, judges.manifold.dim)
    mine = Collected(statistics, manifold, torch.cat(probabilities) if probabilities else None)
    return mine if world == 1 else _over_ranks(mine, manifold_images)


def _over_ranks(mine, manifold_images):
    """The same on every rank, as if one had looked at all images: rank r has seen r, r + world, ..."""
    parts = told_by_all((mine.statistics.to_dict(), mine.manifold, mine.probabilities))
    statistics = Statistics(mine.statistics.width)
    for part, _, _ in parts:
        statistics.merge(Statistics.from_dict(part))
    known = [part for _, _, part in parts if part is not None]
    return Collected(statistics, _in_turn([part for _, part, _ in parts])[:manifold_images], _in_turn(known) if known else None)


def _in_turn(parts):
    """The rows of tensors, one of each in turn; the first tensors may have one more."""
    rows = parts[0].new_empty(sum(map(len, parts)), parts[0].shape[1])
    for at, part in enumerate(parts):
        rows[at :: len(parts)] = part
    return rows


def scores(generated, reference, judges):
    """{name: value} of two Collected; a name says which network made the number: FID alone is Inception's, else as lite0-FID.

    Raises InputError for fewer images than the covariance of the features needs.
    """
    prefix = judges.fidelity.metric_prefix
    found = {f"{prefix}FID": frechet_distance(generated.statistics, reference.statistics)}
    if generated.probabilities is not None:
        found[f"{prefix}IS"], found[f"{prefix}IS std"] = inception_score(generated.probabilities)
    names = (f"{judges.manifold.metric_prefix}{name}" for name in ("precision", "recall"))
    return found | dict(zip(names, precision_recall(reference.manifold, generated.manifold), strict=True))
