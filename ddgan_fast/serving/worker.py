"""The process that has the model: what waits is drawn together."""

import logging
import multiprocessing
import signal
import time
from collections import deque
from contextlib import suppress
from queue import Empty
from typing import NamedTuple

import litserve
from litserve.loops import LitLoop
from litserve.utils import LitAPIStatus, LoopResponseType

from ddgan_fast.errors import DDGANError, ResourceError
from ddgan_fast.serving.batching import answers

log = logging.getLogger("ddgan_fast")
NEWS = "news"  # in the place of a request's id: the model's process has begun, at the time that is said


class Asked(NamedTuple):
    """A request on its way to the model; work None takes back the one of that id."""

    queue: int  # of the answers
    uid: str
    deadline: float  # time.monotonic, which all processes of a machine share
    work: object


class Model(litserve.LitAPI):
    """The model in its process: open_pipe() -> DDGANPipeline is called there."""

    def __init__(self, open_pipe, batch_size, **options):
        super().__init__(**options)
        self.open_pipe, self.batch_size = open_pipe, batch_size
        self.failed = multiprocessing.get_context("spawn").Value("i", 0)  # exit code of the error that kept it from starting

    def setup(self, device):
        """Open the model and draw once: kernels and graphs are made before the first client waits for them."""
        self.began = time.monotonic()
        for number in (signal.SIGINT, signal.SIGTERM):  # a whole group may get them; the main process ends this one when all is answered
            signal.signal(number, signal.SIG_IGN)
        try:
            self.pipe = self.open_pipe()
            self.pipe(num_images=1, output_type="uint8")
        except DDGANError as error:
            self.failed.value = error.exit_code
            log.error("error: %s", error)
            logging.getLogger("litserve").setLevel(logging.CRITICAL)  # which would add the traceback
            raise


class Batches(LitLoop):
    """Draws what waits together: nothing waits for others to come, and while a batch is drawn the next one gathers.

    Every request gets one answer: images, or a DDGANError.
    """

    def __init__(self):
        super().__init__()
        self.waiting, self.told = deque(), False

    def run(self, lit_api, device, worker_id, request_queue, transport, workers_setup_status, callback_runner):
        """One batch, or a second without one. Raises what is no DDGANError, after all had their answer: the process is begun anew."""
        self.transport = transport
        if not self.told:
            self.put_response(transport, 0, NEWS, lit_api.began, LitAPIStatus.OK, LoopResponseType.REGULAR)
            self.told = True
        if not multiprocessing.parent_process().is_alive():
            raise SystemExit("the main process is gone")
        self.receive(request_queue)
        batch = self.take(lit_api.batch_size)
        try:
            found = answers(lit_api.pipe, [asked.work for asked in batch], lit_api.batch_size)
        except Exception:
            for asked in (*batch, *self.waiting):
                self.answer(asked, ResourceError("the model failed; try again"))
            raise
        for asked, images in zip(batch, found, strict=True):
            self.answer(asked, images)

    def receive(self, request_queue):
        """Put what has come behind what waits; with nothing waiting, a second is the longest wait for it."""
        with suppress(Empty):
            self.note(request_queue.get(timeout=0 if self.waiting else 1))
            while True:
                self.note(request_queue.get_nowait())

    def note(self, asked):
        """A request behind those that wait, or one of them away."""
        if asked.work is not None:
            self.waiting.append(asked)
        elif any(other.uid == asked.uid for other in self.waiting):
            self.waiting = deque(other for other in self.waiting if other.uid != asked.uid)
            self.answer(asked, ResourceError("taken back"))

    def take(self, most):
        """The next requests, of `most` images together or of one request; those whose time is over are answered with that."""
        batch, count = [], 0
        while self.waiting:
            if time.monotonic() > self.waiting[0].deadline:
                self.answer(self.waiting.popleft(), ResourceError("out of time"))
                continue
            count += len(self.waiting[0].work.seeds)
            if batch and count > most:
                break
            batch.append(self.waiting.popleft())
        return batch

    def answer(self, asked, images):
        """Images, or the DDGANError in their place, to who asked."""
        status = LitAPIStatus.ERROR if isinstance(images, DDGANError) else LitAPIStatus.OK
        self.put_response(self.transport, asked.queue, asked.uid, images, status, LoopResponseType.REGULAR)
