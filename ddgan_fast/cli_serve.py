"""`ddgan serve`: a model as an HTTP server."""

import math
import socket
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from ddgan_fast.cli_arguments import open_pipe
from ddgan_fast.errors import InputError, MissingError


@dataclass(frozen=True)
class Serve:
    """Answer HTTP requests for images: `ddgan serve --model DIR`, then POST /v1/images, POST /v1/edits, GET /health; GET /docs shows all.

    Requests that wait are drawn together; a seed's image is the same in any company. SIGTERM and Ctrl-C finish what was asked. With the
    environment variable LIT_SERVER_API_KEY clients must send it as X-API-Key.
    """

    model: Path
    """A model folder, or a training run (its newest EMA)."""
    host: str = "127.0.0.1"
    """127.0.0.1, or 0.0.0.0 or :: to be reached from other machines: then set a key, and a proxy with TLS before it."""
    port: int = 8000
    """1024 to 65535."""
    batch_size: int = 64
    """Images drawn at once, at most; it changes no image."""
    most_images: int = 64
    """Of one request."""
    most_waiting: int = 256
    """Requests without an answer; further ones get 429."""
    per_minute: int = 0
    """Requests of one address in a minute; further ones get 429. 0 for any number. From a proxy on this machine X-Forwarded-For counts."""
    most_mb: float = 10.0
    """Megabytes of a body; larger ones get 413."""
    seconds: float = 60.0
    """From a request to its answer; what takes longer gets 504."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto."""
    engine: str = "auto"
    """How the network runs: auto (the fastest here), eager, folded, compile or graph; `ddgan env` says which are there."""
    engine_file: Path | None = None
    """Folder of `ddgan export` that runs in place of the network; one of target step can edit."""
    precision: str | None = None
    """fp32, tf32, bf16 or fp16; by default the model's own, fp32."""

    def run(self):
        if find_spec("litserve") is None:
            raise MissingError('ddgan serve: litserve is not installed; pip install "ddgan_fast[serve]"')
        from ddgan_fast.checkpoint.model import load_model
        from ddgan_fast.serving import server
        from ddgan_fast.serving.requests import Limits

        _check(self)
        bounds = {"seconds": self.seconds, "waiting": self.most_waiting, "per_minute": self.per_minute}
        limits = Limits(self.most_images, round(1e6 * self.most_mb), **bounds)
        config = load_model(self.model)[1]
        opening = partial(open_pipe, self.model, self.device, self.engine, self.precision, self.engine_file)
        about = {
            "model": self.model.name,
            "shape": list(config.model.sample_shape),
            "nfe": config.diffusion.steps,
            "limits": limits._asdict(),
        }
        built = server.build(opening, config, limits, self.batch_size, about)
        print(f"http://{self.host}:{self.port}: POST /v1/images, POST /v1/edits, GET /health; GET /docs shows all", flush=True)
        server.run(built, self.host, self.port)


def _check(words):
    """Raises InputError for a value out of its range and for an address that cannot be had."""
    least = {"batch_size": 1, "most_images": 1, "most_waiting": 1, "per_minute": 0, "most_mb": 0.001, "seconds": 0.001}
    for name, lowest in least.items():
        if not lowest <= getattr(words, name) < math.inf:
            raise InputError(f"--{name.replace('_', '-')} {getattr(words, name)}: it must be {lowest} or more")
    if words.host not in ("127.0.0.1", "0.0.0.0", "::"):
        raise InputError(f"--host {words.host}: give 127.0.0.1 (this machine alone), 0.0.0.0 or ::")
    if not 1024 <= words.port <= 65535:
        raise InputError(f"--port {words.port}: it must be 1024 to 65535")
    try:
        with socket.socket(socket.AF_INET6 if ":" in words.host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((words.host, words.port))
    except OSError as error:
        raise InputError(f"--port {words.port}: {error.strerror}; give another") from error
