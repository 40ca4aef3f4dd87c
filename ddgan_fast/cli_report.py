"""`ddgan report`: a training run as one HTML page."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class Report:
    """Write a page about a run: `ddgan report runs/cifar10 --out report.html`. It is one file, which needs no network.

    Curves, samples, speed, settings and machine; a run that still trains has one too.
    """

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The --out folder of `ddgan train`."""
    out: Path = Path("report.html")
    """The page; a file of that name is replaced."""
    scores: tuple[Path, ...] = ()
    """Files of `ddgan eval --json`, a row each."""

    def run(self):
        from ddgan_fast.report import write_report

        write_report(self.folder, self.out, self.scores)
        print(f"{self.out}: {self.out.stat().st_size / 1e6:.1f} MB; open it in a browser")
