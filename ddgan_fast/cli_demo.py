"""`ddgan demo`: a model as a page in the browser."""

from dataclasses import dataclass
from pathlib import Path

from ddgan_fast.cli_arguments import open_pipe


@dataclass(frozen=True)
class Demo:
    """Open a page that draws samples and edits strokes painted with the mouse: `ddgan demo --model runs/demo`.

    It answers this machine alone. Another --host than 127.0.0.1 opens it, without a password, to everyone who reaches that address.
    Ctrl-C ends it.
    """

    model: Path
    """A model folder, or a training run (its newest EMA)."""
    host: str = "127.0.0.1"
    """Address to listen on; any other than 127.0.0.1 opens the page to the network."""
    port: int = 7860
    """1 to 65535."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: a GPU where there is one."""
    engine: str = "auto"
    """How the network runs: auto (the fastest here), eager, folded, compile or graph; `ddgan env` says which are there."""
    precision: str | None = None
    """fp32, tf32, bf16 or fp16; by default the model's own, fp32."""

    def run(self):
        from threading import Event

        from ddgan_fast.serving.page import launch, open_gradio

        open_gradio()  # what is missing is said before the model is read
        pipe = open_pipe(self.model, self.device, self.engine, self.precision)
        card = self.model / "README.md"
        text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
        page = launch(pipe, self.model.resolve().name, self.host, self.port, text)
        print(f"http://{self.host}:{self.port} shows {self.model}; Ctrl-C ends it", flush=True)
        try:
            Event().wait()
        finally:
            page.close(verbose=False)
