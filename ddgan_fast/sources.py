"""Where each number of a preset comes from, and where paper and released weights differ (`ddgan presets show`)."""

from ddgan_fast.config import ABLATIONS, PRESETS, preset, to_dict

_OURS = "chosen here"
_SCRIPT = "released script, default"
_COMMAND = "released command"

# setting: (source in the released presets, source in the -paper presets)
_SOURCES = {
    **dict.fromkeys(("network", "image_channels", "latent", "centered"), (_SCRIPT, "C.1")),
    "resolution": (_COMMAND, "Sec. 5"),
    **dict.fromkeys(("channels", "channel_mult", "latent_dim", "embedding_dim"), (_COMMAND, "Table 6")),
    **dict.fromkeys(("blocks", "attention"), (_SCRIPT, "Table 6")),
    "mapping_layers": (f"{_COMMAND}; 1 + n_mlp linear layers", "Table 6, its 3 read as n_mlp: 1 + 3 linear layers"),
    "dropout": (_SCRIPT, "C.1"),
    "tanh": (_SCRIPT, "not stated; as released"),
    "discriminator": (_SCRIPT, "Table 7, which has one halving more on CIFAR-10 than the released network"),
    "discriminator_channels": (_COMMAND, "Table 7"),
    "time_dim": (_COMMAND, "not stated; as released"),
    "steps": (_COMMAND, "C.2"),
    "beta_min": (_SCRIPT, "C.2"),
    "beta_max": (_SCRIPT, "C.2"),
    "epsilon": ("released schedule", "Eq. 16"),
    "prediction": ("as released", "Eq. 6"),
    "augment_steps": ("not in the released script", "C.4: in one ablation alone"),
    **dict.fromkeys(
        (
            "data",
            "seed",
            "on_bad_image",
            "resident_gb",
            "loader",
            "workers",
            "shuffle_buffer",
            "log_every",
            "sample_every",
            "checkpoint_every",
            "keep",
            "accumulate",
            "precision",
            "engine",
            "optimizer",
            "checkpoint_activations",
            "on_nan",
        ),
        (_OURS, _OURS),
    ),
    "max_images": (f"{_SCRIPT} of this data set", "not stated"),
    "flip": (f"{_SCRIPT} of this data set", "not stated; as released"),
    "batch_size": (f"{_COMMAND}, over all GPUs", "Table 8"),
    "iterations": (f"{_COMMAND}: (epochs + 1) x (images // batch)", "Table 8"),
    "lr_g": (_COMMAND, "Table 8"),
    "lr_d": (_COMMAND, "Table 8"),
    "lr_min": (_SCRIPT, "not stated; cosine to 0"),
    "lr_decay": (_SCRIPT, "C.2"),
    **dict.fromkeys(("beta1", "beta2"), (_SCRIPT, "Table 8")),
    "ema_decay": (_COMMAND, "Table 8"),
    "r1_gamma": (_COMMAND, "C.2"),
    "r1_every": (f"{_COMMAND}, not rescaled", "C.2: every step"),
}
_C5 = {"gaussians25": {"network", "channels", "batch_size", "lr_g", "lr_d", "steps", "iterations"}, "stackedmnist": {"iterations"}}
# settings whose released command leaves the flag out
_DEFAULTS = {("celebahq256", "mapping_layers"), ("lsun-church256", "mapping_layers"), ("celebahq256", "ema_decay")}
# settings of the ablations that are not simply those of paper C.4
_ABLATED = {
    ("cifar10-one-shot-aug", "iterations"): "not stated; as T = 1",
    ("cifar10-direct", "tanh"): "not stated; x_t is not bounded",
    ("cifar10-noise", "tanh"): "not stated; noise is not bounded",
}


def partner(name):
    """The other preset of a pair (release and paper), the one that an ablation departs from, or None."""
    if name in ABLATIONS:
        return "cifar10-paper"
    other = name.removesuffix("-paper") if name.endswith("-paper") else f"{name}-paper"
    return other if other in PRESETS else None


def describe(name):
    """Rows (setting, value, source, value of the partner or None) of a preset. Raises ValueError for an unknown name."""
    values = to_dict(preset(name))
    other = to_dict(PRESETS[partner(name)]) if partner(name) else {}
    del values["name"]
    return [(setting, value, _source(name, setting), other.get(setting)) for setting, value in values.items()]


def _source(name, setting):
    if name in _C5:
        if setting in _C5[name]:
            return "paper C.5"
        return _OURS if name == "gaussians25" or setting == "data" else "paper C.5: as CIFAR-10 (released values)"
    if setting in ABLATIONS.get(name, ()):
        return _ABLATED.get((name, setting), "paper C.4")
    if partner(name) is None:
        return _OURS
    if (name, setting) in _DEFAULTS:
        return f"{_SCRIPT}: the command has no flag"
    return _SOURCES[setting][name.endswith("-paper") or name in ABLATIONS]
