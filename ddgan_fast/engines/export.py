"""A generator as a graph of plain torch operations with a dynamic batch, and that graph as ONNX.

Two targets. `step` is one network evaluation: (x_t, t, z) -> x0. `sampler` is the whole unrolled loop of paper Eq. 6:
(x_T, z, noise) -> image, with schedule and time embedding folded into constants. Inputs and outputs are float32 (t: int64); half precision
is inside: of convolutions, products and activations, while norms, softmax, mapping and posterior stay float32. No graph draws random
numbers.
"""

import importlib
import logging
import warnings
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from ddgan_fast.diffusion import bound
from ddgan_fast.errors import InputError, MissingError
from ddgan_fast.models.inference import TRANSFORMATIONS, optimize_for_sampling
from ddgan_fast.ops import backend
from ddgan_fast.precision import PRECISIONS

TARGETS = "step", "sampler"
EXPORTED_PRECISIONS = "fp32", "bf16", "fp16"
OPSETS = {"fp32": 21, "fp16": 21, "bf16": 22}  # the first in which group norm is one node, and in which convolutions have bfloat16
MOST_IMAGES = 4096  # the largest batch of a graph
BATCH = "batch"


@dataclass(frozen=True)
class Port:
    """An input or output of a graph."""

    name: str
    dtype: str
    """float32 or int64."""
    shape: tuple
    """Whole numbers, and "batch" where the size is free."""
    meaning: str
    """What it holds, with its range."""

    @property
    def batch_axis(self):
        """The dimension of the batch."""
        return self.shape.index(BATCH)

    def sized(self, batch):
        """The shape of a batch of this size."""
        return [batch if size == BATCH else size for size in self.shape]

    def example(self, batch, steps, device="cpu"):
        """A random tensor for a batch of this size."""
        shape = self.sized(batch)
        if self.dtype == "int64":
            return torch.randint(steps, shape, device=device)
        return torch.randn(shape, device=device)


class Step(nn.Module):
    """(x_t, t, z) -> x0 of a network in some dtype, with float32 outside."""

    def __init__(self, network, dtype):
        super().__init__()
        self.network, self.dtype = network, dtype

    def forward(self, x_t, t, z=None):
        return self.network(x_t.to(self.dtype), t, z).float()


class Unrolled(nn.Module):
    """(x_T, z, noise) -> image: all T evaluations and posterior steps, as diffusion.denoise with given noise.

    batch_first: z and noise come as [B, T, ...], for servers that join requests along the first dimension.
    """

    def __init__(self, network, dtype, schedule, batch_first=False):
        super().__init__()
        self.network, self.dtype, self.batch_first = network, dtype, batch_first
        self.coefficients = schedule.posterior.T.tolist()  # of each t: for x0, for x_t, standard deviation

    def forward(self, x_T, z=None, noise=None):
        if self.batch_first:
            z, noise = None if z is None else z.transpose(0, 1), noise.transpose(0, 1)
        evaluate, x = bound(self.network, z), x_T
        for t, (of_x0, of_x_t, deviation) in reversed(list(enumerate(self.coefficients))):
            x0 = evaluate(x.to(self.dtype), t).float()
            x = of_x0 * x0 + of_x_t * x + deviation * noise[t]
        return x


@dataclass(frozen=True)
class Graph:
    """A module of plain torch operations, with its ports."""

    module: nn.Module
    inputs: tuple
    output: Port
    target: str
    precision: str
    steps: int

    @property
    def batch_axes(self):
        """{name of an input: the axis of its batch}."""
        return {port.name: port.batch_axis for port in self.inputs}

    def examples(self, batch, device="cpu"):
        """{name: random tensor} for the inputs."""
        return {port.name: port.example(batch, self.steps, device) for port in self.inputs}


