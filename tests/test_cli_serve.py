"""`ddgan serve`: wrong words end before anything listens. The server itself is tested in tests/serving."""

import socket

import pytest

from ddgan_fast import cli_serve
from ddgan_fast.cli import main
from ddgan_fast.pipeline import DDGANPipeline


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    path = tmp_path_factory.mktemp("serve")
    DDGANPipeline.from_preset("tiny").save_pretrained(path / "tiny")
    DDGANPipeline.from_preset("gaussians25").save_pretrained(path / "points")
    return path


@pytest.mark.parametrize(
    "words, code, message",
    [
        (("--port", 80), 2, "--port 80: it must be 1024 to 65535"),
        (("--host", "example.com"), 2, "--host example.com: give 127.0.0.1"),
        (("--most-images", 0), 2, "--most-images 0: it must be 1 or more"),
        (("--batch-size", -1), 2, "--batch-size -1"),
        (("--seconds", "nan"), 2, "--seconds nan"),
        (("--most-mb", "inf"), 2, "--most-mb inf"),
        (("--model", "none"), 4, "none: no such folder"),
        (("--model", "points"), 2, "2-D points; the server draws images"),
    ],
)
def test_wrong_words(models, capsys, words, code, message):
    pytest.importorskip("litserve", reason="the extra serve is not installed")
    given = ["serve", "--model", models / "tiny", *(models / word if word in ("none", "points") else word for word in words)]
    assert main([str(word) for word in given]) == code
    assert message in capsys.readouterr().err


def test_a_port_that_is_taken(models, capsys):
    pytest.importorskip("litserve", reason="the extra serve is not installed")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert main(["serve", "--model", str(models / "tiny"), "--port", str(port)]) == 2
    assert f"--port {port}: Address already in use" in capsys.readouterr().err


def test_without_litserve(models, capsys, monkeypatch):
    monkeypatch.setattr(cli_serve, "find_spec", lambda name: None)
    assert main(["serve", "--model", str(models / "tiny")]) == 5
    assert 'pip install "ddgan_fast[serve]"' in capsys.readouterr().err
