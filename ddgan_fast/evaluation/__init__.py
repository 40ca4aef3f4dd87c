"""Evaluation: the published measures of generated images, on features that a network made of them."""
