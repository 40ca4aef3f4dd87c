"""CUDA graphs of the parts of a training step: forward and backward passes and updates, each one launch (R1's double backward too)."""

from contextlib import contextmanager

import torch

WARM_UP = 2  # times that a part runs as it is: kernels are compiled, algorithms chosen, optimiser states made


class Eager:
    """Runs a part as it is."""

    @contextmanager
    def step(self):
        """Around all parts of a training step."""
        yield

    def run(self, name, part):
        """Run `part`, a function without arguments that reads and writes tensors which stay where they are."""
        part()


class Graphs(Eager):
    """Runs a part as it is WARM_UP times, as steps that count, then records it and replays it from there on.

    A part has a new name where something else changes that is not in a tensor. Parts share one memory pool: they run one after the
    other, and what one leaves for another lies outside it.
    """

    def __init__(self, device):
        self.device = device
        self.seen, self.graphs = {}, {}
        self.stream = self.pool = None

    @contextmanager
    def step(self):
        """A stream of its own: autograd keeps to the stream on which a parameter was first used, and a capture needs one."""
        self.stream = self.stream or torch.cuda.Stream(self.device)
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.device(self.device), torch.cuda.stream(self.stream):
            yield
        torch.cuda.current_stream(self.device).wait_stream(self.stream)

    def run(self, name, part):
        """As Eager.run."""
        if name in self.graphs:
            self.graphs[name]()
            return
        self.seen[name] = self.seen.get(name, 0) + 1
        if self.seen[name] <= WARM_UP:
            part()
            return
        self.graphs[name] = self.capture(part)
        self.graphs[name]()

    def capture(self, part):
        """The function that runs the recorded work of `part`."""
        graph = torch.cuda.CUDAGraph()
        self.pool = self.pool or torch.cuda.graph_pool_handle()
        # thread_local: a loader's thread may ask for pinned memory meanwhile
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
            part()
        return graph.replay
