"""The figures of `ddgan experiment` that show images, densities and losses: their flags, with heavy imports inside `run`."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from ddgan_fast.cli_arguments import open_training_data, pick_device
from ddgan_fast.errors import InputError

OUT = Path("runs/experiments")


def open_model(path, device):
    """A DDGANPipeline of images. Raises InputError for a model that draws points."""
    from ddgan_fast.pipeline import DDGANPipeline

    pipe = DDGANPipeline.from_pretrained(path).to(pick_device(device))
    if pipe.config.model.network == "mlp":
        raise InputError(f"{path}: this model draws points, and the figure shows images; give a model of images")
    return pipe


@dataclass(frozen=True)
class Figure2:
    """Draw the true denoising distribution of a 1-D mixture: near a Gaussian for a short step, multimodal for a long one."""

    ITEM: ClassVar = "paper Fig. 2"
    TIME: ClassVar = "seconds on a CPU"

    out: Path = OUT / "figure2"
    """Folder of the picture."""

    def run(self):
        from ddgan_fast.experiments.figure2 import draw
        from ddgan_fast.experiments.panels import folder_for

        path = folder_for(self.out) / "figure2.png"
        draw(path)
        print(path)


@dataclass(frozen=True)
class Figure8:
    """Draw images x_0, diffused to x_1, and samples of p(x_0 | x_1) for each, which differ in z alone."""

    ITEM: ClassVar = "paper Fig. 8"
    TIME: ClassVar = "seconds on a CPU; a minute at 256x256"
    NAME: ClassVar = "figure8"

    model: Path
    """A model folder, or a training run (its newest EMA)."""
    data: str | None = None
    """Where x_0 is from, as --data of `ddgan train` takes it; by default what the model was trained on."""
    out: Path = OUT / "figure8"
    """Folder of the picture."""
    num_images: int = 4
    """Images of the data."""
    samples: int = 3
    """Samples for each."""
    seed: int = 0
    """It names the images, the noise in them and the latents."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto."""

    def run(self):
        from ddgan_fast.experiments import figure8
        from ddgan_fast.experiments.panels import folder_for

        pipe = open_model(self.model, self.device)
        dataset, _ = open_training_data(pipe, self.data)
        path = folder_for(self.out) / f"{self.NAME}.png"
        draw = figure8.draw_multimodality if self.NAME == "figure8" else figure8.draw_levels
        draw(pipe, dataset, path, self.num_images, self.samples, self.seed)
        print(path)


@dataclass(frozen=True)
class Figure9(Figure8):
    """Draw training images, stroke paintings made of them, and edits of the paintings, which differ in their seeds alone."""

    ITEM: ClassVar = "paper Fig. 9"
    NAME: ClassVar = "figure9"

    out: Path = OUT / "figure9"
    """Folder of the picture."""
    samples: int = 5
    """Edits of each painting."""
    strength: float = 0.5
    """Of T steps the last floor(strength T + 0.5) are taken."""

    def run(self):
        from ddgan_fast.experiments.figure9 import draw
        from ddgan_fast.experiments.panels import folder_for

        pipe = open_model(self.model, self.device)
        dataset, _ = open_training_data(pipe, self.data)
        path = folder_for(self.out) / f"{self.NAME}.png"
        draw(pipe, dataset, path, self.num_images, self.samples, self.strength, self.seed)
        print(path)


@dataclass(frozen=True)
class Figure14(Figure8):
    """Draw images x_0, diffused to x_1 .. x_T, and below each x_t samples of p(x_0 | x_t), which differ in z alone."""

    ITEM: ClassVar = "paper Fig. 14 (with a model of CelebA-HQ)"
    NAME: ClassVar = "figure14"

    out: Path = OUT / "figure14"
    """Folder of the picture."""


@dataclass(frozen=True)
class Figure15(Figure14):
    """As figure14: images x_0, diffused to x_1 .. x_T, and samples of p(x_0 | x_t)."""

    ITEM: ClassVar = "paper Fig. 15 (with a model of LSUN Church)"
    NAME: ClassVar = "figure15"

    out: Path = OUT / "figure15"
    """Folder of the picture."""


@dataclass(frozen=True)
class Figure10:
    """Draw the discriminator's loss at each denoising step over the training of a run."""

    ITEM: ClassVar = "paper Fig. 10"
    TIME: ClassVar = "seconds on a CPU"

    model: Path
    """A training run: the folder with metrics.jsonl."""
    out: Path = OUT / "figure10"
    """Folder of the picture."""

    def run(self):
        from ddgan_fast.experiments.figure10 import draw, read_losses
        from ddgan_fast.experiments.panels import folder_for

        curves = read_losses(self.model / "metrics.jsonl")
        path = folder_for(self.out) / "figure10.png"
        draw(path, *curves)
        print(path)


