"""Memory of a training step, counted without a GPU: `python -m benchmarks.kept` writes results/meta/kept.csv.

What autograd keeps in the half of a step that needs more (D with R1, or G), on the meta device, and what stays: weights, gradients, two
moments each, and the average. Left out: what an operation needs while it runs, and the allocator's gaps.
"""

import torch

from benchmarks.harness import write_rows
from ddgan_fast.config import override, preset
from ddgan_fast.models import build_discriminator, build_generator
from ddgan_fast.ops import backend
from ddgan_fast.training.probe import activation_bytes, state_bytes

CASES = [("cifar10", 128), ("celebahq256", 32)]
FORMS = [  # (form, backend, settings)
    ("plain torch, float32", "reference", {}),
    ("our kernels, float32", "triton", {}),
    ("our kernels, bfloat16", "triton", {"precision": "bf16"}),
    ("the same, activations checkpointed", "triton", {"precision": "bf16", "checkpoint_activations": True}),
]


def rows():
    for name, batch in CASES:
        plain = None
        for form, kind, changes in FORMS:
            config = override(preset(name), changes)
            with torch.device("meta"):
                networks = [build(config.model).to(memory_format=torch.channels_last) for build in (build_generator, build_discriminator)]
            with backend.force(kind):
                kept = activation_bytes(config, networks, batch) / 1e6
            total = kept + state_bytes(networks) / 1e6
            plain = plain or total
            sizes = {"kept_mb": round(kept), "total_mb": round(total), "share_of_plain": round(total / plain, 3)}
            yield {"preset": name, "batch": batch, "form": form} | sizes


if __name__ == "__main__":
    write_rows("kept", torch.device("meta"), rows())
