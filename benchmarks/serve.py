"""`ddgan serve` under load, on this machine: what is lost, what is mixed up, how long clients wait, and whether memory grows.

`python -m benchmarks.serve [--preset tiny] [--device cpu|cuda]` writes results/<device>/serve.csv: 32 clients with 20 requests each, every
reply compared with the image of its seed; 16 clients with requests drawn together and each alone; and the resident memory of the server's
processes over 1,000 requests. Weights are random. Clients are threads of one process, which shares the machine with the server.
"""

import argparse
import base64
import http.client
import io
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.harness import write_rows
from benchmarks.sample import make_pipe

CROWD, EACH = 32, 20
COMPARED, THROUGHPUT = 16, 30  # clients with requests drawn together and alone, and requests of each
LONG = 1000  # requests over which memory is watched, after as many as warm it up
WARM_UP = 300


@contextmanager
def serving(model, device, batch_size):
    """The port of a server, and its process; it ends with the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["serve", "--model", model, "--port", port, "--batch-size", batch_size, "--device", device.type, "--seconds", 600]
    process = subprocess.Popen([sys.executable, "-m", "ddgan_fast.cli", *map(str, words)])
    try:
        for _ in range(600):
            time.sleep(0.2)
            with suppress(OSError):
                if ask(port, "GET", "/health")[0] == 200:
                    break
        else:
            raise SystemExit("the server did not become ready")
        yield port, process
    finally:
        process.terminate()
        process.wait(60)


def ask(port, method, path, body=None):
    """(status, text) of a request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    connection.request(method, path, body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, text


def load(port, clients, requests, want):
    """Seconds of each request, how many had no image and how many another one than `want` [N, H, W, C], and the seconds in all."""

    def client(number):
        found = []
        for i in range(requests):
            seed, start = (number * requests + i) % len(want), time.perf_counter()
            status, text = ask(port, "POST", "/v1/images", json.dumps({"seed": seed}))
            seconds = time.perf_counter() - start
            image = Image.open(io.BytesIO(base64.b64decode(json.loads(text)["images"][0]))) if status == 200 else None
            same = image is not None and np.array_equal(np.asarray(image).reshape(want[0].shape), want[seed])
            found.append((seconds, image is None, image is not None and not same))
        return found

    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        found = [row for rows in pool.map(client, range(clients)) for row in rows]
    times, lost, mixed = zip(*found, strict=True)
    if any(lost) or any(mixed):
        raise SystemExit(f"{sum(lost)} replies without an image and {sum(mixed)} with another one: no row is written")
    return sorted(times), sum(lost), sum(mixed), time.perf_counter() - start


def resident_mb(process):
    """Resident memory of the server's processes."""
    listed = subprocess.run(["ps", "-e", "-o", "pid=,ppid=,rss="], capture_output=True, text=True, check=True).stdout
    parents = {int(pid): (int(parent), int(rss)) for pid, parent, rss in map(str.split, listed.splitlines())}
    return sum(rss for pid, (parent, rss) in parents.items() if process.pid in (pid, parent)) / 1024


def row(test, name, clients, batch_size, found, growth=""):
    """A row of the CSV; growth: of memory, in per cent."""
    times, lost, mixed, seconds = found
    at = {f"ms_p{part}": round(1e3 * times[min(len(times) - 1, len(times) * part // 100)], 1) for part in (50, 99)}
    head = {
        "test": test,
        "preset": name,
        "clients": clients,
        "batch_size": batch_size,
        "requests": len(times),
        "lost": lost,
        "mixed_up": mixed,
    }
    return head | at | {"requests_per_s": round(len(times) / seconds, 1), "memory_growth_percent": growth}


def rows(name, device):
    """The rows of a preset."""
    pipe = make_pipe(name, device).compile()
    want = pipe(num_images=CROWD * EACH, output_type="uint8").images
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        pipe.save_pretrained(model)
        with serving(model, device, 64) as (port, process):
            load(port, 8, WARM_UP // 8, want)
            yield row("crowd", name, CROWD, 64, load(port, CROWD, EACH, want))
            yield row("throughput, together", name, COMPARED, 64, load(port, COMPARED, THROUGHPUT, want))
            before = resident_mb(process)
            found = load(port, 8, LONG // 8, want)
            yield row("memory", name, 8, 64, found, round(100 * (resident_mb(process) / before - 1), 2))
        with serving(model, device, 1) as (port, _):
            load(port, 8, WARM_UP // 8, want)
            yield row("throughput, each alone", name, COMPARED, 1, load(port, COMPARED, THROUGHPUT, want))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the server's model
    write_rows("serve", args.device, rows(args.preset, args.device))
