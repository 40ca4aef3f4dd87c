"""The middleware that takes in bodies: too large, too slow, or whole."""

import asyncio
import json

import pytest

from ddgan_fast.serving.bodies import Bodies

CUT = {"type": "http.disconnect"}


async def echo(scope, receive, send):
    """An application that answers with the body, and with what comes behind it."""
    message = await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": message["body"] + (await receive())["type"].encode()})


def call(messages, headers=(), method="POST", pause=0.0):
    """(status, body) for a client that sends these messages, each after a pause."""
    left, sent = [*messages, CUT], []

    async def receive():
        await asyncio.sleep(pause)
        return left.pop(0)

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": method, "headers": list(headers)}
    asyncio.run(Bodies(echo, most=10, seconds=0.1)(scope, receive, send))
    return sent[0]["status"], sent[1]["body"]


def chunk(body, more=True):
    return {"type": "http.request", "body": body, "more_body": more}


def test_a_body_arrives_whole():
    assert call([chunk(b"abc"), chunk(b"defghij", False)]) == (200, b"abcdefghijhttp.disconnect")


def test_a_request_without_a_body_passes():
    assert call([chunk(b"", False)], method="GET", pause=0.2) == (200, b"http.disconnect")


@pytest.mark.parametrize(
    "messages, headers, pause, status, words",
    [
        ([chunk(b"", False)], [(b"content-length", b"11")], 0, 413, "larger than 10 bytes"),
        ([chunk(b"x" * 6), chunk(b"x" * 6)], [], 0, 413, "larger than 10 bytes"),
        ([chunk(b"x")] * 5, [], 0.04, 408, "did not come within 0.1 seconds"),
    ],
)
def test_others_are_refused(messages, headers, pause, status, words):
    found, body = call(messages, headers, pause=pause)
    assert found == status and words in json.loads(body)["detail"]