def ports(model, steps, target, batch_first=False):
    """(inputs, output) of a target for a config.Model and T steps."""

    def stacked(*shape):
        return (BATCH, steps, *shape) if batch_first else (steps, BATCH, *shape)

    x, latent = (BATCH, *model.sample_shape), (model.latent_dim,)
    drawn = f"standard normal; entry i along the dimension of size {steps} is used at t = i"
    if target == "step":
        inputs = [Port("x_t", "float32", x, "the noisier image of a pair"), Port("t", "int64", (BATCH,), f"step index, 0 to {steps - 1}")]
        inputs += [Port("z", "float32", (BATCH, *latent), "standard normal")] if model.latent else []
        return tuple(inputs), Port("x0", "float32", x, "predicted clean image, in [-1, 1] with tanh")
    inputs = [Port("x_T", "float32", x, "standard normal")]
    inputs += [Port("z", "float32", stacked(*latent), drawn)] if model.latent else []
    inputs += [Port("noise", "float32", stacked(*model.sample_shape), f"{drawn}; that of t = 0 has weight 0")]
    return tuple(inputs), Port("image", "float32", x, "image in [-1, 1], or points")


def make_graph(generator, schedule, target, precision="fp32", batch_first=False, plain=False):
    """The Graph of a generator (models.build_generator) in its folded form, or plain as it is (the reference in float32).

    target: a name of TARGETS.  precision: a name of EXPORTED_PRECISIONS.  Raises InputError for another name.
    """
    if target not in TARGETS:
        raise InputError(f"target {target!r}: there are {', '.join(TARGETS)}")
    if precision not in EXPORTED_PRECISIONS:
        raise InputError(f"precision {precision!r}: an export has {', '.join(EXPORTED_PRECISIONS)}")
    model, dtype = generator.config, PRECISIONS[precision]
    network, schedule = generator, schedule.to(next(generator.parameters()).device)
    if model.network != "unet" and precision != "fp32":
        raise InputError(f"precision {precision!r}: a network for points is exported in fp32")
    if model.network == "unet" and not plain:
        network = optimize_for_sampling(generator, schedule, dtype, transformations=TRANSFORMATIONS)
    module = Step(network, dtype) if target == "step" else Unrolled(network, dtype, schedule, batch_first)
    return Graph(module.eval(), *ports(model, schedule.steps, target, batch_first), target, precision, schedule.steps)


def torch_program(graph):
    """torch.export's program of a Graph: plain aten operations, batch 1 to MOST_IMAGES."""
    batch = torch.export.Dim(BATCH, min=1, max=MOST_IMAGES)
    device = next(graph.module.parameters()).device
    shapes = {name: {axis: batch} for name, axis in graph.batch_axes.items()}
    with backend.force("reference"), torch.no_grad(), quiet():
        return torch.export.export(graph.module, (), graph.examples(2, device), dynamic_shapes=shapes, strict=False)


def write_onnx(graph, path):
    """Write a Graph as one ONNX file, its ports described in it, and check it. Raises MissingError without onnx and onnxscript."""
    onnx = require("onnx", "onnx")
    require("onnxscript", "onnx")
    names = {"input_names": [port.name for port in graph.inputs], "output_names": [graph.output.name]}
    with torch.no_grad(), quiet():
        program = torch.onnx.export(torch_program(graph), opset_version=OPSETS[graph.precision], dynamo=True, verbose=False, **names)
        program.save(path)
    model = onnx.load(path)
    described = {port.name: port.meaning for port in (*graph.inputs, graph.output)}
    for node in model.graph.node:
        del node.metadata_props[:]  # stack traces, with the paths of this machine
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        del value.metadata_props[:]
        value.doc_string = described.get(value.name, "")
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param:
                size.dim_param = BATCH
    onnx.save(model, path)
    onnx.checker.check_model(str(path), full_check=True)


def require(module, extra):
    """The module of that name. Raises MissingError with the pip line of the extra that brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingError(f'{module} cannot be imported ({error}): pip install "ddgan_fast[{extra}]"') from error


@contextmanager
def quiet():
    """Inside the block torch's exporters say nothing that a user could not act on."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
