"""State dicts of the released training script: their options, their keys, and our networks made from them."""

from ddgan_fast.config import Config, override, suggest
from ddgan_fast.errors import CheckpointError, InputError
from ddgan_fast.models import Discriminator, Generator
from ddgan_fast.models.layers import Attention, PyramidDown, ResBlock

# option -> (our field, the released default)
MODEL_OPTIONS = {
    "image_size": ("resolution", 32),
    "num_channels": ("image_channels", 3),
    "num_channels_dae": ("channels", 128),
    "ch_mult": ("channel_mult", None),
    "num_res_blocks": ("blocks", 2),
    "attn_resolutions": ("attention", (16,)),
    "nz": ("latent_dim", 100),
    "z_emb_dim": ("embedding_dim", 256),
    "n_mlp": ("mapping_layers", 3),
    "dropout": ("dropout", 0.0),
    "not_use_tanh": ("tanh", False),
    "centered": ("centered", True),
    "ngf": ("discriminator_channels", 64),
    "t_emb_dim": ("time_dim", 256),
}
DIFFUSION_OPTIONS = {"num_timesteps": "steps", "beta_min": "beta_min", "beta_max": "beta_max"}
# option -> the one value we build
FIXED_OPTIONS = {
    "resblock_type": "biggan",
    "fir": True,
    "fir_kernel": [1, 3, 3, 1],
    "skip_rescale": True,
    "progressive": "none",
    "progressive_input": "residual",
    "embedding_type": "positional",
    "conditional": True,
    "use_geometric": False,
}
# read by the training script alone, or without effect beside the fixed options
IGNORED_OPTIONS = {
    "progressive_combine", "resamp_with_conv", "fourier_scale", "dataset", "exp", "seed", "resume", "batch_size", "num_epoch",
    "lr_g", "lr_d", "beta1", "beta2", "no_lr_decay", "use_ema", "ema_decay", "r1_gamma", "lazy_reg", "save_content",
    "save_content_every", "save_ckpt_every", "num_proc_node", "num_process_per_node", "node_rank", "local_rank", "master_address",
}  # fmt: skip
KNOWN_OPTIONS = {*MODEL_OPTIONS, *DIFFUSION_OPTIONS, *FIXED_OPTIONS, *IGNORED_OPTIONS}

_RES_BLOCK = {"norm0": "GroupNorm_0", "conv0": "Conv_0", "time": "Dense_0", "norm1": "GroupNorm_1", "conv1": "Conv_1", "shortcut": "Conv_2"}
_ATTENTION = {"norm": "GroupNorm_0", "query": "NIN_0", "key": "NIN_1", "value": "NIN_2", "projection": "NIN_3"}
_NIN = {"weight": "W", "bias": "b"}
_DISCRIMINATOR = {
    "time.0": "t_embed.main.0", "time.1": "t_embed.main.2", "conv_in": "start_conv", "conv_out": "final_conv", "head": "end_linear",
}  # fmt: skip
_DISCRIMINATOR_BLOCK = {"conv0": "conv1.0", "time": "dense_t1", "conv1": "conv2.0", "skip": "skip.0"}


def from_options(options, size="small"):
    """(config.Model, config.Diffusion) of the released script's options.

    options: {name: value} as its command line has them; missing ones take its defaults (ch_mult has none), those that only
    training reads are ignored.  size: of the discriminator.  Raises InputError that names an option we do not build or know.
    """
    for name, value in options.items():
        if name not in KNOWN_OPTIONS:
            raise InputError(f"unknown option {name!r}{suggest(name, KNOWN_OPTIONS)}")
        if name in FIXED_OPTIONS and (list(value) if isinstance(value, tuple) else value) != FIXED_OPTIONS[name]:
            raise InputError(f"option {name} = {value!r} is not supported; only {FIXED_OPTIONS[name]!r} is")
    if options.get("ch_mult") is None:
        raise InputError("option ch_mult is missing: the released script has no default for it; give the list of widths, as [1, 2, 2, 2]")
    values = {ours: options.get(name, default) for name, (ours, default) in MODEL_OPTIONS.items()}
    values |= {ours: options[name] for name, ours in DIFFUSION_OPTIONS.items() if name in options}
    try:
        config = override(Config(), values | {"tanh": not values["tanh"], "discriminator": size})
        return config.model, config.diffusion
    except ValueError as error:
        raise InputError(f"options: {error}") from error


