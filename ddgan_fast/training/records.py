"""What a run writes down as it goes: metrics.jsonl, and TensorBoard events where tensorboard is installed."""

import importlib.util
import json
import logging
import resource

import torch

from ddgan_fast.pictures import whole_file

log = logging.getLogger(__name__)


class Records:
    """Lines of <out>/metrics.jsonl, and scalars of <out>/tensorboard. What cannot be written is reported once, and left out."""

    def __init__(self, out, step):
        """step: lines beyond it are cut off, because a run that was killed may have written further than it saved."""
        self.file = _open_metrics(out / "metrics.jsonl", step)
        self.board = None
        self.broken = set()
        if importlib.util.find_spec("tensorboard"):
            self.attempt("tensorboard", lambda: self._open_board(out / "tensorboard", step))

    def _open_board(self, path, step):
        from torch.utils.tensorboard import SummaryWriter

        self.board = SummaryWriter(path, purge_step=step + 1)

    def attempt(self, what, write):
        """Call `write()`; a full disk or a broken tracker is a warning, the first time."""
        try:
            write()
        except Exception as error:  # a tracker raises anything
            if what not in self.broken:
                log.warning("%s cannot be written (%s: %s); training goes on without", what, type(error).__name__, error)
            self.broken.add(what)

    def add(self, line):
        """Write a line: {name: number, list of numbers by t, or None}, `step` among them."""
        self.attempt("metrics.jsonl", lambda: self._write(line))
        if self.board is not None:
            self.attempt("tensorboard", lambda: self._show(line))

    def _write(self, line):
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()

    def _show(self, line):
        for name, value in line.items():
            values = {f"{name}/{i}": v for i, v in enumerate(value)} if isinstance(value, list) else {name: value}
            for tag, number in values.items():
                if number is not None and name != "step":
                    self.board.add_scalar(tag, number, line["step"])
        self.board.flush()

    def close(self):
        """Close the files."""
        self.attempt("metrics.jsonl", self.file.close)
        if self.board is not None:
            self.attempt("tensorboard", self.board.close)


def _open_metrics(path, step):
    """metrics.jsonl, open for appending, cut off behind `step`."""
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            if json.loads(line)["step"] > step:
                break
        except (ValueError, TypeError, KeyError):  # the line that a power cut left half written
            break
        kept.append(line + "\n")
    with whole_file(path) as temporary:
        temporary.write_text("".join(kept), encoding="utf-8")
    return open(path, "a", encoding="utf-8")


def peak_memory_mb(device):
    """The most memory that this process has had on the device so far: of tensors on a GPU, of everything on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10  # KiB on Linux
