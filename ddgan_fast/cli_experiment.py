"""`ddgan experiment NAME`: the paper's figures and tables made again. A new one is a dataclass and a line of EXPERIMENTS.

Its dataclass is frozen, and has flags, a docstring for --help, `run`, and two constants for --list: ITEM, what of the paper it remakes, and
TIME, how long that takes on a CPU. It writes its files under `out` and prints their paths.
"""

from dataclasses import dataclass, field
from typing import Annotated, Union

import tyro

from ddgan_fast.cli_figures import Figure2, Figure8, Figure9, Figure10, Figure14, Figure15, Figure16, Figure17, Samples
from ddgan_fast.cli_tables import Figure6, Table1, Table2, Table3, Table4, Table5

EXPERIMENTS = {
    "table1": Table1,
    "table2": Table2,
    "table3": Table3,
    "table4": Table4,
    "table5": Table5,
    "figure2": Figure2,
    "samples": Samples,
    "figure6": Figure6,
    "figure8": Figure8,
    "figure9": Figure9,
    "figure10": Figure10,
    "figure14": Figure14,
    "figure15": Figure15,
    "figure16": Figure16,
    "figure17": Figure17,
}


@dataclass(frozen=True)
class List:
    """Say what of the paper each experiment remakes, and how long that takes."""

    def run(self):
        width = max(map(len, EXPERIMENTS))
        for name, kind in EXPERIMENTS.items():
            print(f"{name:{width}}  {kind.ITEM}: {kind.TIME}")


_Action = Union[  # noqa: UP007 - made from the registry
    tuple(Annotated[kind, tyro.conf.subcommand(name, prefix_name=False)] for name, kind in {"list": List, **EXPERIMENTS}.items())
]


@dataclass(frozen=True)
class Experiment:
    """Make the paper's figures again: `ddgan experiment figure8 --model DIR`; `ddgan experiment --list` says what there is."""

    action: _Action = field(default_factory=List)
    list: bool = False
    """Say what of the paper each experiment remakes, and how long that takes."""

    def run(self):
        (List() if self.list else self.action).run()
