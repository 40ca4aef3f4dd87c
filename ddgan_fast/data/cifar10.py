"""CIFAR-10: the training images of the python batches (pickles, read without trusting them) or of the binary batches."""

import pickle

import numpy as np
import torch

from ddgan_fast.data.images import InMemory, fit_pixels
from ddgan_fast.errors import DataError

WANTED = "data_batch_1 to data_batch_5 (python) or data_batch_1.bin to data_batch_5.bin (binary)"
_SUFFIXES = {"": "cifar-10-batches-py", ".bin": "cifar-10-batches-bin"}  # of the batches: the folder that the archive unpacks
_PIXELS = 3 * 32 * 32
_RECORD = 1 + _PIXELS


def find(folder):
    """The paths of the five training batches in the folder or in the one that the archive unpacks there; None where there are none.

    Raises DataError when some of the five are missing.
    """
    for suffix, unpacked in _SUFFIXES.items():
        for place in (folder, folder / unpacked):
            paths = [place / f"data_batch_{i}{suffix}" for i in range(1, 6)]
            missing = [path.name for path in paths if not path.is_file()]
            if len(missing) == len(paths):
                continue
            if missing:
                raise DataError(f"{place}: CIFAR-10 is incomplete, no {', '.join(missing)}; unpack the archive again")
            return paths
    return None


def open_cifar10(folder, shape):
    """The training images of the folder, brought to `shape`. Raises DataError, naming the file, for what is missing or broken."""
    if folder is None:
        raise DataError("data set cifar10: no package brings it; give --data cifar10:DIR, or DIR alone, the folder of its unpacked archive")
    paths = find(folder)
    if paths is None:
        names = " and ".join(_SUFFIXES.values())
        raise DataError(f"{folder}: no CIFAR-10 here; looked for {WANTED}, also in {names}")
    read = _read_binary if paths[0].suffix else _read_python
    rows = np.concatenate([read(path) for path in paths])
    return InMemory("cifar10", fit_pixels(torch.from_numpy(rows).view(-1, 3, 32, 32), shape))


def _read_binary(path):
    """Images uint8 [n, 3072] of records of one label and 3,072 pixels."""
    content = np.fromfile(path, np.uint8)
    if not len(content) or len(content) % _RECORD:
        raise DataError(f"{path}: {len(content):,} bytes are not whole records of {_RECORD}; truncated, or not a CIFAR-10 binary batch")
    records = content.reshape(-1, _RECORD)
    if records[:, 0].max() > 9:
        raise DataError(f"{path}: a label above 9; not a CIFAR-10 binary batch")
    return records[:, 1:]


def _read_python(path):
    """Images uint8 [n, 3072] of a pickled dict with `data`, its keys bytes (Python 2) or text."""
    try:
        with path.open("rb") as file:
            batch = _Unpickler(file, encoding="bytes").load()
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except Exception as error:  # a broken pickle raises anything
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"{path}: not a readable pickle ({reason}); truncated, or not a CIFAR-10 python batch") from error
    data = batch.get(b"data", batch.get("data")) if isinstance(batch, dict) else None
    if not isinstance(data, np.ndarray):
        raise DataError(f"{path}: no array 'data' in it; not a CIFAR-10 python batch")
    if data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != _PIXELS or not len(data):
        raise DataError(f"{path}: 'data' is {data.dtype} {list(data.shape)}; it must be uint8 [n, {_PIXELS}]")
    return data


def _empty_array(kind, shape, dtype):
    """Stand-in for numpy's _reconstruct: the array that __setstate__ then fills."""
    return np.empty(0, np.uint8)


def _array_of(buffer, dtype, shape, order, axes=None):
    """Stand-in for numpy's _frombuffer (protocol 5)."""
    array = np.frombuffer(buffer, dtype)
    return array.reshape(shape, order=order) if axes is None else array.reshape(shape).transpose(axes)


def _scalar_of(dtype, content):
    """Stand-in for numpy's scalar, which would take an address from the file for a dtype of objects."""
    return np.frombuffer(content, dtype)[0]


def _latin1(text, encoding):
    """Stand-in for _codecs.encode, which is how protocol 2 writes bytes."""
    return text.encode("latin1")


_NUMPY = {"_reconstruct": _empty_array, "_frombuffer": _array_of, "scalar": _scalar_of}
_MODULES = "numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric"
_KNOWN = {(module, name): stand_in for module in _MODULES for name, stand_in in _NUMPY.items()}
_KNOWN |= {("numpy", "ndarray"): np.ndarray, ("numpy", "dtype"): np.dtype, ("_codecs", "encode"): _latin1}
_KNOWN |= {(module, kind.__name__): kind for module in ("builtins", "__builtin__") for kind in (bytes, bytearray, set, frozenset, complex)}


class _Unpickler(pickle.Unpickler):
    """Knows numpy arrays and builtin values; every other global is refused before it is imported."""

    def find_class(self, module, name):
        if (module, name) not in _KNOWN:
            raise DataError(f"refused: the pickle asks for {module}.{name}, which CIFAR-10 has no use for; do not trust this file")
        return _KNOWN[module, name]
