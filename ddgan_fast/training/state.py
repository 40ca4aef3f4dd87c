"""All that training changes: networks, averaged weights, optimisers, the step; and its checkpoint (design.md section 6)."""

import torch

from ddgan_fast.checkpoint.folder import read_json, read_tensors, verify, write_checkpoint
from ddgan_fast.checkpoint.model import load_into, read_config
from ddgan_fast.config import to_dict
from ddgan_fast.distributed import rank_and_world
from ddgan_fast.errors import CheckpointError, NonFiniteError
from ddgan_fast.models import build_discriminator, build_generator, memory_format
from ddgan_fast.training.adam import FlatAdam
from ddgan_fast.training.ema import EMA


class TrainState:
    """Networks on `device`, fresh from the config's seed. `step` counts finished steps; `world`: the ranks that make them."""

    def __init__(self, config, device="cpu"):
        torch.manual_seed(config.train.seed)
        device = torch.device(device)
        layout = memory_format(device)
        train = config.train
        self.config = config
        self.step = 0
        self.world = rank_and_world()[1]
        self.generator = build_generator(config.model).to(device, memory_format=layout)
        self.generator.checkpoint_activations = train.checkpoint_activations
        self.discriminator = build_discriminator(config.model).to(device, memory_format=layout)
        self.ema = EMA(self.generator, train.ema_decay)
        scaled = train.precision == "fp16"
        self.optim_g = FlatAdam(self.generator, train, train.lr_g, scaled)
        self.optim_d = FlatAdam(self.discriminator, train, train.lr_d, scaled)

    def save(self, root):
        """Write a checkpoint under `root`; its path. Raises NonFiniteError rather than keep a NaN, ResourceError on a full disk."""
        tensors = {
            "generator": self.generator.state_dict(),
            "ema": self.ema.module.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            **{name: optimiser.state() for name, optimiser in self._optimisers().items()},
        }
        tensors = {file: {key: value.detach().contiguous().cpu() for key, value in values.items()} for file, values in tensors.items()}
        for name, values in tensors.items():
            for key, value in values.items():
                if not torch.isfinite(value).all():
                    raise NonFiniteError(f"step {self.step}: {name} has a NaN or an infinity in {key}; no checkpoint was written")
        state = {
            "step": self.step,
            "images_seen": self.step * self.config.train.batch_size,
            "world": self.world,
            "loss_scale": {name: optimiser.loss_scale() for name, optimiser in self._optimisers().items()},
            "config": to_dict(self.config),
        }
        return write_checkpoint(root, self.step, tensors, state)

    def _optimisers(self):
        return {"optim_g": self.optim_g, "optim_d": self.optim_d}

    @classmethod
    def load(cls, path, device="cpu", config=None):
        """The state of a checkpoint folder, with a config of the same model in place of the one in it where one is given.

        Raises CheckpointError where a file is missing, changed or does not fit.
        """
        verify(path)
        where = path / "state.json"
        saved = read_json(where)
        state = cls(config or read_config(saved.get("config"), where), device)
        state.step = saved.get("step")
        if type(state.step) is not int or state.step < 0:
            raise CheckpointError(f"{where}: step is {state.step!r}; it must be a whole number from 0 up")
        for name, network in (("generator", state.generator), ("ema", state.ema.module), ("discriminator", state.discriminator)):
            load_into(network, read_tensors(path / f"{name}.safetensors"), path / f"{name}.safetensors")
        for name, optimiser in state._optimisers().items():
            optimiser.load(read_tensors(path / f"{name}.safetensors"), path / f"{name}.safetensors")
            optimiser.set_loss_scale(saved.get("loss_scale", {}).get(name))
        return state
