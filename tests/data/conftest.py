"""A server of shards that can break, and attempts without waiting."""

import socket
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from ddgan_fast.data import stream


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        name, at = self.path[1:], self.server
        at.asked.append(name)
        if name in at.refused or not (at.folder / name).is_file():
            return self.send_error(at.refused.get(name, 404))
        content = (at.folder / name).read_bytes()
        ends = at.cuts.get(name)
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: ends.pop(0) if ends else None])
        if at.resets:  # or the client sees an orderly end
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves tmp_path / "served". asked: names in turn; cuts: {name: bytes after which each of its answers ends}; refused: {name: code}."""
    (tmp_path / "served").mkdir()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as at:
        at.folder, at.asked, at.cuts, at.refused, at.resets = tmp_path / "served", [], {}, {}, False
        at.url = f"http://127.0.0.1:{at.server_port}/"
        thread = threading.Thread(target=at.serve_forever, args=(0.01,))
        thread.start()
        yield at
        at.shutdown()
        thread.join()


@pytest.fixture
def waits(monkeypatch):
    """Seconds that were to be waited between attempts."""
    waited = []
    monkeypatch.setattr(stream, "time", SimpleNamespace(sleep=waited.append))
    return waited
