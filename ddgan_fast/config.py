"""The settings of a Config (settings.py) by name, flat as the command line and the files have them; and the presets.

Errors are plain ValueErrors: this module imports nothing but the standard library.
"""

import difflib
import sys
from dataclasses import asdict, replace
from typing import Literal, get_args, get_origin, get_type_hints

from ddgan_fast.settings import Config, Diffusion, Model, Train, require

FORMAT_VERSION = 1

GROUPS = {"model": Model, "diffusion": Diffusion, "train": Train}
_TYPES = {name: (group, kind) for group, cls in GROUPS.items() for name, kind in get_type_hints(cls).items()} | {"name": ("", str)}


def suggest(name, known):
    """' (did you mean ...?)' when something near is known, else ''."""
    near = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def checked(name, value):
    """(group, value as the field of that name holds it). Raises ValueError for an unknown name or a value of another type."""
    if name not in _TYPES:
        raise ValueError(f"unknown setting {name!r}{suggest(name, _TYPES)}")
    group, kind = _TYPES[name]
    if get_origin(kind) is Literal:
        require(value in get_args(kind), name, value, " or ".join(map(repr, get_args(kind))))
    elif kind is float:
        require(type(value) in (int, float) and abs(value) <= sys.float_info.max, name, value, "a finite number")
        value = float(value)
    elif kind in (int, str, bool):
        require(type(value) is kind, name, value, {int: "a whole number", str: "text", bool: "true or false"}[kind])
    else:
        require(isinstance(value, (list, tuple)) and all(type(v) is int for v in value), name, value, "a list of whole numbers")
        value = tuple(value)
    return group, value


def override(config, values):
    """The config with the named fields replaced.

    values: {field name: value}, flat over all groups.  Raises ValueError for an unknown name or a value of another type.
    """
    groups = {group: {} for group in ("", *GROUPS)}
    for name, value in values.items():
        group, value = checked(name, value)
        groups[group][name] = value
    changed = {group: replace(getattr(config, group), **groups[group]) for group in GROUPS if groups[group]}
    return replace(config, **groups[""], **changed)


def to_dict(config):
    """Flat {field name: plain value}, lists for tuples: what config.yaml and config.json hold."""
    flat = {"name": config.name}
    for group in GROUPS:
        flat |= {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(getattr(config, group)).items()}
    return flat


def from_dict(values):
    """The config that `to_dict` wrote. Raises ValueError as `override` does."""
    return override(Config(), values)


def preset(name):
    """The preset of that name. Raises ValueError with the nearest name where there is none."""
    if name not in PRESETS:
        raise ValueError(f"no preset {name!r}{suggest(name, PRESETS)}; presets: {', '.join(PRESETS)}")
    return PRESETS[name]


_256 = Model(resolution=256, channels=64, channel_mult=(1, 1, 2, 2, 4, 4), mapping_layers=3, discriminator="large")

