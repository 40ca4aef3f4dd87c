"""Child process that reads one released .pth: `python extract.py FILE OUT [--raw]`.

The only place where a pickle of weights is opened; it knows tensors, containers and argparse.Namespace. What it finds goes to
OUT/tensors.safetensors and OUT/options.json; what is wrong goes to stderr as one line, with exit code 1.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file


def weights(content, raw):
    """({key: tensor}, options or None) of a loaded netG_*.pth or content.pth. Raises ValueError for anything else."""
    if not isinstance(content, dict):
        raise ValueError("it holds no dict of weights")
    if "netG_dict" not in content:
        if raw:
            raise ValueError("raw weights are only in content.pth; this file has one set of weights")
        return content, None
    tensors, options = content["netG_dict"], content.get("args")
    if not raw:
        state = content.get("optimizerG", {}).get("state", {})
        missing = [key for i, key in enumerate(tensors) if "ema" not in state.get(i, {})]
        if missing:
            raise ValueError(f"it has no EMA weights for {len(missing)} keys, first {missing[0]}; use --raw for the raw weights")
        tensors = {key: state[i]["ema"] for i, key in enumerate(tensors)}
    return tensors, vars(options) if isinstance(options, argparse.Namespace) else None


def main(path, out, raw):
    """Read the .pth at `path` and write what `weights` finds in it to the folder `out`."""
    torch.serialization.add_safe_globals([argparse.Namespace])
    tensors, options = weights(torch.load(path, map_location="cpu", weights_only=True), raw)
    wrong = [key for key, value in tensors.items() if not (isinstance(key, str) and torch.is_tensor(value) and value.is_floating_point())]
    if wrong or not tensors:
        raise ValueError(f"it holds no state dict of a network ({wrong[0]!r} is no weight)" if wrong else "it holds no weights")
    save_file({key: value.detach().float().contiguous().clone() for key, value in tensors.items()}, Path(out) / "tensors.safetensors")
    (Path(out) / "options.json").write_text(json.dumps(options))


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2], "--raw" in sys.argv[3:])
    except Exception as error:  # the unpickler raises many kinds; all of them mean that this file is not what it should be
        sys.exit(str(error).partition("\n")[0] or type(error).__name__)
