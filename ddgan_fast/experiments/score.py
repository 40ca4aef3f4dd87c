"""What a model's samples are worth, beside what they cost, as one row: images, StackedMNIST's modes, or the 25 Gaussians."""

import csv
import logging
import time
from pathlib import Path

import torch

from ddgan_fast.data.idx import FASHION_MNIST, read_labelled
from ddgan_fast.data.toy import SCALE, SIGMA, modes25
from ddgan_fast.distributed import rank_and_world
from ddgan_fast.environment import device_name
from ddgan_fast.errors import DataError, InputError
from ddgan_fast.evaluation.classifier import cached_classifier, stacked_labels
from ddgan_fast.evaluation.extractors import classifier_extractor, open_extractor
from ddgan_fast.evaluation.metrics import modes_and_kl
from ddgan_fast.evaluation.points import score
from ddgan_fast.evaluation.reference import reference_features
from ddgan_fast.evaluation.scoring import PROTOCOLS, Judges, collect, scores
from ddgan_fast.pictures import to_uint8, whole_file

log = logging.getLogger("ddgan_fast")
MNIST_LABELS = 5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949  # of each digit in its training set, and in no other known one
STACKED_IMAGES, POINTS = 26_000, 10_000  # paper Table 3, after Lin et al. 2018; ours
PAPER_IMAGES = 30_000  # the fewest that the paper takes FID of
DECIMALS = 4  # of numbers in the CSV of an experiment that is read and not computed with


def judges_of(extractor, weights=None, manifold_weights=None, device="cpu"):
    """The Judges of a name: "standard" is torch-fidelity's Inception and, for precision and recall, its VGG16; else one network for all.

    weights, manifold_weights: files, as extractors.open_extractor takes them.  Raises what that raises.
    """
    if extractor == "standard":
        return Judges(open_extractor("inception", weights, device), open_extractor("vgg16", manifold_weights, device))
    if manifold_weights:
        raise InputError(f"feature extractor {extractor!r}: one network makes all numbers; give its weights alone")
    network = open_extractor(extractor, weights, device)
    return Judges(network, network)


class Drawn:
    """The samples of this rank's share of seeds 0 .. N - 1 as an iterable of batches; `seconds` is what drawing them took, warmed up.

    Raises DataError for what is NaN or infinite: as pixels it would be black, and score as a model that draws one image.
    """

    def __init__(self, pipe, count, batch_size, watch=lambda count: None):
        """watch: told the number of samples of each batch."""
        self.pipe, self.count, self.batch_size, self.watch, self.seconds = pipe, count, batch_size, watch, 0.0

    def __iter__(self):
        share = range(*self._share())
        for _ in self.pipe.batches(share[: self.batch_size], self.batch_size):
            pass  # what the first batch takes once, as compiling, is not the cost of an image
        start = time.perf_counter()
        for seeds, samples in self.pipe.batches(share, self.batch_size):
            if samples.is_cuda:
                torch.cuda.synchronize(samples.device)
            self.seconds += time.perf_counter() - start
            if samples.is_floating_point() and not samples.isfinite().all():
                raise DataError(f"samples: NaN or infinity in a batch of {len(samples)}; the model is broken, or its precision too low")
            yield samples
            self.watch(len(seeds))
            start = time.perf_counter()

    def _share(self):
        rank, world = rank_and_world()
        return rank, self.count, world


def score_images(pipe, dataset, judges, cache, protocol="default", num_images=50_000, batch_size=100, watch=lambda count: None):
    """The row of images: {name: value}, None on every rank but the first.

    dataset: what they are compared with, as data.open_dataset gives it.  judges: of `judges_of`.  cache: folder for references.
    protocol: a name of PROTOCOLS.  num_images: seeds 0 .. num_images - 1.  watch: told the number of images of each batch.
    Raises InputError for fewer images than the numbers need; warns of fewer than the paper takes, where its protocol is asked for.
    """
    rules = PROTOCOLS[protocol]
    check_counts(dataset, judges, num_images)
    if protocol == "paper" and num_images < PAPER_IMAGES and rank_and_world()[0] == 0:
        log.warning("protocol paper: it takes 50,000 images (30,000 of CelebA-HQ); with %s FID comes out higher", f"{num_images:,}")
    reference = reference_features(dataset, judges, rules.manifold_images, cache, watch)
    drawn = Drawn(pipe, num_images, batch_size, watch)
    found = collect(drawn, judges, rules.manifold_images, rules.through)
    if rank_and_world()[0]:
        return None
    row = {"data": dataset.name, "protocol": protocol, "images": num_images, "reference images": len(dataset)}
    if judges.accuracy is not None:
        row["classifier accuracy"] = judges.accuracy
    return row | scores(found, reference, judges) | _cost(pipe, drawn)


