"""A live server: clients in crowds, clients with bad words, slow ones, those that go away, and its end."""

import base64
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("litserve", reason="the extra serve is not installed")
pytest.importorskip("hypothesis", reason="hypothesis is not installed")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

START = """
from functools import partial
from ddgan_fast.checkpoint.model import load_model
from ddgan_fast.cli_serve import open_pipe
from ddgan_fast.serving import server
from ddgan_fast.serving.requests import Limits
opening = partial(open_pipe, {model!r}, "cpu", "eager", None, None)
server.run(server.build(opening, load_model({model!r})[1], Limits(images=16, body_bytes=100_000, body_seconds=1, waiting=40), 64), "127.0.0.1", {port})
"""


class Served:
    """A server in a process of its own."""

    def __init__(self, model, log):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.log = log
        code = START.format(model=str(model), port=self.port)
        with open(log, "w") as file:
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            self.process = subprocess.Popen([sys.executable, "-c", code], stdout=file, stderr=file, env=environment)
        self.until_ready()

    def until_ready(self):
        for _ in range(600):
            assert self.process.poll() is None, self.log.read_text()
            try:
                if self.ask("GET", "/health")[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(0.2)
        raise AssertionError(f"the server is not ready: {self.log.read_text()}")

    def connect(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def ask(self, method, path, body=None):
        """(status, JSON or text)."""
        connection = self.connect()
        raw = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
        connection.request(method, path, raw, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        return answer.status, json.loads(text) if answer.headers["content-type"] == "application/json" else text.decode()

    def images(self, path="/v1/images", **body):
        """(status, images uint8 [n, H, W] or the error)."""
        status, found = self.ask("POST", path, body)
        if status != 200:
            return status, found["detail"]
        return status, np.stack([np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))) for text in found["images"]])


@pytest.fixture(scope="module")
def pipe(make):
    return make()


@pytest.fixture(scope="module")
def served(pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    pipe.save_pretrained(folder / "model")
    found = Served(folder / "model", folder / "log.txt")
    yield found
    found.process.kill()


def test_images_are_those_of_their_seeds(served, pipe):
    want = pipe(num_images=16, output_type="uint8").images[..., 0]
    assert served.ask("GET", "/health") == (200, "ok")
    for body, part in (({}, [0]), ({"num_images": 3, "seed": 2}, [2, 3, 4]), ({"seeds": "5,1"}, [5, 1]), ({"format": "webp"}, [0])):
        status, images = served.images(**body)
        assert status == 200 and np.array_equal(images[:, :, :, 0] if images.ndim == 4 else images, want[part])
    status, found = served.ask("POST", "/v1/images", {"seeds": [7]})
    assert found["seeds"] == [7] and found["nfe"] == 4 and found["format"] == "png" and found["seconds"] > 0
    schema = served.ask("GET", "/openapi.json")[1]
    assert {"/v1/images", "/v1/edits"} < set(schema["paths"]) and served.ask("GET", "/docs")[0] == 200


def test_edits_are_those_of_the_pipeline(served, pipe):
    image = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    mask = np.zeros((8, 8), np.uint8)
    mask[:4] = 255
    files = []
    for pixels in (image, mask):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "png")
        files.append(base64.b64encode(buffer.getvalue()).decode())
    status, found = served.images("/v1/edits", image=files[0], mask=files[1], strength=0.75, num_images=3, seed=5)
    assert status == 200 and np.array_equal(found, pipe.edit(image, 0.75, mask, 3, 5, output_type="uint8").images[..., 0])
    assert (found[:, 4:] == image[4:]).all()


def test_a_crowd_loses_nothing_and_mixes_nothing(served, pipe):
    clients, requests = 32, 6
    want = pipe(num_images=clients * requests + 3, output_type="uint8").images[..., 0]

    def client(number):
        for i in range(requests):
            seed, count = number * requests + i, 1 + i % 3
            status, images = served.images(seed=seed, num_images=count)
            assert status == 200 and np.array_equal(images, want[seed : seed + count]), (status, seed)
        return requests

    with ThreadPoolExecutor(clients) as pool:
        assert sum(pool.map(client, range(clients))) == clients * requests


