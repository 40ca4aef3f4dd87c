"""`ddgan eval`: scores of a model beside its speed. Heavy imports are inside the commands."""

import json
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from ddgan_fast.cli_arguments import open_pipe, open_training_data, pick_device
from ddgan_fast.errors import InputError

JUDGING = "protocol", "feature_extractor", "weights", "manifold_weights"  # flags of FID and its like


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """Flags of what scores images."""

    data: str | None = None
    """What the images are compared with, as --data of `ddgan train` takes it; by default what the model was trained on."""
    num_images: int | None = None
    """Seeds 0 .. N - 1; by default what the paper takes: 50,000, of CelebA-HQ's table 30,000, of StackedMNIST 26,000; 10,000 points."""
    protocol: Literal["default", "paper"] = "default"
    """default: uint8 images; paper: through JPEG of quality 75, as the released code took FID. All in memory."""
    feature_extractor: Literal["standard", "lite0", "classifier"] = "standard"
    """standard: Inception and VGG16 of torch-fidelity; lite0: EfficientNet-Lite0, which is in a package; classifier: of idx files, trained
    here. A number that Inception did not make is named so, as lite0-FID."""
    weights: str | None = None
    """File of the extractor's weights (of Inception), also as FILE#sha256=HEX; by default what its package has or downloads."""
    manifold_weights: str | None = None
    """standard: file of the weights of VGG16."""
    batch_size: int = 100
    """Images per batch; it changes no number."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto; under torchrun the GPU of the rank."""
    engine: str = "auto"
    """How the network runs, as in `ddgan sample`."""
    precision: str | None = None
    """fp32, tf32, bf16 or fp16; by default the model's own, fp32."""
    cache: Path | None = None
    """Folder for features of reference images and for trained classifiers; by default ~/.cache/ddgan_fast."""

    def check(self):
        """Raise InputError for numbers of images below 1, and for weights of no network."""
        if self.batch_size < 1 or (self.num_images is not None and self.num_images < 1):
            raise InputError(f"--num-images {self.num_images}, --batch-size {self.batch_size}: give whole numbers of 1 or more")
        if self.feature_extractor == "classifier":
            self.refuse("the classifier, which is trained here,", "weights", "manifold_weights")

    def refuse(self, what, *names):
        """Raise InputError for flags that were given and would change nothing."""
        defaults = {field.name: field.default for field in fields(self)}
        if given := [f"--{name.replace('_', '-')}" for name in names if getattr(self, name) != defaults[name]]:
            raise InputError(f"{', '.join(given)}: {what} takes none; leave it out")

    def open(self, model, engine_file=None):
        """The compiled DDGANPipeline of a model folder or run."""
        return open_pipe(model, self.device, self.engine, self.precision, engine_file)

    def cache_folder(self):
        """Where features and classifiers are kept."""
        from ddgan_fast.evaluation.reference import default_cache

        return self.cache or default_cache()

    def digits(self, source, model, device):
        """(classifier, its record, what the digits are called) of a data set of idx files. model: config.Model of what draws the images."""
        from ddgan_fast.experiments.score import digits_of

        alone("the classifier")
        return digits_of(source, model.resolution, self.cache_folder(), device)

    def judges(self, source, model, device):
        """The networks that look at the images of a config.Model and at those of its data."""
        from ddgan_fast.experiments.score import classifier_judges, judges_of

        if self.feature_extractor == "classifier":
            classifier, record, _ = self.digits(source, model, device)
            return classifier_judges(classifier, record, model.image_channels)
        return judges_of(self.feature_extractor, self.weights, self.manifold_weights, device)


def alone(what):
    """Raise InputError under torchrun with several ranks."""
    from ddgan_fast.distributed import rank_and_world

    world = rank_and_world()[1]
    if world > 1:
        raise InputError(f"{world} ranks: {what} takes one; run it without torchrun")


@dataclass(frozen=True, kw_only=True)
class Eval(Scoring):
    """Score a model: `ddgan eval --model DIR --data cifar10:DIR`.

    Images: FID, Inception Score, precision and recall; with --data stackedmnist modes and KL, of points modes, quality and KL.
    `torchrun --nproc-per-node 8 --no-python ddgan eval ...` shares the images out.
    """

    model: Path
    """A model folder, or a training run (its newest EMA)."""
    engine_file: Path | None = None
    """Folder of `ddgan export` that runs in place of the network."""
    patience: float = 1800.0
    """Seconds after which a rank that does not answer ends the others."""
    json: bool = False
    """Print JSON."""

    def run(self):
        from tqdm import tqdm

        from ddgan_fast.distributed import rank_and_world, together

        self.check()
        with together(pick_device(self.device), self.patience):
            pipe = self.open(self.model, self.engine_file)
            with tqdm(unit="img", mininterval=1.0, delay=0.1, disable=rank_and_world()[0] > 0) as bar:
                row = self._row(pipe, bar.update)
        if row is not None:
            self._print({"model": str(self.model)} | row)

    def _row(self, pipe, watch):
        from ddgan_fast.experiments.score import POINTS, STACKED_IMAGES, score_images, score_points, score_stacked

        if pipe.config.model.network == "mlp":
            alone("a model of points")
            self.refuse("a model of points", "data", *JUDGING)
            return score_points(pipe, self.num_images or POINTS)
        dataset, source = open_training_data(pipe, self.data)
        if source.partition(":")[0] == "stackedmnist":
            self.refuse("StackedMNIST", *JUDGING)
            classifier, record, _ = self.digits(source, pipe.config.model, pipe.device)
            return score_stacked(pipe, dataset, classifier, record, self.num_images or STACKED_IMAGES, self.batch_size, watch)
        options = self.protocol, self.num_images or 50_000, self.batch_size, watch
        return score_images(pipe, dataset, self.judges(source, pipe.config.model, pipe.device), self.cache_folder(), *options)

    def _print(self, row):
        if self.json:  # which has no NaN
            print(
                json.dumps(
                    {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()},
                    indent=2,
                )
            )
            return
        width = max(map(len, row))
        for name, value in row.items():
            print(f"{name:{width}}  {value:.4f}" if isinstance(value, float) else f"{name:{width}}  {value}")
