"""What a model, its diffusion and its training are, as frozen dataclasses.

Every field name is unique over all groups, because it is also a flag of the command line and a key of `config.yaml` and
`config.json`, which are flat. Errors are plain ValueErrors: this module imports nothing but the standard library.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

MOST_WIDTH, MOST_DEPTH, MOST_LEVELS = 65_536, 64, 12  # of a network: a config may come from strangers, and is built before weights are read


def require(holds, name, value, what):
    """Raise the ValueError that says what a setting must be, unless `holds`."""
    if not holds:
        raise ValueError(f"{name} = {value!r}: it must be {what}")


@dataclass(frozen=True)
class Model:
    """Generator and discriminator. Names in brackets: the option of the released training script."""

    network: Literal["unet", "mlp"] = "unet"
    """NCSN++ U-Net for images, or the MLPs for 2-D points of paper C.5."""
    resolution: int = 32
    """Pixels a side [image_size]. The MLP has none."""
    image_channels: int = 3
    """Channels of an image [num_channels]."""
    channels: int = 128
    """Base width of the generator [num_channels_dae]; hidden units of the MLPs."""
    channel_mult: tuple[int, ...] = (1, 2, 2, 2)
    """Width of each level over the base width; each level after the first halves the resolution [ch_mult]."""
    blocks: int = 2
    """Residual blocks per level [num_res_blocks]."""
    attention: tuple[int, ...] = (16,)
    """Resolutions with self-attention [attn_resolutions]; the middle always has it."""
    latent: bool = True
    """False: plain GroupNorm in place of AdaGN, and no mapping network (paper C.4)."""
    latent_dim: int = 100
    """Size of z [nz]."""
    embedding_dim: int = 256
    """Size of the mapped latent w [z_emb_dim]."""
    mapping_layers: int = 4
    """Linear layers of the mapping network after its first [n_mlp]."""
    dropout: float = 0.0
    """Dropout rate inside the residual blocks, in [0, 1)."""
    tanh: bool = True
    """Bound x0 to [-1, 1] by tanh [not not_use_tanh]."""
    centered: bool = True
    """Inputs lie in [-1, 1]; False: in [0, 1], and the generator maps them [centered]."""
    discriminator: Literal["small", "large"] = "small"
    """small: 3 halvings (CIFAR-10); large: 6 (256 pixels)."""
    discriminator_channels: int = 64
    """Base width of the discriminator [ngf]."""
    time_dim: int = 256
    """Size of the discriminator's time embedding [t_emb_dim]."""

    def __post_init__(self):
        for name in ("resolution", "image_channels", "channels", "latent_dim", "embedding_dim", "discriminator_channels"):
            require(1 <= getattr(self, name) <= MOST_WIDTH, name, getattr(self, name), f"1 to {MOST_WIDTH:,}")
        require(1 <= self.blocks <= MOST_DEPTH, "blocks", self.blocks, f"1 to {MOST_DEPTH}")
        require(0 <= self.mapping_layers <= MOST_DEPTH, "mapping_layers", self.mapping_layers, f"0 to {MOST_DEPTH}")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "in [0, 1)")
        require(4 <= self.time_dim <= MOST_WIDTH, "time_dim", self.time_dim, f"4 to {MOST_WIDTH:,}")
        if self.network == "mlp":
            return
        widths = f"up to {MOST_LEVELS} whole numbers, 1 to {MOST_DEPTH}"
        holds = 1 <= len(self.channel_mult) <= MOST_LEVELS and all(1 <= width <= MOST_DEPTH for width in self.channel_mult)
        require(holds, "channel_mult", self.channel_mult, widths)
        require(self.channels >= 4 and self.channels % 4 == 0, "channels", self.channels, "a multiple of 4")
        halvings = 2 ** (len(self.channel_mult) - 1)
        multiple = f"a multiple of {halvings} with {len(self.channel_mult)} levels in channel_mult"
        require(self.resolution % halvings == 0, "resolution", self.resolution, multiple)
        least = 8 if self.discriminator == "small" else 64
        require(self.resolution >= least, "resolution", self.resolution, f"{least} or more with the {self.discriminator} discriminator")

    @property
    def sample_shape(self):
        """Shape of one sample: (C, H, W) of an image, (2,) of a point."""
        return (2,) if self.network == "mlp" else (self.image_channels, self.resolution, self.resolution)


@dataclass(frozen=True)
class Diffusion:
    """The variance-preserving schedule, paper C.2 and Eq. 16."""

    steps: int = 4
    """T, the number of denoising steps, and of network evaluations per sample (NFE)."""
    beta_min: float = 0.1
    beta_max: float = 20.0
    epsilon: float = 1e-3
    """Time of the cleanest point: 1e-3 in the release, 0 in Eq. 16."""
    prediction: Literal["x0", "x_t", "noise"] = "x0"
    """What the generator puts out: the clean image; the next image itself, or the noise in the one it sees (paper C.4)."""

    def __post_init__(self):
        require(1 <= self.steps <= 1000, "steps", self.steps, "1 to 1000 (the paper uses 1, 2, 4 and 8)")
        require(0 < self.beta_min < math.inf, "beta_min", self.beta_min, "a positive number")
        require(self.beta_min <= self.beta_max < math.inf, "beta_max", self.beta_max, f"a number not under beta_min ({self.beta_min})")
        require(0 <= self.epsilon < 1, "epsilon", self.epsilon, "in [0, 1)")


