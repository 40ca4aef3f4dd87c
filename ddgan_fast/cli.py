"""The command `ddgan`: one function per command. Heavy imports are inside the commands, so that `ddgan --help` is quick."""

import json
import logging
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ddgan_fast.cli_arguments import DEFAULT_PRESET, find_preset, open_pipe, pick_device, read_options, settings_before_flags
from ddgan_fast.cli_data import Data
from ddgan_fast.cli_demo import Demo
from ddgan_fast.cli_edit import Edit
from ddgan_fast.cli_eval import Eval
from ddgan_fast.cli_experiment import Experiment
from ddgan_fast.cli_export import Export
from ddgan_fast.cli_report import Report
from ddgan_fast.cli_serve import Serve
from ddgan_fast.cli_show import Env, Presets
from ddgan_fast.config import Config
from ddgan_fast.errors import DDGANError, InputError, ResourceError

SUMMARY = "Denoising Diffusion GANs: train, sample, edit, score, export, serve. `ddgan COMMAND --help` tells more."


@dataclass(frozen=True)
class Train:
    """Train a model: `ddgan train --preset cifar10 --data cifar10:DIR --out runs/cifar10`.

    `torchrun --nproc-per-node 8 --no-python ddgan train ...` shares each batch out, one process a GPU.
    """

    out: Path
    """Folder of the run: config.yaml, metrics.jsonl, samples/, checkpoints/."""
    settings: Config
    preset: str = DEFAULT_PRESET
    """Where the settings below start from; `ddgan presets` lists them."""
    config: Path | None = None
    """YAML file of settings, on top of the preset."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: a GPU where there is one."""
    resume: bool = False
    """Go on from the newest intact checkpoint of the run; torchrun's restarts do so by themselves."""
    allow_inexact: bool = False
    """With --resume: go on with another number of ranks, batch size, precision or rate, so no longer exactly as one run."""
    patience: float = 600.0
    """Seconds after which a rank that does not answer ends the others."""
    dry_run: bool = False
    """Train nothing: print all settings, parameters, memory, and the hours that 20 steps let expect."""

    def run(self):
        from ddgan_fast.data import open_loader
        from ddgan_fast.distributed import rank_and_world, together
        from ddgan_fast.environment import collect
        from ddgan_fast.training.loop import train
        from ddgan_fast.training.probe import report
        from ddgan_fast.training.run import shared_run

        device, (rank, world) = pick_device(self.device), rank_and_world()
        with together(device, self.patience) as launch:
            loader = open_loader(self.settings, device, rank, world)
            if self.dry_run:
                for line in report(self.settings, loader, device):
                    if rank == 0:
                        print(line, flush=True)
                return
            with shared_run(launch, self.out, self.settings, collect(), device, self.resume, self.allow_inexact) as state:
                train(state, loader, self.out)
        if rank == 0:
            print(f"{self.out}: {state.step} steps; draw with: ddgan sample --model {self.out} --num-images 64 --format grid")


