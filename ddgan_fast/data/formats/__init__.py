"""Where images are kept: one file a format.

Each has a class of a source, as `decode.Images` takes it: `name`, `len()`, `read(index)` -> the bytes of an image file or raw pixels uint8
[H, W, C], `label(index)`. What is in a file is never trusted: nothing is unpacked to disk, nothing unpickled, and sizes are bounded.
"""
