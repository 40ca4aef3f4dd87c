"""Denoising Diffusion GANs (Xiao, Kreis, Vahdat, ICLR 2022): sampling and training.

`from ddgan_fast import DDGANPipeline` is the public face. Importing the package alone loads nothing heavy (PEP 562).
"""

import importlib

__version__ = "0.1.0"
_HOMES = {"DDGANPipeline": "ddgan_fast.pipeline", "Config": "ddgan_fast.config", "PRESETS": "ddgan_fast.config"}
__all__ = ["Config", "DDGANPipeline", "PRESETS", "__version__"]


def __getattr__(name):
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'ddgan_fast' has no attribute {name!r}")
