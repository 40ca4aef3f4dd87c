"""Files: model folders, training checkpoints, and the released weights."""

from ddgan_fast.checkpoint.reference import load_reference_discriminator, load_reference_generator

__all__ = ["load_reference_discriminator", "load_reference_generator"]
