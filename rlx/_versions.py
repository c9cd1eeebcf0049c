"""Pairs of installed versions that are known to clash, named at import with the remedy."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable
from importlib import metadata
from typing import NamedTuple

Release = tuple[int, ...]


class Clash(NamedTuple):
    """Two distributions (or ``"python"``) that do not work together ``when`` their releases are so.

    ``fatal``: rlx cannot work at all. Otherwise only a part of it breaks, and a warning is enough.
    """

    one: str
    other: str
    when: Callable[[Release, Release], bool]
    why: str
    remedy: str  # {one} and {other} stand for the versions found
    fatal: bool = False


CLASHES = (
    Clash(
        "jax",
        "python",
        lambda jax, python: jax >= (0, 11) and python < (3, 12),
        "jax 0.11 dropped Python 3.11",
        "use Python 3.12, or: pip install 'jax<0.11' 'jaxlib<0.11'",
        fatal=True,
    ),
    Clash(
        "flax",
        "jax",
        lambda flax, jax: flax < (0, 12, 7) and jax >= (0, 11),
        "flax before 0.12.7 uses what jax 0.11 removed",
        "pip install 'flax>=0.12.7,<0.13'",
        fatal=True,
    ),
    Clash(
        "pysindy",
        "rlx",
        lambda pysindy, rlx: pysindy < (2,),
        "rlx.dynamics reads and makes models of pysindy 2, which has other classes than pysindy 1",
        "pip install 'pysindy>=2,<3'",
    ),
    Clash(
        "mujoco",
        "mujoco-mjx",
        lambda mujoco, mjx: mujoco[:2] != mjx[:2],
        "they are released as a pair, MJX reads the native model's memory",
        "pip install 'mujoco-mjx=={one}', or the tested pair: pip install 'mujoco==3.16.0' 'mujoco-mjx==3.16.0'",
    ),
    Clash(
        "mujoco",
        "metaworld",
        lambda mujoco, metaworld: mujoco >= (3, 17),
        "Meta-World's models break from mujoco 3.17 on",
        "pip install 'mujoco==3.16.0' 'mujoco-mjx==3.16.0' 'dm_control==1.0.49'",
    ),
    Clash(
        "metaworld",
        "mujoco",
        lambda metaworld, mujoco: metaworld >= (3, 1) and mujoco[:3] != (3, 3, 0),
        "metaworld 3.1 is bound to mujoco 3.3.0, which is too old for rlx",
        "pip install 'metaworld==3.0.0'",
    ),
    Clash(
        "rliable",
        "pandas",
        lambda rliable, pandas: pandas >= (3,),
        "rliable needs pandas below 3",
        "pip install 'pandas<3'",
    ),
)


def installed(name: str) -> str | None:
    """The version of a distribution, or of Python for ``"python"``; None where it is not installed."""
    if name == "python":
        return ".".join(map(str, sys.version_info[:3]))
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def release(version: str) -> Release:
    """``"3.16.0.dev1"`` is ``(3, 16, 0)``."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, match.group().split("."))) if match else ()


def clashes(version: Callable[[str], str | None] = installed) -> list[tuple[Clash, str]]:
    """The clashing pairs among what ``version`` says is installed, each with its message."""
    found = []
    for clash in CLASHES:
        one, other = version(clash.one), version(clash.other)
        if one and other and clash.when(release(one), release(other)):
            remedy = clash.remedy.format(one=one, other=other)
            pair = f"{clash.one} {one} and {clash.other} {other}"
            found.append((clash, f"{pair} do not work together: {clash.why}. What to do: {remedy}"))
    return found


def check(version: Callable[[str], str | None] = installed) -> None:
    """Raises ImportError where rlx cannot work with what is installed, warns where a part of it cannot."""
    found = clashes(version)
    for clash, message in found:
        if not clash.fatal:
            warnings.warn(message, stacklevel=3)
    fatal = [message for clash, message in found if clash.fatal]
    if fatal:
        raise ImportError("\n".join([*fatal, "In a checkout of rlx, the tested set: pip install -c constraints.txt -e ."]))
