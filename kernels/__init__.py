"""Triton kernels and their launchers, one file per op. Imported as `ddgan_fast.kernels`; `tiles.py` holds what they share."""
