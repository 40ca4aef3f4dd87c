"""Sampling: images by seed, as an iterable of batches, and their writers."""
