"""Which run folders this version of rlx can read."""

from __future__ import annotations

import os

from rlx._version import __version__

OLDEST = (0, 2)  # from here on networks, checkpoints and configs are laid out as they are now


def check(written: str | None, where: str | os.PathLike) -> None:
    """To be asked before anything else is read of ``where``, which version ``written`` wrote (None: it does not say).

    Raises:
        ValueError: that version is too old.
    """
    numbers = [int(x) if x.isdigit() else 0 for x in (written or "0").split(".")[:2]]
    if tuple(numbers) < OLDEST:
        version = f"rlx {written}" if written else f"an rlx before {'.'.join(map(str, OLDEST))}"
        raise ValueError(
            f"{where} was written by {version}; this is rlx {__version__}, whose networks and checkpoints are laid out in "
            "another way. Use it with the version that wrote it, or train again in another run folder."
        )
