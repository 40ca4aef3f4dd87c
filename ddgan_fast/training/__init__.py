"""Training: losses, averaged weights, the loop, and its state on disk."""