@dataclass(frozen=True)
class Train:
    """Data, losses, optimisers and the rhythm of a run."""

    data: str = ""
    """NAME, NAME:PATH or PATH: gaussians25, digits, fashion-mnist, emoji, cifar10:DIR, stackedmnist:DIR, or a folder or file of images."""
    flip: bool = False
    """Mirror images at random."""
    max_images: int = 0
    """Train on so many of the first images; 0: on all."""
    on_bad_image: Literal["error", "skip"] = "error"
    """An image that cannot be read ends the run, or is named and replaced by the next."""
    resident_gb: float = 1.0
    """GiB of uint8 up to which a set is decoded at the start and stays on the device."""
    loader: Literal["auto", "torch", "dali"] = "auto"
    """What decodes larger sets: torch's worker processes, DALI, or auto, which is DALI on a GPU where it is installed."""
    workers: int = 0
    """Processes (torch) or threads (DALI, streams) that decode."""
    shuffle_buffer: int = 0
    """Above 0: tar shards are streamed one after the other, and so many images of them mixed; needed for remote ones."""
    batch_size: int = 256
    """Images per step over all devices."""
    accumulate: int = 1
    """Parts in which each device takes its share of a step, one after the other: less memory, the same batch size."""
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
    """Of activations and gradients inside the networks; weights, averages, losses and optimisers are float32. fp16 scales its losses."""
    engine: Literal["auto", "eager", "graph"] = "auto"
    """How a step runs: graph (CUDA graphs), eager, or auto, which is graph on a GPU."""
    optimizer: Literal["adam", "apex"] = "adam"
    """torch's fused Adam, or FusedAdam of an installed apex."""
    checkpoint_activations: bool = False
    """Compute the generator's activations a second time in the backward pass in place of keeping them: less memory, more time."""
    iterations: int = 100_000
    """Training steps, each one step of D and one of G."""
    lr_g: float = 1.6e-4
    lr_d: float = 1.25e-4
    lr_min: float = 1e-5
    """Learning rate in the last epoch."""
    lr_decay: bool = True
    """Cosine decay, one value per epoch."""
    beta1: float = 0.5
    beta2: float = 0.9
    ema_decay: float = 0.9999
    r1_gamma: float = 0.02
    """Weight of the R1 penalty on D; 0 leaves it out."""
    r1_every: int = 15
    """Steps between R1 penalties; the penalty is not multiplied by it."""
    augment_steps: int = 0
    """Above 0: a one-shot GAN; real and generated images are perturbed by a diffusion of so many steps, to any but its last (paper C.4)."""
    on_nan: Literal["stop", "skip"] = "stop"
    """After a gradient that is NaN or infinite, which never reaches the weights: end the run, or go on with a warning."""
    seed: int = 0
    """Of the weights, the order of the data and the training noise: 0 to 2^32 - 1."""
    log_every: int = 100
    """Steps between lines of metrics.jsonl."""
    sample_every: int = 5000
    """Steps between sample grids."""
    checkpoint_every: int = 5000
    """Steps between checkpoints."""
    keep: int = 3
    """Checkpoints kept."""

    def __post_init__(self):
        for name in ("batch_size", "accumulate", "iterations", "r1_every", "log_every", "sample_every", "checkpoint_every", "keep"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        for name in ("lr_g", "lr_d"):
            require(0 < getattr(self, name) < math.inf, name, getattr(self, name), "a positive number")
        for name in ("lr_min", "r1_gamma", "max_images", "resident_gb", "shuffle_buffer"):
            require(0 <= getattr(self, name) < math.inf, name, getattr(self, name), "0 or a positive number")
        for name in ("beta1", "beta2", "ema_decay"):
            require(0 <= getattr(self, name) < 1, name, getattr(self, name), "in [0, 1)")
        require(0 <= self.augment_steps <= 1000, "augment_steps", self.augment_steps, "0 to 1000 (the paper uses 4)")
        require(0 <= self.workers <= 64, "workers", self.workers, "0 to 64")
        require(0 <= self.seed < 2**32, "seed", self.seed, "0 to 2^32 - 1")


@dataclass(frozen=True)
class Config:
    """Everything that names a model and how it was or will be trained."""

    name: str = "custom"
    model: Model = field(default_factory=Model)
    diffusion: Diffusion = field(default_factory=Diffusion)
    train: Train = field(default_factory=Train)

    def __post_init__(self):
        batch = self.train.batch_size
        if self.model.network == "unet":
            require(batch <= 4 or batch % 4 == 0, "batch_size", batch, "a multiple of 4 above 4 (the discriminator looks at groups of 4)")
        prediction, augment_steps = self.diffusion.prediction, self.train.augment_steps
        unbounded = f"false with prediction = {prediction!r}, which tanh would bound to [-1, 1]"
        require(prediction == "x0" or not self.model.tanh, "tanh", self.model.tanh, unbounded)
        if augment_steps:
            require(self.diffusion.steps == 1, "steps", self.diffusion.steps, f"1 with augment_steps = {augment_steps}: a one-shot GAN")
            require(prediction == "x0", "prediction", prediction, f"'x0' with augment_steps = {augment_steps}")
