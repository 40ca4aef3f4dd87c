"""What the command line makes of its words before a command runs: presets, option files, devices, defaults of `ddgan train`."""

import json
import os
from pathlib import Path

from ddgan_fast.config import Config, preset
from ddgan_fast.config_file import read_yaml
from ddgan_fast.errors import InputError

DEFAULT_PRESET = "demo"


def find_preset(name):
    """The preset of that name. Raises InputError where there is none."""
    try:
        return preset(name)
    except ValueError as error:
        raise InputError(str(error)) from None


def read_options(path):
    """The options of the released script from a JSON file. Raises InputError where it holds no object."""
    try:
        options = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(options, dict):
        raise InputError(f"{path}: must hold a JSON object of option names and values")
    return options


def pick_device(name):
    """The torch device of that name; auto is a GPU where there is one. Raises InputError where it is not there."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        if device.type == "cuda":
            torch.cuda.set_device(device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {name!r}: {str(error).splitlines()[0]}; give cpu, cuda, cuda:N or auto") from error
    return device


def open_pipe(model, device, engine="auto", precision=None, engine_file=None):
    """The DDGANPipeline of a model folder or run, on the device of that name, with the engine. Errors as of its `compile`."""
    from ddgan_fast.pipeline import DDGANPipeline

    return DDGANPipeline.from_pretrained(model).to(pick_device(device)).compile(engine, precision, engine_file)


def open_training_data(pipe, data=None):
    """(data set, its source): `data`, or where that is None what the pipeline's model was trained on, as many images of it.

    Raises InputError where the model does not say it, and what data.open_dataset raises.
    """
    from ddgan_fast.data.datasets import open_dataset

    train = pipe.config.train
    source = data or train.data
    if not source:
        raise InputError("the model does not say what it was trained on: give --data")
    limits = {} if data else {"on_bad_image": train.on_bad_image, "max_images": train.max_images}
    return open_dataset(source, pipe.config.model, train.seed, train.resident_gb, **limits), source


def flag_value(argv, flag):
    """The value of `--flag value` or `--flag=value` in argv, or None."""
    for i, word in enumerate(argv):
        if word == flag and i + 1 < len(argv):
            return argv[i + 1]
        if word.startswith(f"{flag}="):
            return word.partition("=")[2]
    return None


def settings_before_flags(argv):
    """The Config that `ddgan train` starts from: the preset, then the run's own config with --resume, then --config."""
    config = find_preset(flag_value(argv, "--preset") or DEFAULT_PRESET)
    out = flag_value(argv, "--out")
    if "--resume" in argv and out and (Path(out) / "config.yaml").is_file():
        config = read_yaml(Path(out) / "config.yaml", Config())
    if path := flag_value(argv, "--config"):
        config = read_yaml(Path(path), config)
    return config
