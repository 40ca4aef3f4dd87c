"""What the endpoints count."""

import pytest

pytest.importorskip("litserve", reason="the extra serve is not installed")

from fastapi import HTTPException

from ddgan_fast.config import preset
from ddgan_fast.serving import endpoints
from ddgan_fast.serving.endpoints import Endpoints, printable
from ddgan_fast.serving.requests import Limits


def test_an_address_may_ask_so_often_in_a_minute(monkeypatch):
    now = [90.0]
    monkeypatch.setattr(endpoints.time, "monotonic", lambda: now[0])
    spec = Endpoints(preset("tiny"), Limits(per_minute=2))
    for _ in range(2):
        spec.count("10.0.0.1")
    with pytest.raises(HTTPException) as caught:
        spec.count("10.0.0.1")
    assert caught.value.status_code == 429 and caught.value.headers == {"Retry-After": "30"} and "more than 2" in caught.value.detail
    spec.count("10.0.0.2")
    now[0] = 120.0
    spec.count("10.0.0.1")
    assert len(spec.asked) == 1
    free = Endpoints(preset("tiny"), Limits())
    for _ in range(1000):
        free.count("10.0.0.1")


def test_what_is_said_is_short_and_can_be_sent():
    assert printable(ValueError("\ud800")) == "\\ud800" and len(printable(ValueError("x" * 10_000))) == 503
