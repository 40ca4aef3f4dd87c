"""The folded form of the generator, for sampling and export: the same function in fewer, larger operations.

Sampling shares t across the batch, and z does not depend on x: whatever of the network depends on these alone is computed once, before
the loop over the steps. Each transformation below is exact in real numbers, works on any form and can be tested alone; weights are folded
in float64 and cast at the end.
"""

import copy

import torch
import torch.nn.functional as F
from torch import nn

from ddgan_fast.errors import InputError
from ddgan_fast.models.layers import EPS, AdaGN, Attention, Features, PyramidDown, ResBlock, attend, without_bias
from ddgan_fast.ops import adaptive_group_norm, conv3x3, extension, fir_up2, layout_of, pointwise_join, residual_join, winograd_weight
from ddgan_fast.ops.fir import taps
from ddgan_fast.ops.pointwise_join import pointwise
from ddgan_fast.ops.residual import SCALE

MOST_MERGED = 4  # channels of a pyramid up to which a 6x6 convolution costs less than a blur and a 3x3 one


class FoldedGenerator(nn.Module):
    """FoldedGenerator(x_t, t, z) -> x0, as models.generator.Generator; t is one index for all images (an int) or [B].

    `bind(z)` does the part of all T steps that does not depend on x_t, and returns the function of (x_t, t) that is left.
    Made by `optimize_for_sampling`.
    """

    def __init__(self, generator, steps):
        """generator: models.generator.Generator, which is copied; steps: T of the schedule."""
        super().__init__()
        self.config, self.steps = generator.config, steps
        self.net = copy.deepcopy(generator).to(dtype=torch.float64, memory_format=torch.channels_last).eval().requires_grad_(False)
        for parent, name, block in list(_modules(self.net, ResBlock)):
            setattr(parent, name, FoldedBlock(block))
        self.register_buffer("time_table", None)  # [T, R]: what each t adds behind the first convolution of all blocks, R channels in all
        self.style = None  # w -> scales and shifts of all norms

    def forward(self, x, t, z=None):
        return self.bind(None if z is None else z[None])(x, t, 0)

    def bind(self, z=None):
        """The function (x_t, t, i=t) -> x0 for latents z [T, B, nz], of which it takes z[i]; z None for a generator without latent."""
        w = [None] * self.steps
        if self.net.mapping is not None:
            w = self.net.mapping(z.flatten(0, 1).to(next(self.net.mapping.parameters()).dtype))
            w = (w if self.style is None else self.style(w)).unflatten(0, z.shape[:2])

        def evaluate(x, t, i=None):
            return self.net.unet(x, self._time(x, t), w[t if i is None else i])

        return evaluate

    def _time(self, x, t):
        if self.time_table is None:
            t = torch.full((x.shape[0],), t, device=x.device) if isinstance(t, int) else t
            return self.net.embed_time(t, next(self.net.time.parameters()).dtype)
        return self.time_table[t].expand(x.shape[0], -1)  # of an int: a view


class Columns(nn.Module):
    """The columns of a [B, R] that belong to one layer."""

    def __init__(self, start, count):
        super().__init__()
        self.columns = slice(start, start + count)

    def forward(self, rows):
        return rows[:, self.columns]


class StyledGN(nn.Module):
    """AdaGN whose scale and shift are columns of what `FoldedGenerator.style` made of w."""

    def __init__(self, groups, columns):
        super().__init__()
        self.groups, self.columns = groups, columns

    def forward(self, x, styles, swish=False, **options):
        scale, shift = self.columns(styles).chunk(2, dim=1)
        return adaptive_group_norm(x, scale, shift, self.groups, EPS, swish, **options)


