"""The HTTP server (litserve): one process speaks HTTP, one has the model, and what waits is drawn together."""

import asyncio
import logging
import multiprocessing
import os
import signal
import time
import uuid
from collections import deque
from contextlib import suppress
from queue import Empty
from typing import NamedTuple

import litserve
from fastapi import HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from litserve.loops import LitLoop
from litserve.specs.base import LitSpec
from litserve.utils import LitAPIStatus, LoopResponseType, ResponseBufferItem
from starlette.middleware.gzip import GZipMiddleware

from ddgan_fast.errors import DDGANError, InputError, MissingError, ResourceError
from ddgan_fast.serving.batching import answers
from ddgan_fast.serving.bodies import Bodies
from ddgan_fast.serving.requests import EditsRequest, ImagesReply, ImagesRequest, Limits, edits_work, images_work, reply

log = logging.getLogger("ddgan_fast")
HTTP_PROCESS = "LitServer-0"  # litserve's name of it
LONGEST_DETAIL = 500


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

    def setup(self, device):
        """Open the model and draw once: kernels and graphs are made before the first client waits for them."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to handle
        try:
            self.pipe = self.open_pipe()
            self.pipe(num_images=1, output_type="uint8")
        except DDGANError as error:
            log.error("error: %s", error)
            raise


class Batches(LitLoop):
    """Draws what waits together: nothing waits for others to come, and while a batch is drawn the next one gathers."""

    def __init__(self):
        super().__init__()
        self.waiting = deque()

    def run(self, lit_api, device, worker_id, request_queue, transport, workers_setup_status, callback_runner):
        """One batch, or a second without one."""
        self.receive(request_queue)
        batch = self.take(lit_api.batch_size)
        try:
            found = answers(lit_api.pipe, [asked.work for asked in batch], lit_api.batch_size)
        except Exception:
            log.exception("a batch failed")
            found = [ResourceError("the model failed; try again")] * len(batch)
        for asked, images in zip(batch, found, strict=True):
            status = LitAPIStatus.ERROR if isinstance(images, DDGANError) else LitAPIStatus.OK
            self.put_response(transport, asked.queue, asked.uid, images, status, LoopResponseType.REGULAR)

    def receive(self, request_queue):
        """Put what has come behind what waits; with nothing waiting, a second is the longest wait for it."""
        with suppress(Empty):
            self.note(request_queue.get(timeout=0 if self.waiting else 1))
            while True:
                self.note(request_queue.get_nowait())

    def note(self, asked):
        """A request behind those that wait, or one of them away."""
        if asked.work is None:
            self.waiting = deque(other for other in self.waiting if other.uid != asked.uid)
        else:
            self.waiting.append(asked)

    def take(self, most):
        """The next requests, of `most` images together or of one request; those whose time is over are dropped."""
        batch, count = [], 0
        while self.waiting:
            if time.monotonic() > self.waiting[0].deadline:
                self.waiting.popleft()
                continue
            count += len(self.waiting[0].work.seeds)
            if batch and count > most:
                break
            batch.append(self.waiting.popleft())
        return batch


class Endpoints(LitSpec):
    """POST /v1/images and /v1/edits."""

    def __init__(self, config, limits):
        """config: config.Config of the model.  limits: requests.Limits."""
        super().__init__()
        self.api_path, self.config, self.limits = "/v1/images", config, limits

    def pre_setup(self, lit_api):
        self.add_endpoint("/v1/images", self.images, ["POST"])
        self.add_endpoint("/v1/edits", self.edits, ["POST"])

    async def images(self, body: ImagesRequest, request: Request) -> ImagesReply:
        """Draw images by seed."""
        return await self.answer(images_work, body, request)

    async def edits(self, body: EditsRequest, request: Request) -> ImagesReply:
        """Draw variants of an image."""
        return await self.answer(edits_work, body, request)

    async def answer(self, work_of, body, request):
        """The reply to a request; decoding and encoding run beside the loop. Raises HTTPException where there is none."""
        start = time.monotonic()
        if len(self.response_buffer) >= self.limits.waiting:
            raise HTTPException(429, f"{self.limits.waiting} requests are waiting; try again later", {"Retry-After": "1"})
        uid, item = str(uuid.uuid4()), ResponseBufferItem(event=asyncio.Event())
        self.response_buffer[uid] = item
        try:
            work = await asyncio.to_thread(work_of, body, self.config, self.limits)
            self.request_queue.put(Asked(self.response_queue_id, uid, start + self.limits.seconds, work))
            await self.done(item.event, request)
        except DDGANError as error:
            raise HTTPException(400, printable(error)) from error
        finally:
            del self.response_buffer[uid]
            if item.response is None:
                self.request_queue.put(Asked(self.response_queue_id, uid, start, None))
        images, status = item.response
        if status == LitAPIStatus.ERROR:
            raise HTTPException(503, printable(images), {"Retry-After": "1"})
        return await asyncio.to_thread(reply, images, work, body.format, time.monotonic() - start)

    async def done(self, event, request):
        """Wait for the answer. Raises HTTPException where it takes too long, or where the client has gone."""
        gone = asyncio.create_task(_disconnected(request))
        came = asyncio.create_task(event.wait())
        try:
            finished, _ = await asyncio.wait((came, gone), timeout=self.limits.seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            came.cancel()
        if not finished:
            raise HTTPException(504, f"no answer within {self.limits.seconds:g} seconds; ask for fewer images, or later")
        if came not in finished:
            raise HTTPException(499, "the client closed the connection")

    def decode_request(self, request, context_kwargs=None):
        """Unused: Batches takes the requests as they are."""
        return request

    def encode_response(self, output, context_kwargs=None):
        """Unused, as above."""
        return output


async def _disconnected(request):
    while (await request.receive())["type"] != "http.disconnect":
        pass


def printable(error):
    """The text of an error as JSON can carry it, cut where a client's words made it long."""
    text = str(error).encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= LONGEST_DETAIL else f"{text[:LONGEST_DETAIL]}..."


