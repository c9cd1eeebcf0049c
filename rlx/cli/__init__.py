"""The command line: ``rlx train|sweep|evaluate|collect|data|report|export|zero_shot|pref``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from rlx.config import nearest, stop

COMMANDS = {
    "train": "train an agent; the same command on the same run folder goes on",
    "sweep": "settings times seeds, as few programs or on many workers, with a ranking",
    "evaluate": "whole episodes of a trained policy: returns with intervals, and a video",
    "collect": "rollouts of a policy or of noise, or a run's replay, as a dataset",
    "data": "datasets of any layout: looked at, rewritten, cut, scored",
    "report": "curves and tables of run folders as one HTML page",
    "export": "a trained policy as a Python file, C source or StableHLO",
    "zero_shot": "ask a zero-shot agent for a reward that is written, or for a goal, and film it",
    "pref": "preferences of one task carried over to another, without training, or asked of a person",
}
USAGE = "usage: rlx COMMAND [OPTIONS]\n\n" + "".join(f"  {name:<10}{what}\n" for name, what in COMMANDS.items())


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and gives its exit code: 0, or 2 for bad input after one message on stderr."""
    given = list(sys.argv[1:] if argv is None else argv)
    if not given or given[0] in ("-h", "--help"):
        print(USAGE + "\n`rlx COMMAND --help` shows the options. RLX_DEBUG=1 shows where errors come from.")
        return 0
    if given[0] == "--version":
        from rlx._version import __version__

        print(f"rlx {__version__}")
        return 0
    try:
        if given[0] not in COMMANDS:
            stop(f"unknown command {given[0]!r}.{nearest(given[0], COMMANDS)}")
    except SystemExit as end:
        return int(end.code or 0)
    from rlx.precision import in_float32

    return in_float32(importlib.import_module(f"rlx.cli.{given[0]}").main)(given[1:])