class FoldedBlock(nn.Module):
    """A residual block (layers.ResBlock) without dropout; the transformations set its three switches."""

    def __init__(self, block):
        super().__init__()
        self.fir = block.fir
        self.norm0, self.conv0, self.time = block.norm0, block.conv0, block.time
        self.norm1, self.conv1, self.shortcut = block.norm1, block.conv1, block.shortcut
        self.scale = SCALE
        self.commuted = False  # the shortcut's convolution comes before the upsampling
        self.fused = False  # the shortcut's convolution, over both inputs, and the join are one op

    def forward(self, features, time, w, skip=None):
        x, stats = features
        options = {"fir": self.fir, "fir_x": not self.commuted}
        if skip is not None:
            options = {"skip": skip.x, "skip_stats": skip.stats, "concat": not self.fused}
        h = self.norm0(x, w, swish=True, stats=stats, **options)
        if isinstance(h, tuple):
            h, x = h
        in_place = isinstance(self.conv0, TransformedConv)  # adds its bias itself
        h = self.conv0(h) if in_place else without_bias(self.conv0, h)
        h = self.norm1(h, w, swish=True, bias=None if in_place else self.conv0.bias, embedding=self.time(time))
        if isinstance(self.conv1, TransformedConv):
            return Features(self.conv1(h, join=self._shortcut(x, skip), scale=self.scale))
        h, bias = without_bias(self.conv1, h), self.conv1.bias
        if self.shortcut is None:
            return Features(*residual_join(x, h, None, bias, with_stats=True, scale=self.scale))
        if self.fused:
            weight, skip = self.shortcut.weight[:, :, 0, 0], None if skip is None else skip.x
            return Features(*pointwise_join(x, weight, h, self.shortcut.bias, bias, skip, with_stats=True, scale=self.scale))
        x = without_bias(self.shortcut, x)
        return Features(*residual_join(x, h, self.shortcut.bias, bias, with_stats=True, up=self.commuted, scale=self.scale))

    def _shortcut(self, x, skip):
        """What the second convolution is joined with."""
        if self.shortcut is None:
            return x
        x = pointwise(x, self.shortcut.weight[:, :, 0, 0], skip.x if self.fused and skip is not None else None)
        return fir_up2(x) if self.commuted else x


class TransformedConv(nn.Module):
    """A 3x3 convolution with its weight transformed for `ops.conv3x3`, and what follows it in the same pass."""

    def __init__(self, conv):
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias
        self.register_buffer("transformed", winograd_weight(conv.weight))

    def forward(self, x, join=None, scale=1.0):
        return conv3x3(x, self.weight, self.transformed, self.bias, join, scale)


class FoldedAttention(nn.Module):
    """Single-head attention (layers.Attention) with two projections in place of four.

    With n the normalised pixels, q_i . k_j is n_i Wq' Wk n_j + bq Wk n_j and terms that do not depend on j, which the softmax forgets; so
    n itself serves as keys, and n Wq' Wk + bq Wk as queries. The weights of a row of the softmax sum to 1, so the projection behind it
    can be applied to the values before.
    """

    def __init__(self, attention):
        super().__init__()
        self.norm = attention.norm
        query, key, value, out = attention.query, attention.key, attention.value, attention.projection
        self.projection = _linear(
            torch.cat((key.weight.T @ query.weight, out.weight @ value.weight)),
            torch.cat((key.weight.T @ query.bias, out.weight @ value.bias + out.bias)),
        )

    def forward(self, features):
        x, stats = features
        keys = self.norm(x, stats=stats).flatten(2).transpose(1, 2).unsqueeze(1)  # [B, 1, HW, C]
        queries, values = self.projection(keys).chunk(2, dim=3)
        h = attend(queries, keys, values).squeeze(1).transpose(1, 2).unflatten(2, x.shape[2:])
        h = h.contiguous(memory_format=layout_of(x))
        return Features(*residual_join(x, h, with_stats=True))


class MergedPyramid(nn.Module):
    """layers.PyramidDown with the blur inside the convolution, now 6x6."""

    def __init__(self, down):
        super().__init__()
        weight = down.conv.weight
        single = weight.reshape(-1, 1, 3, 3)
        merged = F.conv2d(single, taps(single), padding=3).reshape(*weight.shape[:2], 6, 6)
        self.conv = nn.Conv2d(weight.shape[1], weight.shape[0], 6, stride=2, padding=2, device="meta")
        self.conv.weight = nn.Parameter(merged.contiguous(memory_format=torch.channels_last))
        self.conv.bias = down.conv.bias

    def forward(self, pyramid, features):
        return Features(*residual_join(without_bias(self.conv, pyramid), features.x, self.conv.bias, with_stats=True))


def fold_time(form):
    """The embedding of t, its two layers and the projection of each block become a table of T rows, with the convolutions' biases."""
    net, rows, start = form.net, [], 0
    time = net.embed_time(torch.arange(form.steps, device=net.conv_in.weight.device), net.conv_in.weight.dtype)
    for _, _, block in _modules(net, FoldedBlock):
        rows.append(block.time(time) + block.conv0.bias)
        block.conv0.bias = None
        block.time = Columns(start, rows[-1].shape[1])
        start += rows[-1].shape[1]
    net.time = None
    form.time_table = torch.cat(rows, dim=1)


