"""The CPU kernels of the extension for less of a processor: the same bits, of the convolution to rounding."""

import os
import subprocess
import sys

import pytest
import torch

from ddgan_fast.ops import conv3x3, philox_normal, winograd_weight
from ddgan_fast.ops.backend import force

pytestmark = pytest.mark.cpp


def results():
    """{op: tensor} of the extension, at sizes that end inside vectors."""
    draw = torch.Generator().manual_seed(0)
    x, skip = (torch.randn(2, channels, 13, 9, generator=draw).to(memory_format=torch.channels_last) for channels in (70, 15))
    rows = torch.randn(5, 85, generator=draw)
    weight = torch.randn(24, 70, 3, 3, generator=draw) / 25
    ops, nothing = torch.ops.ddgan_cpp, torch.empty(0)
    y, cat = ops.group_norm(x, skip, rows[0], rows[:2].contiguous(), rows[2], rows[3], 5, 1e-6, 1, 1)
    found = {
        "group_norm": y,
        "concatenated": cat,
        "residual_join": ops.residual_join(
            x, x.flip(0).contiguous(memory_format=torch.channels_last), nothing, rows[4, :70].contiguous(), 0.7
        ),
    }
    found |= {name: getattr(ops, name)(x) for name in ("fir_up2", "fir_down2", "fir_blur")}
    found["philox_normal"] = philox_normal(torch.tensor([3, 2**62]), 2, 1, (131,))
    with force("cpu"):
        found["conv3x3"] = conv3x3(x, weight, winograd_weight(weight), rows[0, :24], None, 0.5)
    return found


@pytest.mark.parametrize("variant", ["baseline", "avx2"])
def test_variants_agree(tmp_path, variant):
    program = f"import runpy, torch; torch.save(runpy.run_path({__file__!r})['results'](), {str(tmp_path / 'found.pt')!r})"
    subprocess.run([sys.executable, "-c", program], env=os.environ | {"DDGAN_CPU": variant}, check=True, capture_output=True)
    found = torch.load(tmp_path / "found.pt")
    for name, want in results().items():
        if name == "conv3x3":  # its products are fused where the processor can
            assert (found[name] - want).norm() < 3e-6 * want.norm()
        else:
            assert torch.equal(found[name], want), name
