"""A CUDA graph of the whole sampler: noise, latents, styles, T network evaluations and posterior steps in one launch per batch."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from ddgan_fast.noise import as_seeds
from ddgan_fast.sampling.edit import Edit
from ddgan_fast.sampling.generate import Sampler

KEPT = 16  # graphs, each with its own activations; a server of T = 4 has 15 kinds and sizes
MOST_PADDING = 1.25  # of a size that comes again: where a kept graph is larger by more, it gets a graph of its own
WARM_UP = 3  # calls before the capture: kernels are compiled and convolution algorithms are chosen


class Kind(NamedTuple):
    """What a graph computes, its batch size aside."""

    as_uint8: bool
    steps: int | None  # of an edit; None draws from noise alone
    masked: bool


@dataclass
class Recorded:
    """A captured graph with the tensors that it reads and writes."""

    replay: Any
    seeds: torch.Tensor
    edit: Edit | None
    samples: torch.Tensor


class GraphSampler(Sampler):
    """A Sampler whose `sample` replays a graph; graphs are kept per batch size and kind, and odd batches are padded and cut."""

    measures_algorithms = True

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.graphs = OrderedDict()  # (batch size, Kind) -> Recorded, the latest used last
        self.asked = set()

    @torch.no_grad()
    def sample(self, seeds, as_uint8=False, edit=None):
        """As `Sampler.sample`, without waiting for the device."""
        count, kind = len(seeds), Kind(as_uint8, edit and edit.steps, edit is not None and edit.mask is not None)
        fit = min((size for size, other in self.graphs if other == kind and size >= count), default=None)
        again = (count, kind) in self.asked
        key = count if fit is None or (again and fit > MOST_PADDING * count) else fit, kind
        self.asked.add((count, kind))
        if key not in self.graphs:
            if len(self.graphs) == KEPT:
                self.graphs.popitem(last=False)
            recorded = self._record(*key, last_try=not self.graphs)
            if recorded is None:
                self.graphs.clear()  # their memory may be enough
                recorded = self._record(*key)
            self.graphs[key] = recorded
        self.graphs.move_to_end(key)
        recorded = self.graphs[key]
        recorded.seeds[:count].copy_(as_seeds(seeds, torch.device("cpu")), non_blocking=True)  # rows beyond keep older seeds
        if edit is not None:
            recorded.edit.x0[:count].copy_(edit.x0, non_blocking=True)
        if kind.masked:
            recorded.edit.mask[:count].copy_(edit.mask, non_blocking=True)
        recorded.replay()
        return recorded.samples[:count].clone()

    def _record(self, size, kind, last_try=True):
        """The graph of a batch size and kind; None where the memory does not hold it and this is not the last try."""
        seeds, edit = torch.zeros(size, dtype=torch.int64, device=self.device), None
        if kind.steps is not None:
            x0 = torch.zeros(size, *self.network.config.sample_shape, device=self.device)
            edit = Edit(x0, kind.steps, torch.zeros_like(x0[:, :1]) if kind.masked else None)
        try:
            replay, samples = self.capture(lambda: self.draw(seeds, kind.as_uint8, edit))
        except torch.OutOfMemoryError:
            if last_try:
                raise
            return None
        return Recorded(replay, seeds, edit, samples)

    def capture(self, run):
        """(function that runs the captured work again, what it returns each time)."""
        with torch.cuda.device(self.device):
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(WARM_UP):
                    run()
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=side):
                samples = run()

        def replay(held=run):  # what the graph reads lives as long as the graph
            graph.replay()

        return replay, samples