def batch_styles(form):
    """The linear layers of all AdaGN become one, so that mapping and styles of all T steps are a few products before the loop."""
    weights, biases, start = [], [], 0
    for parent, name, norm in list(_modules(form.net, AdaGN)):
        weights.append(norm.style.weight)
        biases.append(norm.style.bias)
        setattr(parent, name, StyledGN(norm.groups, Columns(start, len(biases[-1]))))
        start += len(biases[-1])
    if weights:
        form.style = _linear(torch.cat(weights), torch.cat(biases))


def fold_attention(form):
    """Attention with two projections in place of four."""
    for parent, name, attention in list(_modules(form.net, Attention)):
        setattr(parent, name, FoldedAttention(attention))


def fold_scale(form):
    """1/sqrt(2) of a join goes into the weights where both inputs come out of convolutions."""
    for _, _, block in _modules(form.net, FoldedBlock):
        if block.shortcut is not None and block.scale != 1:
            for tensor in (*block.conv1.parameters(), *block.conv1.buffers(), *block.shortcut.parameters()):
                tensor.mul_(block.scale)
            block.scale = 1.0


def commute_shortcuts(form):
    """The 1x1 convolution of a shortcut comes before the upsampling, at a quarter of the cost, and the join upsamples in passing."""
    for _, _, block in _modules(form.net, FoldedBlock):
        block.commuted = block.fir == "up"


def fuse_shortcuts(form):
    """The other 1x1 convolutions of shortcuts become one op with the join; a skip is never concatenated."""
    for _, _, block in _modules(form.net, FoldedBlock):
        block.fused = block.shortcut is not None and block.fir != "up"


def merge_pyramid(form):
    """The blur of the input pyramid goes into the convolution behind it, where few channels make that cheap."""
    for parent, name, down in list(_modules(form.net, PyramidDown)):
        if down.conv.in_channels <= MOST_MERGED:
            setattr(parent, name, MergedPyramid(down))


def transform_convolutions(form):
    """The 3x3 convolutions of stride 1 are done by Winograd, which adds biases and joins in its last pass (on a CPU, in float32)."""
    for _, _, block in _modules(form.net, FoldedBlock):
        if block.shortcut is not None:
            block.conv1.bias.add_(block.shortcut.bias)
            block.shortcut.bias = None
        block.conv0, block.conv1 = TransformedConv(block.conv0), TransformedConv(block.conv1)
    form.net.conv_out = TransformedConv(form.net.conv_out)


TRANSFORMATIONS = fold_time, batch_styles, fold_attention, fold_scale, commute_shortcuts, fuse_shortcuts, merge_pyramid


def transformations_for(device, dtype):
    """The transformations for a device: those that save launches and traffic everywhere, and on a CPU convolutions by Winograd."""
    by_winograd = device.type == "cpu" and dtype == torch.float32 and not extension.MISSING
    return (*TRANSFORMATIONS, transform_convolutions) if by_winograd else TRANSFORMATIONS


@torch.no_grad()
def optimize_for_sampling(generator, schedule, dtype=None, device=None, transformations=None):
    """The folded form of a generator, which stays as it is: a FoldedGenerator in eval mode, in channels_last, without gradients.

    generator: models.generator.Generator.  schedule: diffusion.Schedule.  dtype: of convolutions and activations, by default the
    generator's; norms, mapping and tables are float32 or wider.  device: by default the generator's.
    transformations: by default `transformations_for` the device.
    Equal to the generator to 1e-5 relative in float32.  Raises InputError for another network, which has nothing to fold.
    """
    if generator.config.network != "unet":
        raise InputError(f"network {generator.config.network!r} has no folded form; take engine eager")
    weight = generator.conv_in.weight
    dtype, device = dtype or weight.dtype, torch.device(device or weight.device)
    form = FoldedGenerator(generator, schedule.steps)
    for transformation in transformations_for(device, dtype) if transformations is None else transformations:
        transformation(form)
    wide = torch.promote_types(dtype, torch.float32)
    form.to(device=device, dtype=wide)
    for module in form.net.modules():
        if isinstance(module, nn.Conv2d | TransformedConv):
            module.to(dtype)
        elif isinstance(module, Attention | FoldedAttention):
            for linear in module.children():
                if isinstance(linear, nn.Linear):
                    linear.to(dtype)
    return form.requires_grad_(False)


def _linear(weight, bias):
    """The linear layer of these tensors."""
    layer = nn.Linear(*reversed(weight.shape), device="meta")
    layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
    return layer


def _modules(root, kind):
    """(parent, name in it, module) of the modules of a class, in their order."""
    for parent in root.modules():
        for name, module in parent.named_children():
            if isinstance(module, kind):
                yield parent, name, module
