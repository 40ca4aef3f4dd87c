"""A live server: clients in crowds, clients with bad words, slow ones, those that go away, and its end."""

import base64
import http.client
import io
import json
import os
import re
import select
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

WAITING = 40  # the most requests without an answer
START = """
from functools import partial
from ddgan_fast.checkpoint.model import load_model
from ddgan_fast.cli_arguments import open_pipe
from ddgan_fast.serving import server
from ddgan_fast.serving.requests import Limits
opening = partial(open_pipe, {model!r}, "cpu", "eager", None, None)
server.run(server.build(opening, load_model({model!r})[1], Limits(images=16, body_bytes=100_000, body_seconds=1, waiting={waiting}), 64), "127.0.0.1", {port})
"""


def b64(image):
    """A PIL image as a PNG in base64."""
    buffer = io.BytesIO()
    image.save(buffer, "png")
    return base64.b64encode(buffer.getvalue()).decode()


class Served:
    """A server in a process of its own."""

    def __init__(self, model, log):
        self.port, self.model, self.log = self.free_port(), model, log
        code = START.format(model=str(model), port=self.port, waiting=WAITING)
        with open(log, "w") as file:
            options = {"stdout": file, "stderr": file, "env": os.environ | {"OMP_NUM_THREADS": "1"}, "start_new_session": True}
            self.process = subprocess.Popen([sys.executable, "-c", code], **options)
        self.until_ready()

    @staticmethod
    def free_port():
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]

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
    if found.process.poll() is None:
        os.killpg(found.process.pid, signal.SIGKILL)


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
    files = [b64(Image.fromarray(pixels)) for pixels in (image, mask)]
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


PNG = b64(Image.fromarray(np.random.default_rng(3).integers(0, 256, (9, 7, 3), np.uint8)))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20), lambda inner: st.lists(inner, max_size=3), max_leaves=5
)
FIELDS = st.sampled_from(["num_images", "seed", "seeds", "format", "image", "strength", "mask", "strokes", "", "x"])
FILES = st.just(PNG) | st.builds(  # a picture, one with other bytes somewhere, a part of it
    lambda at, other, end: base64.b64encode((raw := base64.b64decode(PNG))[:at] + other + raw[at + len(other) : end]).decode(),
    st.integers(0, 200), st.binary(max_size=8), st.integers(50, 400),
)  # fmt: skip
LIKELY = st.fixed_dictionaries(
    {},
    optional={
        "num_images": st.integers(-2, 20), "seed": st.integers(-1, 2**64), "seeds": st.text("0123456789,-", max_size=8),
        "image": FILES, "mask": FILES, "strokes": st.booleans(), "strength": st.floats(-0.2, 1.2),
    },
)  # fmt: skip
BODIES = st.binary(max_size=50) | LIKELY | st.builds(lambda a, b: a | b, st.dictionaries(FIELDS, VALUES, max_size=2), LIKELY)


def test_500_random_bodies_break_nothing(served):
    found = set()

    @settings(max_examples=500, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(body=BODIES, path=st.sampled_from(["/v1/images", "/v1/edits"]))
    def ask(body, path):
        status, answer = served.ask("POST", path, body)
        found.add(status)
        assert status == 200 or 400 <= status < 500 and answer["detail"], (status, body)

    ask()
    assert {200, 400, 422} <= found and served.images()[0] == 200


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
    assert set(found) == {200, 429} and found.count(200) >= WAITING
    assert served.images()[0] == 200


def worker_of(served):
    """The number of the process that has the model."""
    found = subprocess.run(["pgrep", "-P", str(served.process.pid), "-f", "spawn_main"], capture_output=True, text=True, check=True)
    (worker,) = found.stdout.split()
    return int(worker)


def fill(served):
    """The connections of as many requests as may wait, while the model's process is stopped: those beyond them were refused."""
    more = 20
    clients = [served.connect() for _ in range(WAITING + more)]
    for client in clients:
        client.request("POST", "/v1/images", b'{"num_images": 16}', {"Content-Type": "application/json"})
    deadline, refused = time.monotonic() + 60, []
    while len(refused) < more:
        refused, _, _ = select.select([client.sock for client in clients], [], [], 1)
        assert time.monotonic() < deadline
        time.sleep(0.05)
    taken = [client for client in clients if client.sock not in refused]
    assert [client.getresponse().status for client in clients if client not in taken] == [429] * more
    return taken


def test_those_who_leave_free_their_places_only_when_the_model_lets_go(served):
    worker = worker_of(served)
    os.kill(worker, signal.SIGSTOP)  # a batch that takes long
    try:
        for client in fill(served):
            client.sock.shutdown(socket.SHUT_RDWR)
            client.close()
        time.sleep(0.5)
        assert served.images()[0] == 429  # what they sent still lies before the model
    finally:
        os.kill(worker, signal.SIGCONT)
    deadline = time.monotonic() + 20
    while served.images()[0] != 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_model_process_that_is_killed_comes_back_and_nobody_waits_in_vain(served):
    worker = worker_of(served)
    os.kill(worker, signal.SIGSTOP)
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(served.images, seed=seed) for seed in range(8)]
        time.sleep(1)
        os.kill(worker, signal.SIGKILL)
        found = [answer.result() for answer in asked]
    assert {status for status, _ in found} <= {200, 503} and all("try again" in text for status, text in found if status == 503)
    assert served.images()[0] == 200


def test_what_keeps_the_model_from_starting_is_one_message_with_its_exit_code(served):
    words = [sys.executable, "-m", "ddgan_fast.cli", "serve", "--model", served.model, "--port", served.free_port(), "--engine", "fast"]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "engine 'fast': there are" in done.stderr and "Traceback" not in done.stderr + done.stdout


def test_sigterm_to_all_processes_answers_what_was_asked_and_ends(served):
    worker = worker_of(served)
    os.kill(worker, signal.SIGSTOP)
    asked = fill(served)
    os.kill(worker, signal.SIGCONT)
    os.killpg(served.process.pid, signal.SIGTERM)
    assert [client.getresponse().status for client in asked] == [200] * len(asked)
    assert served.process.wait(20) == 0, served.log.read_text()


def test_a_model_process_that_dies_while_it_starts_ends_the_server(served):
    code = START.format(model=str(served.model), port=served.free_port(), waiting=WAITING)
    code = re.sub("opening = .*", "import os; opening = partial(os._exit, 9)", code)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1 and "the process inference-worker ended by itself" in done.stderr