async def wrong_body(request, error):
    """422 with what is wrong and where; the body itself, which FastAPI would repeat, may be large, or NaN, which JSON cannot carry."""
    found = [f"{'.'.join(str(part) for part in each['loc'])}: {each['msg']}" for each in error.errors()[:5]]
    return JSONResponse({"detail": printable("; ".join(found))}, status_code=422)


def build(open_pipe, config, limits=None, batch_size=64, about=None):
    """The litserve.LitServer of a model.

    open_pipe: function without arguments that can be pickled -> DDGANPipeline, called in the model's process.  config: its Config.
    limits: requests.Limits.  batch_size: images drawn at once.  about: JSON object for GET /info.
    Raises InputError for a model of points.
    """
    if len(config.model.sample_shape) != 3:
        raise InputError("this model draws 2-D points; the server draws images")
    limits = limits or Limits()
    api = Model(open_pipe, batch_size, spec=Endpoints(config, limits), loop=Batches())
    server = litserve.LitServer(
        api,
        accelerator="cpu",  # open_pipe knows the device
        timeout=False,  # Endpoints has its own
        restart_workers=True,
        model_metadata=about,
        middlewares=[(Bodies, {"most": limits.body_bytes, "seconds": limits.body_seconds})],
    )
    server.app.user_middleware = [each for each in server.app.user_middleware if each.cls is not GZipMiddleware]  # images are packed
    server.app.add_exception_handler(RequestValidationError, wrong_body)
    server.app.title = "ddgan_fast"
    return server


def run(server, host, port, drain_seconds=30):
    """Serve until SIGTERM or Ctrl-C: then no more connections are taken, and what was asked is answered, for at most drain_seconds.

    Raises MissingError where the model's process did not start: it said why.
    """
    main, server.uvicorn_graceful_timeout = os.getpid(), drain_seconds

    def drain(number, frame):
        if os.getpid() != main:  # a child that was forked with this handler
            raise SystemExit(128 + number)
        for process in multiprocessing.active_children():
            if process.name == HTTP_PROCESS:
                process.terminate()  # which it takes as the wish to finish
                process.join(drain_seconds)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, drain)
    signal.signal(signal.SIGINT, drain)
    try:
        server.run(host=host, port=port, num_api_servers=1, log_level="error", generate_client_file=False)
    except RuntimeError as error:
        if "workers failed" not in str(error):
            raise
        raise MissingError("the model's process did not start; its error is above") from error
