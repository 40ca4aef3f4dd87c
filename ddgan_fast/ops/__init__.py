"""The operations that the networks and the sampler are made of, each with a plain torch reference and faster backends."""

from ddgan_fast.ops.arguments import layout_of
from ddgan_fast.ops.conv3x3 import conv3x3, winograd_weight
from ddgan_fast.ops.fir import fir_blur, fir_down2, fir_up2
from ddgan_fast.ops.group_norm import adaptive_group_norm
from ddgan_fast.ops.philox import philox_normal
from ddgan_fast.ops.pointwise_join import pointwise_join
from ddgan_fast.ops.posterior import posterior_final_uint8, posterior_step
from ddgan_fast.ops.q_sample import q_sample_pair
from ddgan_fast.ops.residual import residual_join

__all__ = [
    "adaptive_group_norm",
    "conv3x3",
    "fir_blur",
    "fir_down2",
    "fir_up2",
    "layout_of",
    "philox_normal",
    "pointwise_join",
    "posterior_final_uint8",
    "posterior_step",
    "q_sample_pair",
    "residual_join",
    "winograd_weight",
]
