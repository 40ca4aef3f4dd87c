"""Paper Figs. 16, 17: the nearest neighbours of generated images among the training images, by the distance of their features.

Beside the distances stands how far training images are from their own nearest neighbour: a model that copied would be much nearer.
"""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ddgan_fast.data.idx import IMAGES, LABELS, find
from ddgan_fast.errors import InputError
from ddgan_fast.evaluation.extractors import classifier_extractor, open_extractor
from ddgan_fast.experiments.panels import panel
from ddgan_fast.experiments.score import digits_of
from ddgan_fast.pictures import whole_file, write_png

CHUNK = 50  # images that an extractor sees at once, always: so equal images have equal features
IDX_NAMES = "stackedmnist", "fashion-mnist"
MOST = 1000  # generated images, and training images compared with all others


class Found(NamedTuple):
    """distances: float32 [n + m, k], ascending.  indices: int64 [n + m, k], of training images.

    The first n rows are those of the generated images, the others those of training images `own`, int64 [m], themselves left out.
    """

    distances: torch.Tensor
    indices: torch.Tensor
    own: torch.Tensor

    @property
    def generated(self):
        """n."""
        return len(self.distances) - len(self.own)

    @property
    def typical(self):
        """The median distance of a training image to its nearest neighbour."""
        return self.distances[self.generated :, 0].median().item()


def choose_extractor(name, weights, source, model, cache, device):
    """The Extractor of a name: auto, or one of evaluation.extractors.NAMES.

    auto: VGG16 where weights are given, the classifier for idx files with labels (trained here, or from the cache), else lite0.
    source: as `--data` takes it.  model: config.Model.  Raises InputError, MissingError, CheckpointError and DataError as those do.
    """
    labelled = _is_labelled(source)
    if name == "auto":
        name = "vgg16" if weights else "classifier" if labelled else "lite0"
    if name != "classifier":
        return open_extractor(name, weights, device)
    if weights or not labelled:
        raise InputError("--feature-extractor classifier: it is of idx files with labels, and trained here: leave --weights out")
    return classifier_extractor(digits_of(source, model.resolution, cache, device)[0], model.image_channels)


def _is_labelled(source):
    """Whether `score.digits_of` finds idx files with labels for the source."""
    folder = Path(source).expanduser()
    return source.partition(":")[0] in IDX_NAMES or bool(find(folder, IMAGES) and find(folder, LABELS))


def features_of(extractor, images):
    """float32 [N, D] on the CPU of images uint8 [N, C, H, W], CHUNK at a time, the last chunk filled up."""
    filled = torch.cat((images, images[-1:].expand(-len(images) % CHUNK, *images.shape[1:])))
    return torch.cat([extractor(part).features.float().cpu() for part in filled.split(CHUNK)])[: len(images)]


def nearest(queries, batches, k, own):
    """(distances [n, k] ascending, indices int64 [n, k]) of the k features nearest to each query; the first among equals.

    queries: [n, D].  batches: iterable of features [b, D] in their order.  own: int64 [n], the index that is the query itself, or -1.
    """
    distances = torch.full((len(queries), k), torch.inf)
    indices, start = torch.full((len(queries), k), -1), 0
    for features in batches:
        here = torch.arange(start, start + len(features))
        # the differences themselves: the faster product of the two loses what is near
        found = torch.cdist(queries, features, compute_mode="donot_use_mm_for_euclid_dist")
        found[own[:, None] == here] = torch.inf
        distances, order = torch.cat((distances, found), 1).sort(dim=1, stable=True)
        distances, indices = distances[:, :k], torch.cat((indices, here.expand(len(queries), -1)), 1).gather(1, order[:, :k])
        start += len(features)
    return distances, indices


def search(extractor, generated, dataset, k, compared, seed=0, watch=lambda count: None):
    """The Found of generated images uint8 [n, C, R, R]; memory is that of n + m features, whatever the size of the data set.

    compared: m, how many training images, chosen by the seed, are looked at for how near neighbours usually are.
    watch: told the number of training images of each part.  Raises InputError for numbers that the data set cannot give.
    """
    if not 1 <= k < min(len(dataset), MOST) or not 1 <= compared <= MOST:
        raise InputError(
            f"{k} neighbours, {compared} compared: 1 to {min(len(dataset), MOST) - 1} and 1 to {MOST}, of {len(dataset):,} images"
        )
    own = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))[:compared]
    queries = torch.cat([features_of(extractor, images) for images in (generated, dataset.__getitems__(own.tolist()))])

    def batches():
        for start in range(0, len(dataset), CHUNK):
            part = list(range(start, min(start + CHUNK, len(dataset))))
            yield features_of(extractor, dataset.__getitems__(part))
            watch(len(part))

    return Found(*nearest(queries, batches(), k, torch.cat((torch.full((len(generated),), -1), own))), own)


def draw(found, generated, dataset, path):
    """Write the picture: a generated image in the leftmost column, its neighbours by distance in the others."""
    rows = []
    for image, indices in zip(generated, found.indices, strict=False):
        rows.append(list(torch.cat((image[None], dataset.__getitems__(indices.tolist()))).permute(0, 2, 3, 1).numpy()))
    write_png(path, panel([rows], {0: "drawn", 1: "nearest training images"}, apart=(1,)))


def write_table(found, seeds, extractor, path):
    """Write a CSV: a line for each pair, with the name of the extractor.

    of_typical: the distance over the median of training images from their nearest neighbour.
    """
    with whole_file(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("image", "seed_or_index", "rank", "training_index", "distance", "of_typical", "extractor"))
        names = [("generated", seed, found.distances.shape[1]) for seed in seeds] + [("training", index, 1) for index in found.own.tolist()]
        for row, (kind, name, ranks) in enumerate(names):
            for rank in range(ranks):
                distance = found.distances[row, rank].item()
                ratio = distance / found.typical if found.typical else np.nan
                table.writerow((kind, name, rank + 1, found.indices[row, rank].item(), f"{distance:.6g}", f"{ratio:.4f}", extractor))


def report(found, seeds):
    """Lines that say how near the generated images are to training images, and how near training images are to each other."""
    typical, first = found.typical, found.distances[found.generated :, 0]
    for seed, distance, index in zip(seeds, found.distances[:, 0].tolist(), found.indices[:, 0].tolist(), strict=False):
        times = f", {distance / typical:.2f} of the typical" if typical else ""
        yield f"seed {seed}: nearest is training image {index} at distance {distance:.4g}{times}"
    yield (
        f"{len(first):,} training images: nearest other one at {typical:.4g} (median; {first.min().item():.4g} to {first.max().item():.4g})"
    )