def check_counts(dataset, judges, num_images):
    """Raise InputError for fewer images on either side than the covariance of the judge's features needs."""
    least = judges.fidelity.dim + 1
    for count, what in ((num_images, "generated images"), (len(dataset), f"images of {dataset.name}")):
        if count < least:
            features = f"{judges.fidelity.name} has {judges.fidelity.dim} features, whose covariance needs"
            raise InputError(f"{count:,} {what} are too few: {features} {least:,} or more")


def digits_of(source, resolution, cache, device="cpu"):
    """(classifier, its record, what the digits are called) for the idx files of a data set, trained where `cache` has none.

    source: stackedmnist, fashion-mnist, either with :DIR, or the folder itself.  Raises DataError where there are no labelled idx files.
    """
    name, _, folder = str(source).partition(":")
    if name in ("stackedmnist", "fashion-mnist"):
        folder = Path(folder).expanduser() if folder else FASHION_MNIST
    else:
        folder = Path(source).expanduser()
        if not folder.is_dir():
            known = "fashion-mnist or stackedmnist, either with :DIR, or a folder of idx files"
            raise DataError(f"{source}: the classifier learns from labelled images of {known}; other data take another --feature-extractor")
    shape = (1, resolution, resolution)
    train, test = (read_labelled(folder, shape, part) for part in ("train", "t10k"))
    digits = "MNIST" if tuple(train[1].bincount(minlength=10).tolist()) == MNIST_LABELS else folder.resolve().name
    return *cached_classifier(cache, train, test, device=device), digits


def score_stacked(pipe, dataset, classifier, record, num_images=STACKED_IMAGES, batch_size=100, watch=lambda count: None):
    """The row of StackedMNIST (paper Table 3): modes of 1,000, KL from all modes equally in nats, the same of real stacked images.

    dataset: StackedMNIST.  classifier, record: of `digits_of`.  Runs on one rank.
    """
    drawn = Drawn(pipe, num_images, batch_size, watch)
    labels = torch.cat([stacked_labels(classifier, to_uint8(samples).permute(0, 3, 1, 2)).cpu() for samples in drawn])
    modes, kl = modes_and_kl(labels, 1000)
    parts = torch.arange(min(num_images, len(dataset))).split(1000)
    real = torch.cat([stacked_labels(classifier, dataset.__getitems__(part)) for part in parts])
    real_modes, real_kl = modes_and_kl(real, 1000)
    row = {"data": dataset.name, "images": num_images, "modes": modes, "KL": kl, "modes of real images": real_modes}
    return row | {"KL of real images": real_kl, "classifier accuracy": record["accuracy"]} | _cost(pipe, drawn)


def classifier_judges(classifier, record, channels):
    """Judges of the classifier's own features, for digits and clothes, which Inception does not know. record: as of `digits_of`."""
    network = classifier_extractor(classifier, channels)
    return Judges(network, network, record["accuracy"])


def score_points(pipe, num_points=POINTS, batch_size=POINTS):
    """The row of the 25 Gaussians (paper Fig. 6): modes, share within 3 sigma of one ("high quality"), KL from all modes equally."""
    drawn = Drawn(pipe, num_points, batch_size)
    found = score(torch.cat(list(drawn)), modes25(), SIGMA / SCALE)
    return {"data": "gaussians25", "points": num_points} | found._asdict() | _cost(pipe, drawn)


def write_rows(path, rows, decimals=None):
    """Write rows {column: value} with equal columns as CSV; None is an empty cell. decimals: how many each number keeps, by default all."""
    if decimals is not None:
        rows = [{name: round(value, decimals) if isinstance(value, float) else value for name, value in row.items()} for row in rows]
    with whole_file(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def _cost(pipe, drawn):
    """What the samples cost: NFE, and seconds of drawing them on the first rank."""
    _, world = rank_and_world()
    where = device_name(pipe.device) + (f" x{world}" if world > 1 else "")
    engine = f"{pipe.runs}, {pipe.precision or str(next(pipe.generator.parameters()).dtype).removeprefix('torch.')}"
    return {"NFE": pipe.config.diffusion.steps, "seconds": drawn.seconds, "device": where, "engine": engine}
