"""ASGI middleware: a body comes whole, in time and in size, before the application sees the request."""

import asyncio
import json


class Bodies:
    """Answers 413 to a body of more than `most` bytes and 408 to one that takes longer than `seconds`; closes the connection then."""

    def __init__(self, app, most, seconds):
        self.app, self.most, self.seconds = app, most, seconds

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self.app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self.seconds):
                body = await self._body(scope, receive)
        except TimeoutError:
            await _refuse(send, 408, f"the body did not come within {self.seconds:g} seconds")
            return
        if body is None:
            await _refuse(send, 413, f"the body is larger than {self.most:,} bytes")
            return
        first = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay():
            return first.pop() if first else await receive()

        await self.app(scope, replay, send)

    async def _body(self, scope, receive):
        """The bytes of the body; None where there are too many."""
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.most:
            return None
        body = bytearray()
        while True:
            message = await receive()
            body += message.get("body", b"")
            if len(body) > self.most:
                return None
            if not message.get("more_body", False):  # the end, or the client is gone: then the application notices
                return bytes(body)


async def _refuse(send, status, text):
    """An answer in JSON as FastAPI's, behind which the connection closes: the rest of the body is not read."""
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"detail": text}).encode()})
