"""The middleware that takes in bodies: too large, too slow, or whole."""

import asyncio
import json

import pytest

from ddgan_fast.serving.bodies import Bodies

CUT = {"type": "http.disconnect"}
LIMITS = {"most": 10, "seconds": 0.1, "total": 25}


async def echo(scope, receive, send):
    """An application that answers with the body, and with what comes behind it."""
    message = await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": message["body"] + (await receive())["type"].encode()})


async def call(bodies, messages, headers=(), method="POST", pause=0.0):
    """(status, body) for a client that sends these messages, each after a pause."""
    left, sent = [*messages, CUT], []

    async def receive():
        await asyncio.sleep(pause)
        return left.pop(0)

    async def send(message):
        sent.append(message)

    await bodies({"type": "http", "method": method, "headers": list(headers)}, receive, send)
    return sent[0]["status"], b"".join(message["body"] for message in sent[1:])


def chunk(body, more=True):
    return {"type": "http.request", "body": body, "more_body": more}


def test_a_body_arrives_whole():
    asked = call(Bodies(echo, **LIMITS), [chunk(b"abc"), chunk(b"defghij", False)])
    assert asyncio.run(asked) == (200, b"abcdefghijhttp.disconnect")


def test_a_request_without_a_body_passes():
    assert asyncio.run(call(Bodies(echo, **LIMITS), [chunk(b"", False)], method="GET")) == (200, b"http.disconnect")


@pytest.mark.parametrize(
    "messages, headers, pause, status, words",
    [
        ([chunk(b"", False)], [(b"content-length", b"11")], 0, 413, "larger than 10 bytes"),
        ([chunk(b"x" * 6), chunk(b"x" * 6)], [], 0, 413, "larger than 10 bytes"),
        ([chunk(b"x")] * 5, [], 0.04, 408, "did not come within 0.1 seconds"),
    ],
)
def test_others_are_refused(messages, headers, pause, status, words):
    bodies = Bodies(echo, **LIMITS)
    found, body = asyncio.run(call(bodies, messages, headers, pause=pause))
    assert found == status and words in json.loads(body)["detail"] and bodies.held == 0


def test_all_bodies_together_are_bounded():
    bodies = Bodies(echo, **LIMITS)

    async def crowd():
        return await asyncio.gather(*(call(bodies, [chunk(b"x" * 10), chunk(b"", False)], pause=0.02) for _ in range(5)))

    found = sorted(status for status, _ in asyncio.run(crowd()))
    assert found == [200, 200, 429, 429, 429] and bodies.held == 0  # 2 of 10 bytes fit into 25
    assert asyncio.run(call(bodies, [chunk(b"x" * 10, False)]))[0] == 200


async def large(scope, receive, send):
    """An application whose answer is large."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": bytes(range(256)) * 1000})


def test_a_large_answer_goes_in_pieces_that_count_until_they_are_taken():
    bodies, held = Bodies(large, **LIMITS), []
    status, body = asyncio.run(call(bodies, [chunk(b"", False)]))
    assert status == 200 and body == bytes(range(256)) * 1000 and bodies.held == 0

    class Cycle:
        """What uvicorn's `receive` belongs to."""

        class transport:
            aborted = False

            @classmethod
            def abort(cls):
                cls.aborted = True

        async def receive(self):
            return chunk(b"", False)

    async def unread():
        async def send(message):
            held.append((bodies.held, len(message.get("body", b""))))
            if len(held) == 3:
                await asyncio.sleep(5)  # a client that reads no more

        await asyncio.wait_for(bodies({"type": "http", "method": "GET", "headers": []}, Cycle().receive, send), 1)

    asyncio.run(unread())
    assert held == [(0, 0), (256_000, 65_536), (256_000, 65_536)] and bodies.held == 0 and Cycle.transport.aborted


def test_a_refusal_that_is_not_read_holds_nothing():
    bodies = Bodies(echo, **LIMITS)

    async def receive():
        return chunk(b"x" * 11)

    async def send(message):
        assert bodies.held == 0
        await asyncio.sleep(5)

    asyncio.run(asyncio.wait_for(bodies({"type": "http", "method": "POST", "headers": []}, receive, send), 1))
