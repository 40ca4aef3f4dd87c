"""`ddgan eval`: scores of a model beside its speed."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ddgan_fast.cli_arguments import pick_device
from ddgan_fast.errors import InputError


@dataclass(frozen=True)
class Eval:
    """Score a model: `ddgan eval --model DIR --data cifar10:DIR`.

    Images: FID, Inception Score, precision and recall; with --data stackedmnist modes and KL, of points modes, quality and KL.
    `torchrun --nproc-per-node 8 --no-python ddgan eval ...` shares the images out.
    """

    model: Path
    """A model folder, or a training run (its newest EMA)."""
    data: str | None = None
    """What the images are compared with, as --data of `ddgan train` takes it; by default what the model was trained on."""
    num_images: int | None = None
    """Seeds 0 .. N - 1; by default 50,000, of StackedMNIST 26,000, of points 10,000."""
    protocol: Literal["default", "paper"] = "default"
    """default: uint8 images; paper: through JPEG of quality 75, as the released code scored them. All in memory."""
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
    engine_file: Path | None = None
    """Folder of `ddgan export` that runs in place of the network."""
    precision: str | None = None
    """fp32, tf32, bf16 or fp16; by default the model's own, fp32."""
    cache: Path | None = None
    """Folder for features of reference images and for trained classifiers; by default ~/.cache/ddgan_fast."""
    patience: float = 1800.0
    """Seconds after which a rank that does not answer ends the others."""
    json: bool = False
    """Print JSON."""

    def run(self):
        from tqdm import tqdm

        from ddgan_fast.distributed import rank_and_world, together
        from ddgan_fast.pipeline import DDGANPipeline

        if self.batch_size < 1 or (self.num_images is not None and self.num_images < 1):
            raise InputError(f"--num-images {self.num_images}, --batch-size {self.batch_size}: give whole numbers of 1 or more")
        rank, world = rank_and_world()
        device = pick_device(self.device)
        with together(device, self.patience):
            pipe = DDGANPipeline.from_pretrained(self.model).to(device).compile(self.engine, self.precision, self.engine_file)
            with tqdm(unit="img", mininterval=1.0, delay=0.1, disable=rank > 0) as bar:
                row = self._row(pipe, device, world, bar.update)
        if row is not None:
            self._print({"model": str(self.model)} | row)

    def _row(self, pipe, device, world, watch):
        from ddgan_fast.data.datasets import open_dataset
        from ddgan_fast.evaluation.reference import default_cache
        from ddgan_fast.experiments.score import (
            POINTS,
            STACKED_IMAGES,
            classifier_judges,
            digits_of,
            judges_of,
            score_images,
            score_points,
            score_stacked,
        )

        model, cache = pipe.config.model, self.cache or default_cache()
        if model.network == "mlp":
            self._alone(world, "points")
            return score_points(pipe, self.num_images or POINTS)
        source = self.data or pipe.config.train.data
        if not source:
            raise InputError("the model does not say what it was trained on: give --data")
        dataset = open_dataset(source, model, pipe.config.train.seed)
        stacked = source.partition(":")[0] == "stackedmnist"
        if stacked or self.feature_extractor == "classifier":
            self._alone(world, "the classifier")
            classifier, record, _ = digits_of(source, model.resolution, cache, device)
            if stacked:
                return score_stacked(pipe, dataset, classifier, record, self.num_images or STACKED_IMAGES, self.batch_size, watch)
            judges = classifier_judges(classifier, model.image_channels)
        else:
            judges = judges_of(self.feature_extractor, self.weights, self.manifold_weights, device)
        return score_images(pipe, dataset, judges, cache, self.protocol, self.num_images or 50_000, self.batch_size, watch)

    def _alone(self, world, what):
        if world > 1:
            raise InputError(f"{world} ranks: {what} takes one; run it without torchrun")

    def _print(self, row):
        if self.json:
            print(json.dumps(row, indent=2))
            return
        width = max(map(len, row))
        for name, value in row.items():
            print(f"{name:{width}}  {value:.4f}" if isinstance(value, float) else f"{name:{width}}  {value}")
