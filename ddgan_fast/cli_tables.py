"""The tables of `ddgan experiment`, and the figures that stand on numbers: their flags, with heavy imports inside `run`."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

from ddgan_fast.cli_arguments import DEFAULT_PRESET, find_preset, open_training_data, pick_device
from ddgan_fast.cli_eval import JUDGING, Scoring, alone
from ddgan_fast.errors import InputError

OUT = Path("runs/experiments")


@dataclass(frozen=True, kw_only=True)
class Table(Scoring):
    """Flags of a table of models."""

    model: tuple[Path, ...]
    """Model folders or runs, one row each."""

    def models(self):
        """{name of the folder: pipeline}. Raises InputError for two of one name."""
        self.check()
        names = [path.resolve().name for path in self.model]
        if len(set(names)) < len(names):
            raise InputError(f"--model {' '.join(map(str, self.model))}: rows are called as the folders, and two have one name")
        return {name: self.open(path) for name, path in zip(names, self.model, strict=True)}


@dataclass(frozen=True, kw_only=True)
class Table1(Table):
    """Score models of CIFAR-10 beside the published ones, time other samplers on this device, and draw FID against time."""

    ITEM: ClassVar = "paper Table 1 and Fig. 4"
    TIME: ClassVar = "about a day on a CPU with 50,000 images of the full network, most of it drawing them (estimated)"
    NUMBER: ClassVar = 1
    IMAGES: ClassVar = 50_000

    out: Path = OUT / "table1"
    """Folder of table1.csv, table1.md, figure4.png and sample grids."""

    def run(self):
        from tqdm import tqdm

        from ddgan_fast.experiments import figure4, tables
        from ddgan_fast.experiments.panels import new_figure

        alone("a table")
        if self.NUMBER == 1:
            new_figure()  # without matplotlib it raises: now, not after a day
        models = self.models()
        pipe = next(iter(models.values()))
        dataset, source = open_training_data(pipe, self.data)
        judges, count = self.judges(source, pipe.config.model, pipe.device), self.num_images or self.IMAGES
        make, name = getattr(tables, f"table{self.NUMBER}"), f"table{self.NUMBER}"
        with tqdm(unit="img", mininterval=1.0, delay=0.1) as bar:
            rows = make(models, dataset, judges, self.cache_folder(), self.out, count, self.batch_size, self.protocol, bar.update)
        if self.NUMBER == 1:
            figure4.draw(rows, self.out / "figure4.png")
        print((self.out / f"{name}.md").read_text(encoding="utf-8"))


@dataclass(frozen=True, kw_only=True)
class Table4(Table1):
    """Score models of CelebA-HQ at 256x256 beside the published ones."""

    ITEM: ClassVar = "paper Table 4"
    TIME: ClassVar = "days on a CPU with 30,000 images of the full network"
    NUMBER: ClassVar = 4
    IMAGES: ClassVar = 30_000

    out: Path = OUT / "table4"
    """Folder of table4.csv, table4.md and sample grids."""


@dataclass(frozen=True, kw_only=True)
class Table5(Table1):
    """Score models of LSUN Church at 256x256 beside the published ones."""

    ITEM: ClassVar = "paper Table 5"
    TIME: ClassVar = "days on a CPU with 50,000 images of the full network"
    NUMBER: ClassVar = 5

    out: Path = OUT / "table5"
    """Folder of table5.csv, table5.md and sample grids."""


@dataclass(frozen=True, kw_only=True)
class Table3(Table):
    """Count the modes of StackedMNIST that models cover, and their KL, beside the published ones."""

    ITEM: ClassVar = "paper Table 3"
    TIME: ClassVar = "minutes on a CPU with a small network, about half a day with the full one (estimated)"

    out: Path = OUT / "table3"
    """Folder of table3.csv, table3.md and sample grids."""

    def run(self):
        from tqdm import tqdm

        from ddgan_fast.experiments import tables
        from ddgan_fast.experiments.score import STACKED_IMAGES

        self.refuse("StackedMNIST", *JUDGING)
        models = self.models()
        pipe = next(iter(models.values()))
        dataset, source = open_training_data(pipe, self.data)
        if source.partition(":")[0] != "stackedmnist":
            raise InputError(f"--data {source}: this table is of stackedmnist:DIR, or of stackedmnist, which stacks Fashion-MNIST")
        classifier, record, digits = self.digits(source, pipe.config.model, pipe.device)
        with tqdm(unit="img", mininterval=1.0, delay=0.1) as bar:
            options = self.out, self.num_images or STACKED_IMAGES, self.batch_size, bar.update
            tables.table3(models, dataset, classifier, record, digits, *options)
        print((self.out / "table3.md").read_text(encoding="utf-8"))


@dataclass(frozen=True, kw_only=True)
class Table2(Scoring):
    """Train the ablations with one budget on one set, and score them beside the published ones; goes on where it was stopped."""

    ITEM: ClassVar = "paper Table 2"
    TIME: ClassVar = "about two and a half hours on a CPU core for three rows of three seeds of examples/experiments/table2-fashion.yaml"

    config: Path | None = None
    """YAML file of settings of T = 4 on top of --preset: data, network and number of steps, which all rows share."""
    preset: str = DEFAULT_PRESET
    """Where the settings start from."""
    variants: str = "t1,t4,no-latent"
    """Rows, with commas between: t1, t2, t4, t8, one-shot-aug, direct, noise, no-latent."""
    num_images: int = 10_000
    """Seeds 0 .. N - 1 of each run; the paper took 50,000."""
    seeds: str = "0,1,2"
    """Seeds of the trainings, with commas between: a run for each row and seed."""
    out: Path = OUT / "table2"
    """Folder of table2.csv, table2-runs.csv and of the runs."""

    def run(self):
        from tqdm import tqdm

        from ddgan_fast.config_file import read_yaml
        from ddgan_fast.experiments.table2 import table2

        alone("a table")
        self.check()
        self.refuse("this table, whose data are a setting of --config,", "data")
        config = find_preset(self.preset)
        config = read_yaml(self.config, config) if self.config else config
        seeds = self.seeds.split(",")
        if not all(seed.isdecimal() for seed in seeds):
            raise InputError(f"--seeds {self.seeds}: give whole numbers with commas between, as 0,1,2")
        device = pick_device(self.device)
        open_judges = partial(self.judges, config.train.data, config.model, device)
        with tqdm(unit="img", mininterval=1.0, delay=0.1) as bar:
            scoring = {"protocol": self.protocol, "batch_size": self.batch_size, "watch": bar.update}
            where = open_judges, self.cache_folder(), self.out, device, self.open
            table2(config, self.variants.split(","), list(map(int, seeds)), *where, self.num_images, **scoring)
        print((self.out / "table2.csv").read_text(encoding="utf-8"), end="")


@dataclass(frozen=True, kw_only=True)
class Figure6:
    """Train a vanilla GAN, WGAN-GP, DDPM and DDGAN on the 25 Gaussians, score and draw them; goes on where it was stopped."""

    ITEM: ClassVar = "paper Fig. 6"
    TIME: ClassVar = "most of a day on a CPU with the paper's 50,000 steps of 512"

    iterations: int = 50_000
    """Steps of each training that is made here; a baseline in --out that has more keeps them."""
    batch_size: int = 512
    """Points of a step."""
    methods: str | None = None
    """Methods, with commas between, of figure6.csv and figure6.png; by default all."""
    ddgan_t4: Path | None = None
    """A trained model of ours with T = 4, in place of training one."""
    ddgan_t1: Path | None = None
    """The same with T = 1."""
    seed: int = 0
    """Of the trainings and of what they draw."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto."""
    out: Path = OUT / "figure6"
    """Folder of figure6.csv, figure6.png and of the trainings."""

    def run(self):
        from ddgan_fast.experiments import figure6

        alone("this figure")
        ours = {name: path for name, path in (("T=4", self.ddgan_t4), ("T=1", self.ddgan_t1)) if path}
        methods = self.methods.split(",") if self.methods else figure6.METHODS
        figure6.run(self.out, self.iterations, self.batch_size, methods, pick_device(self.device), self.seed, ours)
        print(self.out / "figure6.png")
        print((self.out / "figure6.csv").read_text(encoding="utf-8"), end="")