def generator_keys(generator):
    """{our parameter name: reference key} of a Generator, in registration order (the reference numbers its modules in that order).

    Weights of attention layers (reference key ending in .W) are stored transposed there.
    """
    keys, index = {}, 0
    for name, module in generator.named_modules():
        table = _RES_BLOCK if isinstance(module, ResBlock) else _ATTENTION if isinstance(module, Attention) else {"conv": "Conv2d_0"}
        unit = isinstance(module, (ResBlock, Attention, PyramidDown))
        if not unit and name not in ("time.0", "time.1", "conv_in", "norm_out", "conv_out"):
            continue
        for parameter, _ in module.named_parameters():
            head, _, tail = parameter.rpartition(".")
            layer, _, rest = head.partition(".")
            theirs = ".".join(filter(None, (table.get(layer, layer), rest)))
            theirs_tail = _NIN[tail] if theirs.startswith("NIN") else tail
            keys[f"{name}.{parameter}"] = ".".join(filter(None, (f"all_modules.{index}", theirs, theirs_tail)))
        index += 1
    for name, _ in generator.mapping.named_parameters() if generator.mapping else ():
        keys[f"mapping.{name}"] = f"z_transform.{name}"
    return keys


def discriminator_keys(discriminator):
    """{our parameter name: reference key} of a Discriminator."""
    keys = {}
    for name, _ in discriminator.named_parameters():
        head, _, tail = name.rpartition(".")
        if head.startswith("blocks."):
            _, index, layer = head.split(".")
            keys[name] = f"conv{int(index) + 1}.{_DISCRIMINATOR_BLOCK[layer]}.{tail}"
        else:
            keys[name] = f"{_DISCRIMINATOR[head]}.{tail}"
    return keys


def to_ours(key, tensor):
    """A reference tensor in our layout: attention weights transposed, all else as it is."""
    return tensor.t() if key.endswith(".W") else tensor


def load_reference_generator(state_dict, options):
    """A Generator with the weights of a released state dict; keys may carry the prefix `module.`.

    options: as in `from_options`.  Raises CheckpointError unless every key and shape fits, InputError for options.
    """
    return generator_from(from_options(options)[0], state_dict)


def generator_from(model, state_dict):
    """A Generator of that config.Model with the weights of a released state dict; as `load_reference_generator`."""
    generator = Generator(model)
    return _load(generator, generator_keys(generator), state_dict)


def load_reference_discriminator(state_dict, options, size="small"):
    """A Discriminator of the given size ("small" or "large") with the weights of a released state dict; as the generator's."""
    discriminator = Discriminator(from_options(options, size)[0])
    return _load(discriminator, discriminator_keys(discriminator), state_dict)


def _load(network, keys, state_dict):
    state_dict = {key.removeprefix("module."): value for key, value in state_dict.items()}
    compare(reference_shapes(network, keys), {key: tuple(value.shape) for key, value in state_dict.items()})
    check_finite(state_dict)
    network.load_state_dict({name: to_ours(key, state_dict[key]) for name, key in keys.items()})
    return network


def reference_shapes(network, keys):
    """{reference key: shape} of our network; keys: as `generator_keys` gives them."""
    return {keys[name]: tuple(to_ours(keys[name], p.detach()).shape) for name, p in network.named_parameters()}


def check_finite(tensors):
    """Raises CheckpointError that names the first five of {key: tensor} that hold NaN or infinity."""
    if broken := [key for key, value in tensors.items() if not value.isfinite().all()]:
        raise CheckpointError(f"NaN or infinity in {', '.join(broken[:5])}: the file is damaged, or its training had failed")


def compare(want, have):
    """Raises CheckpointError that names the first five keys that are missing, unknown or of another shape.  {key: shape} each."""
    wrong = []
    for key in [*want, *(key for key in have if key not in want)]:
        if key not in have:
            wrong.append(f"{key}: missing, should be {list(want[key])}")
        elif key not in want:
            wrong.append(f"{key}: unknown, {list(have[key])}")
        elif tuple(want[key]) != tuple(have[key]):
            wrong.append(f"{key}: {list(have[key])}, should be {list(want[key])}")
    if wrong:
        more = f"\n  and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise CheckpointError("the weights do not fit the model:\n  " + "\n  ".join(wrong[:5]) + more)