# `-paper` rows: Tables 6 to 8 and C.2; the others: the commands released with the weights. A number that neither gives is the
# released script's default. Iterations of released rows: (epochs + 1) * (images // batch), the last epoch at lr_min.
# fmt: off
PRESETS = {
    # paper FID 3.75; released netG_1200.pth; 1801 epochs of 195 steps
    "cifar10": Config("cifar10", train=Train(data="cifar10", flip=True, iterations=351_195)),
    "cifar10-paper": Config(
        "cifar10-paper",
        Model(latent_dim=256, embedding_dim=512, mapping_layers=3),
        Diffusion(epsilon=0.0),
        Train(data="cifar10", flip=True, batch_size=128, iterations=400_000, lr_d=1e-4, lr_min=0.0, r1_gamma=0.05, r1_every=1),
    ),
    # paper FID 7.64; released netG_550.pth; 801 epochs of 843 steps
    "celebahq256": Config(
        "celebahq256", _256, Diffusion(steps=2),
        Train(flip=True, workers=4, batch_size=32, iterations=675_243, lr_g=2e-4, lr_d=1e-4, r1_gamma=2.0, r1_every=10),
    ),
    "celebahq256-paper": Config(
        "celebahq256-paper", _256, Diffusion(epsilon=0.0),
        Train(flip=True, workers=4, batch_size=32, iterations=750_000, lr_d=1e-4, lr_min=0.0, ema_decay=0.999, r1_gamma=1.0, r1_every=1),
    ),
    # paper FID 5.25; no weights were released; 501 epochs of 1875 steps
    "lsun-church256": Config(
        "lsun-church256", _256,
        train=Train(flip=True, max_images=120_000, workers=4, batch_size=64, iterations=939_375, lr_d=1e-4, ema_decay=0.999,
                    r1_gamma=1.0, r1_every=10),
    ),
    "lsun-church256-paper": Config(
        "lsun-church256-paper", replace(_256, channels=128), Diffusion(epsilon=0.0),
        Train(flip=True, workers=4, batch_size=64, iterations=600_000, lr_g=2e-4, lr_d=1e-4,
              lr_min=0.0, ema_decay=0.999, r1_gamma=1.0, r1_every=1),
    ),
    # paper C.5: as CIFAR-10, 150k steps
    "stackedmnist": Config("stackedmnist", train=Train(data="stackedmnist", iterations=150_000)),
    # paper C.5: 3 layers of 512, Adam 1e-4, batch 512, 50k steps; the rest is open. Without R1 the discriminator runs ahead of the
    # generator and modes are lost. R1 in every step keeps the two level, so all modes form at once; a first moment without and a second
    # with a longer memory calm the swing between them; and a z of 4 numbers has few directions in which the borders between modes can lie.
    "gaussians25": Config(
        "gaussians25", Model(network="mlp", channels=512, latent_dim=4, tanh=False),
        train=Train(data="gaussians25", batch_size=512, iterations=50_000, lr_g=1e-4, lr_d=1e-4, beta1=0.0, beta2=0.99, ema_decay=0.999,
                    r1_gamma=0.1, r1_every=1),
    ),
    # minutes on a CPU: `make demo`
    "demo": Config(
        "demo",
        Model(resolution=8, image_channels=1, channels=32, channel_mult=(1, 2), blocks=1, attention=(4,), latent_dim=32, embedding_dim=64,
              mapping_layers=2, discriminator_channels=32, time_dim=64),
        train=Train(data="digits", batch_size=32, iterations=2000, lr_g=1e-4, lr_d=6e-4, ema_decay=0.995, log_every=50, sample_every=500,
                    checkpoint_every=500),
    ),
    # seconds on a CPU, for tests
    "tiny": Config(
        "tiny",
        Model(resolution=8, image_channels=1, channels=8, channel_mult=(1, 2), blocks=1, attention=(4,), latent_dim=4, embedding_dim=8,
              mapping_layers=1, discriminator_channels=4, time_dim=8),
        train=Train(data="digits", batch_size=8, iterations=8, log_every=2, sample_every=4, checkpoint_every=4),
    ),
}

# paper Table 2 and C.4: what differs from cifar10-paper, which is its T = 4, FID 3.75
ABLATIONS = {
    "cifar10-t1": {"steps": 1, "iterations": 200_000},  # paper FID 14.6
    "cifar10-t2": {"steps": 2, "iterations": 200_000},  # paper FID 4.08
    "cifar10-t8": {"steps": 8, "iterations": 600_000},  # paper FID 4.36
    "cifar10-one-shot-aug": {"steps": 1, "augment_steps": 4, "iterations": 200_000},  # paper FID 13.2; iterations: as T = 1
    "cifar10-direct": {"prediction": "x_t", "tanh": False},  # paper FID 6.03
    "cifar10-noise": {"prediction": "noise", "tanh": False},  # paper FID 8.04
    "cifar10-no-latent": {"latent": False},  # paper FID 20.6
}
PRESETS |= {name: override(PRESETS["cifar10-paper"], {"name": name, **values}) for name, values in ABLATIONS.items()}
