"""All that training changes: networks, averaged weights, optimisers, the step; and its checkpoint (design.md section 6)."""

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ddgan_fast.checkpoint.folder import read_json, read_tensors, verify, write_checkpoint
from ddgan_fast.checkpoint.model import load_into, read_config
from ddgan_fast.config import to_dict
from ddgan_fast.errors import CheckpointError, NonFiniteError
from ddgan_fast.models import build_discriminator, build_generator, memory_format


class TrainState:
    """Networks on `device`, fresh from the config's seed. `step` counts finished steps.

    ema.module is the generator with averaged weights: a copy of the weights after the first step, then
    ema = decay * ema + (1 - decay) * weights after each.
    """

    def __init__(self, config, device="cpu"):
        torch.manual_seed(config.train.seed)
        device = torch.device(device)
        layout = memory_format(device)
        train = config.train
        self.config = config
        self.step = 0
        self.generator = build_generator(config.model).to(device, memory_format=layout)
        self.discriminator = build_discriminator(config.model).to(device, memory_format=layout)
        self.ema = AveragedModel(self.generator, multi_avg_fn=get_ema_multi_avg_fn(train.ema_decay))
        self.optim_g = torch.optim.Adam(self.generator.parameters(), train.lr_g, (train.beta1, train.beta2), fused=True)
        self.optim_d = torch.optim.Adam(self.discriminator.parameters(), train.lr_d, (train.beta1, train.beta2), fused=True)

    def save(self, root):
        """Write a checkpoint under `root`; its path. Raises NonFiniteError rather than keep a NaN, ResourceError on a full disk."""
        tensors = {
            "generator": _plain(self.generator.state_dict()),
            "ema": _plain(self.ema.module.state_dict()),
            "discriminator": _plain(self.discriminator.state_dict()),
            "optim_g": _flatten(self.optim_g, self.generator),
            "optim_d": _flatten(self.optim_d, self.discriminator),
        }
        for name, values in tensors.items():
            for key, value in values.items():
                if not torch.isfinite(value).all():
                    raise NonFiniteError(f"step {self.step}: {name} has a NaN or an infinity in {key}; no checkpoint was written")
        state = {"step": self.step, "images_seen": self.step * self.config.train.batch_size, "config": to_dict(self.config)}
        return write_checkpoint(root, self.step, tensors, state)

    @classmethod
    def load(cls, path, device="cpu"):
        """The state of a checkpoint folder. Raises CheckpointError where a file is missing, changed or does not fit."""
        verify(path)
        saved = read_json(path / "state.json")
        state = cls(read_config(saved.get("config"), path / "state.json"), device)
        state.step = saved.get("step")
        if type(state.step) is not int or state.step < 0:
            raise CheckpointError(f"{path / 'state.json'}: step is {state.step!r}; it must be a whole number from 0 up")
        for name, network in (("generator", state.generator), ("ema", state.ema.module), ("discriminator", state.discriminator)):
            load_into(network, read_tensors(path / f"{name}.safetensors"), path / f"{name}.safetensors")
        state.ema.n_averaged.fill_(state.step)
        for name, optimiser, network in (("optim_g", state.optim_g, state.generator), ("optim_d", state.optim_d, state.discriminator)):
            _unflatten(optimiser, network, read_tensors(path / f"{name}.safetensors"), path / f"{name}.safetensors")
        return state


def _plain(tensors):
    return {name: value.detach().contiguous().cpu() for name, value in tensors.items()}


def _flatten(optimiser, network):
    """Adam's state as {"parameter/entry": tensor}."""
    state = optimiser.state_dict()["state"]
    names = [name for name, _ in network.named_parameters()]
    return _plain({f"{names[i]}/{entry}": value for i, entries in state.items() for entry, value in entries.items()})


def _unflatten(optimiser, network, tensors, where):
    """Put back what `_flatten` took, in the memory layout of the parameters: fused Adam pairs elements by their place in memory."""
    saved = optimiser.state_dict()
    for i, (name, parameter) in enumerate(network.named_parameters()):
        entries = {entry: tensors.pop(f"{name}/{entry}", None) for entry in ("step", "exp_avg", "exp_avg_sq")}
        shapes = [None if value is None else value.shape for value in entries.values()]
        if shapes == [None] * 3:
            continue  # never had a gradient
        if shapes != [torch.Size([]), parameter.shape, parameter.shape]:
            raise CheckpointError(f"{where}: the state of {name} is incomplete or of another shape")
        moments = {entry: torch.empty_like(parameter).copy_(entries[entry]) for entry in ("exp_avg", "exp_avg_sq")}
        saved["state"][i] = {"step": entries["step"], **moments}
    if tensors:
        raise CheckpointError(f"{where}: {next(iter(tensors))} does not belong to the model")
    optimiser.load_state_dict(saved)