@dataclass(frozen=True)
class Sample:
    """Draw images, one per seed: `ddgan sample --model DIR --num-images 64 --format grid`.

    A run that was stopped goes on where it stopped, with the same command. `torchrun --nproc-per-node 8 --no-python ddgan sample ...`
    shares the images out.
    """

    model: Path
    """A model folder, or a training run (its newest EMA)."""
    num_images: int | None = None
    """Seeds 0 .. N - 1."""
    seeds: str | None = None
    """Seeds as 0-63 (inclusive) or 3,5,9, in place of --num-images."""
    format: Literal["png", "npz", "grid"] = "png"
    """png: a folder with a file per seed; npz: images uint8 [N,H,W,C] and seeds int64; grid: one picture."""
    out: Path | None = None
    """Folder (png) or file (npz, grid); by default samples, samples.npz or samples.png here."""
    batch_size: int = 100
    """Images per batch; it changes no image."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto; under torchrun the GPU of the rank."""
    engine: str = "auto"
    """How the network runs: auto (the fastest here), eager, folded, compile or graph; `ddgan env` says which are there."""
    engine_file: Path | None = None
    """Folder of `ddgan export` that runs in place of the network, by --engine auto, onnx, openvino, tensorrt, torch-tensorrt or aot."""
    precision: str | None = None
    """fp32, tf32, bf16 or fp16; by default the model's own, fp32."""

    def run(self):
        from tqdm import tqdm

        from ddgan_fast.checkpoint.model import fingerprint
        from ddgan_fast.distributed import rank_and_world
        from ddgan_fast.pipeline import parse_seeds
        from ddgan_fast.sampling.writers import write

        if (self.num_images is None) == (self.seeds is None):
            raise InputError("give either --num-images N or --seeds 0-63")
        seeds = parse_seeds(0 if self.seeds is None else self.seeds, self.num_images)
        if self.batch_size < 1:
            raise InputError(f"--batch-size {self.batch_size}: it must be 1 or more")
        pipe, origin = open_pipe(self.model, self.device, self.engine, self.precision, self.engine_file), None
        if self.format != "grid":
            origin = {"model": fingerprint(pipe.generator, pipe.config), "precision": pipe.precision or "fp32"}
        shape, (rank, world) = pipe.config.model.sample_shape, rank_and_world()
        out = self.out or Path({"png": "samples", "npz": "samples.npz", "grid": "samples.png"}[self.format])
        with tqdm(total=-(-len(seeds) // world), unit="img", mininterval=1.0, disable=rank > 0) as bar:

            def draw(part, batch_size):
                for drawn, samples in pipe.batches(part, batch_size, as_uint8=len(shape) == 3):
                    yield drawn, samples
                    bar.update(len(drawn))

            write(draw, seeds, out, self.format, shape, self.batch_size, origin)
        if rank == 0:
            print(f"{out}: {len(seeds)} samples, {pipe.config.diffusion.steps} network evaluations each")


@dataclass(frozen=True)
class Bench:
    """Time engines on this device, in turns: `ddgan bench --preset cifar10 --engines eager,auto --batch-sizes 4`."""

    preset: str | None = None
    """The network of a preset, with random weights of full size."""
    model: Path | None = None
    """A model folder or a run, in place of --preset."""
    engines: str = "eager,auto"
    """Names with commas between: auto, eager, folded, compile, graph."""
    batch_sizes: str = "1,4"
    """Images of a call, with commas between."""
    iters: int = 10
    """Timed calls of each engine at each size."""
    precision: str = "fp32"
    """fp32, tf32, bf16 or fp16; errors are those against fp32."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto."""
    json: bool = False
    """Print JSON."""

    def run(self):
        from ddgan_fast.bench import measure, randomise
        from ddgan_fast.pipeline import DDGANPipeline

        if (self.preset is None) == (self.model is None):
            raise InputError("give either --preset NAME or --model DIR")
        try:
            sizes = [int(size) for size in self.batch_sizes.split(",")]
        except ValueError:
            sizes = [0]
        if min(sizes) < 1 or self.iters < 1:
            raise InputError(f"--batch-sizes {self.batch_sizes}, --iters {self.iters}: give whole numbers of 1 or more, sizes as 1,4,16")
        pipe = DDGANPipeline.from_pretrained(self.model) if self.model else DDGANPipeline.from_preset(self.preset)
        if self.preset:
            randomise(pipe.generator)
        pipe.to(pick_device(self.device))
        rows = measure(pipe, self.engines.split(","), sizes, self.iters, self.precision, lambda text: print(text, file=sys.stderr))
        if self.json:
            print(json.dumps(rows, indent=2))
            return
        table = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for line in table:
            print("  ".join(value.rjust(width) for value, width in zip(line, widths, strict=True)))


@dataclass(frozen=True)
class Convert:
    """Convert a released netG_*.pth or content.pth into a model folder."""

    file: Annotated[Path, tyro.conf.Positional]
    out: Path
    """The new model folder."""
    preset: str | None = None
    """The preset whose model the file holds."""
    options: Path | None = None
    """JSON file with the options of the released training script, in place of --preset."""
    raw: bool = False
    """From content.pth: the raw weights in place of their moving average."""

    def run(self):
        from ddgan_fast.checkpoint.model import check_target, save_model
        from ddgan_fast.checkpoint.released import convert

        check_target(self.out)
        options = None if self.options is None else read_options(self.options)
        generator, config = convert(self.file, None if self.preset is None else find_preset(self.preset), options, self.raw)
        save_model(self.out, generator, config, f"Converted from {self.file.name}{' (raw weights)' if self.raw else ''}.")
        count = sum(p.numel() for p in generator.parameters())
        print(f"{self.out}: {count:,} parameters; draw with: ddgan sample --model {self.out} --num-images 64")


COMMANDS = {
    "train": Train,
    "sample": Sample,
    "edit": Edit,
    "eval": Eval,
    "bench": Bench,
    "export": Export,
    "experiment": Experiment,
    "report": Report,
    "demo": Demo,
    "serve": Serve,
    "convert": Convert,
    "presets": Presets,
    "env": Env,
    "data": Data,
}


def parse(argv):
    """The command object that argv asks for. Exits with 2 and a message for a wrong flag, with 0 for --help."""
    flat = (tyro.conf.OmitArgPrefixes,)
    if argv[0] not in COMMANDS:  # --help, or an unknown command
        return tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="ddgan", description=SUMMARY, args=argv, config=flat)
    if argv == ["data"]:
        argv = ["data", "--help"]
    default = Train(out=tyro.MISSING, settings=settings_before_flags(argv)) if argv[0] == "train" else None
    try:
        return tyro.cli(COMMANDS[argv[0]], prog=f"ddgan {argv[0]}", args=argv[1:], default=default, config=flat)
    except ValueError as error:  # a value that a config dataclass refuses
        raise InputError(str(error)) from None


def main(argv=None):
    """Run a command and return its exit code; an error is one message on stderr, with its traceback only under --debug."""
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    argv = [word for word in argv if word != "--debug"] or ["--help"]
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="surrogateescape")  # a path may hold bytes that no locale can show
    logging.basicConfig(format="ddgan: %(message)s", level=logging.WARNING)
    logging.getLogger("ddgan_fast").setLevel(logging.INFO)
    try:
        parse(argv).run()
        return 0
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:  # the reader of a pipe went away; stdout must not raise again when Python flushes it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Exception as error:
        if debug:
            raise
        code, text = _explain(error)
        print(f"ddgan: {text}", file=sys.stderr)
        return code


def _explain(error):
    """(exit code, message) of an exception."""
    if isinstance(error, DDGANError):
        return error.exit_code, f"error: {error}"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error):
        return ResourceError.exit_code, f"error: out of memory: {error}; take a smaller --batch-size"
    if isinstance(error, OSError):
        return ResourceError.exit_code, f"error: {error}"
    return 1, f"bug: {type(error).__name__}: {error}; run again with --debug for the traceback"


if __name__ == "__main__":
    sys.exit(main())
