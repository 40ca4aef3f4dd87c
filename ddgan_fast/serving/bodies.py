"""ASGI middleware: a body comes whole, in time and in size, before the application sees the request; and an answer goes in time."""

import asyncio
import json

PIECE = 65_536  # bytes of an answer that wait for a slow client at once


class Bodies:
    """Bounds what clients make the server hold, and for how long.

    Answers 413 to a body of more than `most` bytes, 408 to one that takes longer than `seconds`, and 429 where the bodies and answers of
    all requests would be more than `total` bytes; closes the connection then. A client that takes no piece of its answer within `seconds`
    is cut off.
    """

    def __init__(self, app, most, seconds, total):
        self.app, self.most, self.seconds, self.total, self.held = app, most, seconds, total, 0

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        own = _Share(self)
        try:
            refusal, body = await self._body(scope, receive, own)
            if refusal is not None:
                own.give_back()
                await self._refuse(send, *refusal)
                return
            first = [{"type": "http.request", "body": body, "more_body": False}]

            async def replay():
                return first.pop() if first else await receive()

            await self.app(scope, replay, lambda message: self._send(send, message, own))
        except _TooSlow:
            _cut(receive)
        finally:
            own.give_back()

    async def _body(self, scope, receive, own):
        """(why not, as arguments of _refuse, or None; the bytes of the body)."""
        try:
            async with asyncio.timeout(self.seconds):
                return await self._whole(scope, receive, own)
        except TimeoutError:
            return (408, f"the body did not come within {self.seconds:g} seconds"), b""

    async def _whole(self, scope, receive, own):
        """As `_body`, without a limit on time."""
        too_large = 413, f"the body is larger than {self.most:,} bytes"
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.most:
            return too_large, b""
        body = bytearray()
        while True:
            message = await receive()
            piece = message.get("body", b"")
            body += piece
            if len(body) > self.most:
                return too_large, b""
            if not own.take(len(piece)):
                return (429, "the server holds as much as it may; try again later"), b""
            if not message.get("more_body", False):  # the end, or the client is gone: then the application notices
                return None, bytes(body)

    async def _send(self, send, message, own):
        """Send a message in pieces, which count as held until the client has taken them."""
        body = message.get("body", b"")
        if message["type"] != "http.response.body" or len(body) <= PIECE:
            await self._one(send, message)
            return
        own.take(len(body), always=True)
        for start in range(0, len(body), PIECE):
            end = start + PIECE >= len(body) and not message.get("more_body", False)
            await self._one(send, {"type": message["type"], "body": body[start : start + PIECE], "more_body": not end})

    async def _refuse(self, send, status, text):
        """An answer in JSON as FastAPI's, behind which the connection closes: the rest of the body is not read."""
        headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
        headers += [(b"retry-after", b"1")] * (status == 429)
        await self._one(send, {"type": "http.response.start", "status": status, "headers": headers})
        await self._one(send, {"type": "http.response.body", "body": json.dumps({"detail": text}).encode()})

    async def _one(self, send, message):
        try:
            async with asyncio.timeout(self.seconds):
                await send(message)
        except TimeoutError as error:
            raise _TooSlow from error


class _TooSlow(Exception):
    """A client takes no piece of its answer."""


class _Share:
    """What one request makes the server hold."""

    def __init__(self, bodies):
        self.bodies, self.bytes = bodies, 0

    def take(self, count, always=False):
        """Whether so many bytes more may be held; what is made already is held always."""
        if not always and self.bodies.held + count > self.bodies.total:
            return False
        self.bodies.held += count
        self.bytes += count
        return True

    def give_back(self):
        self.bodies.held -= self.bytes
        self.bytes = 0


def _cut(receive):
    """Close the connection of uvicorn's `receive` at once: a usual close would wait until the client has read what was sent."""
    transport = getattr(getattr(receive, "__self__", None), "transport", None)
    if transport is not None:
        transport.abort()
