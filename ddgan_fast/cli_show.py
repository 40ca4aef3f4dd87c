"""`ddgan presets` and `ddgan env`: what there is to choose from, and what this machine has."""

import json
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from ddgan_fast.cli_arguments import find_preset
from ddgan_fast.errors import InputError


@dataclass(frozen=True)
class Presets:
    """List the presets, or show one with the source of every number: `ddgan presets show cifar10`."""

    action: Annotated[Literal["list", "show"], tyro.conf.Positional] = "list"
    name: Annotated[str | None, tyro.conf.Positional] = None

    def run(self):
        from ddgan_fast.config import PRESETS
        from ddgan_fast.sources import describe, partner

        if self.action == "list":
            for name, config in PRESETS.items():
                size = "x".join(map(str, config.model.sample_shape))
                print(f"{name:22} {size:10} T = {config.diffusion.steps}, {config.train.iterations:,} steps of {config.train.batch_size}")
            return
        if self.name is None:
            raise InputError(f"presets show: which? {', '.join(PRESETS)}")
        find_preset(self.name)
        other = partner(self.name)
        print(f"{self.name}" + (f"; where {other} differs, its value is in brackets" if other else ""))
        for setting, value, source, theirs in describe(self.name):
            differs = f"  [{other}: {theirs}]" if other and setting != "data" and theirs != value else ""
            print(f"  {setting:22} {value!s:20} {source}{differs}")


@dataclass(frozen=True)
class Env:
    """Say what is here: versions, devices, backends, engines, extras, and why something is missing."""

    json: bool = False
    """Print JSON."""

    def run(self):
        from ddgan_fast.environment import collect

        found = collect()
        if self.json:
            print(json.dumps(found, indent=2))
            return
        for section, entries in found.items():
            print(section)
            for name, text in entries.items():
                print(f"  {name:16} {text}")