@pytest.mark.parametrize(
    "path, body, status, words",
    [
        ("/v1/images", {"num_images": 17}, 400, "17 images; 16 is the most"),
        ("/v1/images", {"num_images": 10**9}, 400, "is the most"),
        ("/v1/images", {"seed": 2**70}, 422, "body.seed: Input should be less than or equal to 9223372036854775807"),
        ("/v1/images", {"path": "/etc/passwd"}, 422, "body.path: Extra inputs are not permitted"),
        ("/v1/images", b"{", 422, "JSON"),
        ("/v1/images", b"[" * 50_000, 400, "parsing the body"),
        ("/v1/edits", {"image": "%"}, 400, "image: not base64"),
        ("/v1/edits", {"image": "AAAA"}, 400, "image: its content is no PNG"),
        ("/v1/edits", b'{"image": "AAAA", "strength": NaN, "steps": NaN}', 422, "body.steps"),
        ("/v1/edits", b'{"\\ud800": 1}', 422, "unable to parse raw data as a unicode string"),
        ("/v1/edits", b"x" * 100_001, 413, "larger than 100,000 bytes"),
    ],
)
def test_bad_bodies_get_a_reason(served, path, body, status, words):
    found, answer = served.ask("POST", path, body)
    assert found == status and words in answer["detail"]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20), lambda inner: st.lists(inner, max_size=3), max_leaves=5
)
FIELDS = st.sampled_from(["num_images", "seed", "seeds", "format", "image", "strength", "mask", "strokes", "", "x"])
LIKELY = st.fixed_dictionaries(
    {}, optional={"num_images": st.integers(-2, 20), "seed": st.integers(-1, 2**64), "seeds": st.text("0123456789,-", max_size=8)}
)
BODIES = st.binary(max_size=50) | st.builds(lambda a, b: json.dumps(a | b).encode(), st.dictionaries(FIELDS, VALUES, max_size=4), LIKELY)


def test_500_random_bodies_break_nothing(served):
    connection = served.connect()

    @settings(max_examples=500, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(body=BODIES, path=st.sampled_from(["/v1/images", "/v1/edits"]))
    def ask(body, path):
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status == 200 or 400 <= answer.status < 500 and json.loads(text)["detail"], (answer.status, body)

    ask()
    assert served.images()[0] == 200


def test_a_slow_client_gets_408_and_one_that_leaves_hurts_nobody(served):
    slow = served.connect()
    slow.putrequest("POST", "/v1/images")
    slow.putheader("Content-Type", "application/json")
    slow.putheader("Content-Length", "20")
    slow.endheaders(b'{"seed": ')
    answer = slow.getresponse()
    assert answer.status == 408 and "within 1 seconds" in json.loads(answer.read())["detail"]
    for _ in range(20):
        leaving = served.connect()
        leaving.request("POST", "/v1/images", json.dumps({"num_images": 16}), {"Content-Type": "application/json"})
        leaving.sock.shutdown(socket.SHUT_RDWR)
        leaving.close()
    start = time.monotonic()
    assert served.images()[0] == 200 and time.monotonic() - start < 10


def test_a_queue_that_is_full_answers_429_at_once(served):
    with ThreadPoolExecutor(100) as pool:
        found = list(pool.map(lambda seed: served.images(seed=seed, num_images=16)[0], range(100)))
    assert set(found) == {200, 429} and found.count(200) >= 40
    assert served.images()[0] == 200


def test_a_model_process_that_is_killed_comes_back(served):
    found = subprocess.run(["pgrep", "-P", str(served.process.pid), "-f", "spawn_main"], capture_output=True, text=True, check=True)
    (worker,) = found.stdout.split()
    os.kill(int(worker), signal.SIGKILL)
    time.sleep(3)  # litserve looks every 2 seconds
    served.until_ready()
    assert served.images()[0] == 200


def test_sigterm_answers_what_was_asked_and_ends(served):
    with ThreadPoolExecutor(16) as pool:
        asked = [pool.submit(served.images, seed=seed, num_images=16) for seed in range(16)]
        while not any(answer.done() for answer in asked):
            time.sleep(0.01)
        served.process.send_signal(signal.SIGTERM)
        assert [answer.result()[0] for answer in asked] == [200] * 16
    assert served.process.wait(20) == 0
