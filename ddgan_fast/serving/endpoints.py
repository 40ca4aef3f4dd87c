"""What the process that speaks HTTP does with a request: check it, hand it on, wait, answer."""

import asyncio
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from fastapi import HTTPException, Request
from litserve.specs.base import LitSpec
from litserve.utils import LitAPIStatus, ResponseBufferItem

from ddgan_fast.errors import DDGANError, ResourceError
from ddgan_fast.serving.requests import EditsRequest, ImagesReply, ImagesRequest, edits_work, images_work, reply
from ddgan_fast.serving.worker import NEWS, Asked

RETRY = {"Retry-After": "1"}
THREADS = 4
LONGEST_DETAIL = 500


class Endpoints(LitSpec):
    """POST /v1/images and /v1/edits."""

    def __init__(self, config, limits):
        """config: config.Config of the model.  limits: requests.Limits."""
        super().__init__()
        self.api_path, self.config, self.limits = "/v1/images", config, limits
        self.open = 0  # requests without an answer; one whose client has gone counts until the model has let go of it
        self.since, self.tasks = {}, set()  # {uid: when it went to the model}; what runs beside the requests
        self.minute, self.asked = 0, Counter()  # of the clock; how often each address has asked in it
        self.pool = None  # of threads that decode and encode, few: a picture of 16 megapixels takes 200 MB

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
        start, limits, loop = time.monotonic(), self.limits, asyncio.get_running_loop()
        if self.pool is None:
            self.pool = ThreadPoolExecutor(THREADS)
            self.beside(self.watch())
        self.count(request.client.host)
        if self.open >= limits.waiting:
            raise HTTPException(429, f"{limits.waiting} requests are waiting; try again later", RETRY)
        self.open += 1
        try:
            async with asyncio.timeout(limits.seconds):
                work = await loop.run_in_executor(self.pool, work_of, body, self.config, limits)
                images = await self.drawn(work, start + limits.seconds, request)
                return await loop.run_in_executor(self.pool, reply, images, work, body.format, time.monotonic() - start)
        except TimeoutError as error:
            raise HTTPException(504, f"no answer within {limits.seconds:g} seconds; ask for fewer images, or later") from error
        except ResourceError as error:
            raise HTTPException(503, printable(error), RETRY) from error
        except DDGANError as error:
            raise HTTPException(400, printable(error)) from error
        finally:
            self.open -= 1

    def count(self, address):
        """Raises HTTPException where an address has asked too often in this minute."""
        minute, second = divmod(int(time.monotonic()), 60)
        if minute != self.minute:
            self.minute, self.asked = minute, Counter()
        self.asked[address] += 1
        if 0 < self.limits.per_minute < self.asked[address]:
            text = f"more than {self.limits.per_minute} requests of {address} in a minute; wait for the next"
            raise HTTPException(429, text, {"Retry-After": str(60 - second)})

    async def drawn(self, work, deadline, request):
        """The images of a Work. Raises the DDGANError that it met, and HTTPException where the client has gone."""
        uid, item = str(uuid.uuid4()), ResponseBufferItem(event=asyncio.Event())
        self.response_buffer[uid], self.since[uid] = item, time.monotonic()
        self.request_queue.put(Asked(self.response_queue_id, uid, deadline, work))
        came, gone = asyncio.create_task(item.event.wait()), asyncio.create_task(_disconnected(request))
        try:
            await asyncio.wait((came, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            came.cancel()
            gone.cancel()
            if item.event.is_set():
                self.forget(uid)
            else:
                self.request_queue.put(Asked(self.response_queue_id, uid, deadline, None))
                self.open += 1
                self.beside(self.let_go(uid, item))
        if not item.event.is_set():
            raise HTTPException(499, "the client closed the connection")
        images, status = item.response
        if status == LitAPIStatus.ERROR:
            raise images
        return images

    def forget(self, uid):
        del self.response_buffer[uid], self.since[uid]

    async def let_go(self, uid, item):
        """Wait until the model has let go of a request that nobody waits for."""
        await item.event.wait()
        self.forget(uid)
        self.open -= 1

    async def watch(self):
        """When the model's process has begun anew, answer those who asked before."""
        while True:
            news = self.response_buffer[NEWS] = ResponseBufferItem(event=asyncio.Event())
            await news.event.wait()
            lost = ResourceError("the model's process ended; try again"), LitAPIStatus.ERROR
            for uid, asked in list(self.since.items()):
                if asked < news.response[0] and not self.response_buffer[uid].event.is_set():
                    self.response_buffer[uid].response = lost
                    self.response_buffer[uid].event.set()

    def beside(self, coroutine):
        """Run it, and keep it from being collected."""
        task = asyncio.create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


async def _disconnected(request):
    while (await request.receive())["type"] != "http.disconnect":
        pass


def printable(error):
    """The text of an error as JSON can carry it, cut where a client's words made it long."""
    text = str(error).encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= LONGEST_DETAIL else f"{text[:LONGEST_DETAIL]}..."
