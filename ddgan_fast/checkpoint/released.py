"""Conversion of the files released with the paper: netG_<epoch>.pth and content.pth."""

import logging
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from ddgan_fast.checkpoint import extract
from ddgan_fast.checkpoint.folder import read_json, read_tensors
from ddgan_fast.checkpoint.reference import KNOWN_OPTIONS, from_options, generator_from, generator_keys, reference_shapes
from ddgan_fast.config import ABLATIONS, PRESETS, Config
from ddgan_fast.errors import CheckpointError, InputError
from ddgan_fast.models import Generator

log = logging.getLogger(__name__)


def convert(path, config=None, options=None, raw=False):
    """(generator, config) from a released .pth file.

    path: netG_*.pth (a state dict of EMA weights) or content.pth (the EMA weights in its optimiser's state, or the raw ones).
    config: the config.Config of a preset; or options: {name: value} of the released script.  content.pth brings its own
    options, and needs neither.
    Raises InputError for these arguments, CheckpointError where the file is broken or does not fit the model.
    """
    if config is not None and options is not None:
        raise InputError("give a preset or options, not both")
    tensors, own_options = read_pth(path, raw)
    if config is None:
        if options is None and own_options is None:
            raise InputError(f"{path}: the file does not say what model it holds; give --preset or --options")
        try:
            config = _config_of(_without_unknown(own_options, path) if options is None else options)
        except InputError as error:
            if options is not None:
                raise
            raise CheckpointError(f"{path}: its own options: {error}") from error
    try:
        return generator_from(config.model, tensors), config
    except CheckpointError as error:
        shapes = {key.removeprefix("module."): tuple(value.shape) for key, value in tensors.items()}
        fits = ", ".join(_fitting_presets(shapes)) or "none; give the training script's options by --options"
        raise CheckpointError(f"{path}: {error}\n  presets that fit: {fits}") from None


def _without_unknown(options, path):
    """The options that we know: a training script adds others to its own record, which its command line does not have."""
    if unknown := sorted(options.keys() - KNOWN_OPTIONS):
        log.warning("%s: %s in its options: not read", path, ", ".join(unknown))
    return {name: value for name, value in options.items() if name in KNOWN_OPTIONS}


def _config_of(options):
    """The Config of the released script's options; its data set decides the discriminator."""
    small = options.get("dataset", "cifar10") in ("cifar10", "stackmnist")
    model, diffusion = from_options(options, "small" if small else "large")
    return Config("converted", model, diffusion)


def read_pth(path, raw=False):
    """({key: float32 tensor}, options or None) of a released .pth, unpickled in a child process that knows tensors alone.

    Raises CheckpointError where the file is missing, truncated, or holds anything else.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"{path}: no such file; give a netG_<epoch>.pth or content.pth")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-P", extract.__file__, str(path), folder, *(["--raw"] if raw else [])]
        child = subprocess.run(command, capture_output=True, text=True, check=False)
        if child.returncode:
            reason = child.stderr.strip().splitlines()[-1:] or [f"the reader died with code {child.returncode}"]
            raise CheckpointError(f"{path}: not a released checkpoint, or cut off: {reason[0]}")
        options = Path(folder) / "options.json"
        return read_tensors(Path(folder) / "tensors.safetensors"), None if options.read_text() == "null" else read_json(options)


def _fitting_presets(shapes):
    """Names of the presets whose generator has just these {reference key: shape}; no weights of an ablation were released."""
    models = {name: preset.model for name, preset in PRESETS.items() if preset.model.network == "unet" and name not in ABLATIONS}
    with torch.device("meta"):
        generators = {name: Generator(model) for name, model in models.items()}
    return [name for name, generator in generators.items() if reference_shapes(generator, generator_keys(generator)) == shapes]
