"""Model folders: config.json, model.safetensors, README.md (the model card). Loading needs no flag: a model knows its config."""

import json
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import torch
from safetensors.torch import save_file

from ddgan_fast import config as configs
from ddgan_fast.checkpoint.folder import newest_checkpoint, read_json, read_tensors, verify, write_folder, write_json
from ddgan_fast.checkpoint.reference import check_finite, compare
from ddgan_fast.errors import CheckpointError, InputError
from ddgan_fast.models import build_generator

FILES = {"config.json", "model.safetensors", "README.md"}
CARD = """---
library_name: ddgan_fast
tags: [denoising-diffusion-gan]
---
# {name}

A Denoising Diffusion GAN generator (Xiao, Kreis, Vahdat, ICLR 2022): {shape} samples in {steps} network evaluations,
{parameters:,} parameters. {origin}

```python
from ddgan_fast import DDGANPipeline
images = DDGANPipeline.from_pretrained("DIR")(num_images=16, seed=0).images
```
"""


def check_target(path):
    """Raises InputError unless a model may be written to `path`: it is new, an empty folder, or an older model."""
    path = Path(path)
    if path.exists() and (not path.is_dir() or not {file.name for file in path.iterdir()} <= FILES):
        raise InputError(f"{path}: exists and holds other files than a model's; give a new or empty folder")


def save_model(path, generator, config, origin=""):
    """Write a model folder; an older model there is replaced. Raises InputError where `path` holds something else."""
    check_target(path)
    card = CARD.format(
        name=config.name,
        shape="x".join(map(str, config.model.sample_shape)),
        steps=config.diffusion.steps,
        parameters=sum(p.numel() for p in generator.parameters()),
        origin=origin,
    )

    def write(folder):
        weights = {name: p.detach().float().contiguous().cpu() for name, p in generator.state_dict().items()}
        save_file(weights, folder / "model.safetensors")
        write_json(folder / "config.json", {"format_version": configs.FORMAT_VERSION, **configs.to_dict(config)})
        (folder / "README.md").write_text(card, encoding="utf-8")

    write_folder(path, write)


def load_model(path):
    """(generator in eval mode on the CPU, config) of a model folder, a checkpoint, or a run (its newest intact checkpoint's EMA).

    Raises CheckpointError where the folder is none of these, or is damaged.
    """
    path = Path(path)
    if (path / "config.json").is_file():
        config = read_config(read_json(path / "config.json"), path / "config.json")
        weights = path / "model.safetensors"
    else:
        if (path / "checkpoints").is_dir():
            checkpoint = newest_checkpoint(path / "checkpoints")
        elif (path / "state.json").is_file():
            verify(path)
            checkpoint = path
        else:
            checkpoint = None
        if checkpoint is None:
            kind = "no such folder" if not path.exists() else "neither config.json nor a checkpoint in it"
            raise CheckpointError(f"{path}: {kind}; give a model folder (config.json, model.safetensors) or a run of ddgan train")
        config = read_config(read_json(checkpoint / "state.json").get("config"), checkpoint / "state.json")
        weights = checkpoint / "ema.safetensors"
    try:
        with torch.device("meta"):  # no memory for weights that may not fit
            generator = build_generator(config.model)
    except InputError as error:
        raise CheckpointError(f"{weights}: {error}") from error
    load_into(generator, read_tensors(weights), weights, assign=True)
    return generator.eval().requires_grad_(False), config


def fingerprint(generator, config):
    """SHA-256 of a model: its weights and the settings that decide what it draws."""
    diffusion = asdict(config.diffusion)
    if diffusion["prediction"] == "x0":  # as it was before there were others, so that older engines and samples still name their model
        del diffusion["prediction"]
    digest = sha256(json.dumps([asdict(config.model), diffusion]).encode())
    for name, tensor in generator.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().float().contiguous().cpu().numpy())
    return digest.hexdigest()


def read_config(values, where):
    """The Config that a JSON object holds. Raises CheckpointError that names the file and the entry."""
    if not isinstance(values, dict):
        raise CheckpointError(f"{where}: has no config")
    try:
        return configs.from_dict({name: value for name, value in values.items() if name != "format_version"})
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{where}: {error}") from error


def load_into(network, tensors, where, assign=False):
    """Load tensors that must fit exactly, and be finite. Raises CheckpointError that names the file and the keys."""
    tensors = {key: value.float() for key, value in tensors.items()}
    try:
        compare({key: tuple(p.shape) for key, p in network.state_dict().items()}, {key: tuple(t.shape) for key, t in tensors.items()})
        check_finite(tensors)
    except CheckpointError as error:
        raise CheckpointError(f"{where}: {error}") from None
    network.load_state_dict(tensors, assign=assign)