@dataclass(frozen=True)
class Figure16:
    """Draw generated images beside their nearest neighbours among the training images, by distance of features.

    A line for each says its distance beside the usual one between training images and their nearest neighbours.
    """

    ITEM: ClassVar = "paper Fig. 16 (with a model of CIFAR-10)"
    TIME: ClassVar = "two minutes on a CPU for 1,800 images by lite0, an hour for 50,000; VGG16 takes 20 times as long"
    NAME: ClassVar = "figure16"

    model: Path
    """A model folder, or a training run (its newest EMA)."""
    data: str | None = None
    """The training images, as --data of `ddgan train` takes it; by default what the model was trained on."""
    out: Path = OUT / "figure16"
    """Folder of the picture and the CSV of distances."""
    num_images: int = 10
    """Generated images: seeds seed .. seed + N - 1."""
    seed: int = 0
    """The first seed; it also chooses the training images of --compared."""
    neighbors: int = 8
    """Neighbours of each."""
    compared: int = 200
    """Training images whose own nearest neighbour is looked for, to compare with."""
    feature_extractor: Literal["auto", "vgg16", "lite0", "inception", "classifier"] = "auto"
    """auto: vgg16, the paper's, where --weights are given; classifier, trained here, for labelled idx files; else lite0."""
    weights: str | None = None
    """File of the extractor's weights, also as FILE#sha256=HEX."""
    cache: Path | None = None
    """Folder for trained classifiers; by default ~/.cache/ddgan_fast."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto."""

    def run(self):
        import torch
        from tqdm import tqdm

        from ddgan_fast.evaluation.reference import default_cache
        from ddgan_fast.experiments import figure16
        from ddgan_fast.experiments.panels import folder_for
        from ddgan_fast.pipeline import parse_seeds

        seeds = parse_seeds(self.seed, self.num_images)
        if len(seeds) > figure16.MOST:
            raise InputError(f"--num-images {self.num_images}: {figure16.MOST} is the most")
        pipe = open_model(self.model, self.device)
        dataset, source = open_training_data(pipe, self.data)
        cache = self.cache or default_cache()
        extractor = figure16.choose_extractor(self.feature_extractor, self.weights, source, pipe.config.model, cache, pipe.device)
        generated = torch.cat([batch.cpu() for _, batch in pipe.batches(seeds, as_uint8=True)]).permute(0, 3, 1, 2)
        with tqdm(total=len(dataset), unit="img", mininterval=1.0) as bar:
            found = figure16.search(extractor, generated, dataset, self.neighbors, self.compared, self.seed, bar.update)
        folder = folder_for(self.out)
        figure16.draw(found, generated, dataset, folder / f"{self.NAME}.png")
        figure16.write_table(found, seeds, extractor.name, folder / f"{self.NAME}.csv")
        print(f"features: {extractor.identity}", *figure16.report(found, seeds), sep="\n")
        print(folder / f"{self.NAME}.png", folder / f"{self.NAME}.csv", sep="\n")


@dataclass(frozen=True)
class Figure17(Figure16):
    """As figure16: generated images beside their nearest neighbours among the training images."""

    ITEM: ClassVar = "paper Fig. 17 (with a model of CelebA-HQ)"
    NAME: ClassVar = "figure17"

    out: Path = OUT / "figure17"
    """Folder of the picture and the CSV of distances."""


@dataclass(frozen=True)
class Samples:
    """Draw a grid of samples; with --film also strips of x_T .. x_0, and below each x_t the x_0 that the generator drew from it."""

    ITEM: ClassVar = "paper Figs. 5, 7, 11-13"
    TIME: ClassVar = "seconds on a CPU at 32x32, minutes at 256x256"

    model: Path
    """A model folder, or a training run (its newest EMA)."""
    out: Path = OUT / "samples"
    """Folder of the pictures."""
    num_images: int = 64
    """Images of the grid: seeds seed .. seed + N - 1."""
    seed: int = 0
    """The first seed."""
    film: int = 0
    """Film strips of so many of them."""
    batch_size: int = 100
    """Images per batch; it changes no image."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto."""

    def run(self):
        from tqdm import tqdm

        from ddgan_fast.experiments.panels import folder_for
        from ddgan_fast.experiments.samples import draw_films, draw_grid
        from ddgan_fast.pipeline import parse_seeds

        seeds = parse_seeds(self.seed, self.num_images)
        if not 0 <= self.film <= len(seeds):
            raise InputError(f"--film {self.film}: it must be 0 to {len(seeds)}, as there are images")
        pipe = open_model(self.model, self.device)
        folder = folder_for(self.out)
        with tqdm(total=len(seeds), unit="img", mininterval=1.0) as bar:
            draw_grid(pipe, seeds, folder / "samples.png", self.batch_size, bar.update)
        print(folder / "samples.png")
        if self.film:
            draw_films(pipe, seeds[: self.film], folder / "film.png")
            print(folder / "film.png")
