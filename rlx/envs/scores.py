"""Reference returns of environments, and returns on their scale: 0 is what random actions get, 100 what an expert gets.

Published references, mean returns of whole episodes:

- D4RL (Fu et al. 2020, arXiv:2004.07219; the values are those of ``d4rl/infos.py``): MuJoCo locomotion, Adroit, the mazes, the
  kitchen. They are D4RL's for its own environments (-v2 and before), and stand here for Gymnasium's of the same name too, which
  pay by the same formula; ``-v5`` counts its survival reward otherwise at falls.
- NeoRL (Qin et al. 2022, arXiv:2102.00714): HalfCheetah-v3, Hopper-v3, Walker2d-v3.

For all else there are none to look up: that ``dmc:`` tasks cannot pay more than 1000 says nothing of what random actions or
experts get. Own measurements go into a JSON file by `extend`, and count from then on. The file is ``$RLX_REFERENCES``, or
``references.json`` in the user's ``~/.local/share/rlx`` (``$XDG_DATA_HOME/rlx``).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlx import files

# (random, expert)
D4RL: dict[str, tuple[float, float]] = {
    "halfcheetah": (-280.178953, 12135.0),
    "hopper": (-20.272305, 3234.3),
    "walker2d": (1.629008, 4592.3),
    "ant": (-325.6, 3879.7),
    "pen": (96.262799, 3076.8331017826877),
    "hammer": (-274.856578, 12794.134825156867),
    "relocate": (-6.425911, 4233.877797728884),
    "door": (-56.512833, 2880.5693087298737),
    "maze2d-open": (0.01, 20.66),
    "maze2d-umaze": (23.85, 161.86),
    "maze2d-medium": (13.13, 277.39),
    "maze2d-large": (6.7, 273.99),
    "maze2d-open-dense": (11.17817, 27.166538620695782),
    "maze2d-umaze-dense": (68.537689, 193.66285642381482),
    "maze2d-medium-dense": (44.264742, 297.4552547777125),
    "maze2d-large-dense": (30.569041, 303.4857382709002),
    "antmaze": (0.0, 1.0),
    "kitchen": (0.0, 4.0),
}
NEORL: dict[str, tuple[float, float]] = {"halfcheetah": (-298.0, 12284.0), "hopper": (5.0, 3294.0), "walker2d": (1.0, 5143.0)}

_DATA = r"(?:-(?:random|medium|expert|medium-replay|full-replay|medium-expert))?"
# Names of environments and data sets -> the table, and its entry (None: what the name captures)
_NAMES: tuple[tuple[str, str, str | None], ...] = (
    (r"(halfcheetah|hopper|walker2d)-v3(?:-(?:low|medium|high).*)?", "NeoRL", None),
    (rf"(halfcheetah|hopper|walker2d|ant){_DATA}-v[0-9]+", "D4RL", None),
    (r"adroithand(pen|hammer|relocate|door)-v[0-9]+", "D4RL", None),
    (r"(pen|hammer|relocate|door)-(?:human|cloned|expert)-v[01]", "D4RL", None),
    (r"(maze2d-(?:open|umaze|medium|large)(?:-dense)?)-v[01]", "D4RL", None),
    (r"antmaze-(?:umaze(?:-diverse)?|(?:medium|large)-(?:play|diverse))-v[012]", "D4RL", "antmaze"),
    (r"kitchen-(?:complete|partial|mixed)-v0", "D4RL", "kitchen"),
)
# options that leave returns as they are
HARMLESS = {"physics", "forces", "force_limit", "threads", "info_keys", "vectorize", "light", "host"}


class Reference(NamedTuple):
    """Mean returns of random actions and of an expert, and whose they are."""

    random: float
    expert: float
    source: str


def reference(env: str) -> Reference | None:
    """Of an environment ("gym:HalfCheetah-v4"), or of a data set by its published name ("hopper-medium-v2"); None where there
    is none. One's own (`extend`) come first.

    Raises:
        ValueError: the file of one's own references cannot be read.
    """
    own = _own(_file()).get(env, {})
    if {"random", "expert"} <= own.keys():
        return Reference(own["random"], own["expert"], f"own: {own.get('how') or 'measured'}")
    name = env.removeprefix("gym:").rpartition(":")[2].lower() if env.startswith("gym:") or ":" not in env else ""
    for pattern, table, entry in _NAMES:
        found = re.fullmatch(pattern, name)
        if found:
            key = entry or found[1]
            return Reference(*{"D4RL": D4RL, "NeoRL": NEORL}[table][key], f"{table}'s {key}")
    return None


def of_run(env: str, time_limit: int | None, env_options: Mapping[str, Any]) -> Reference | None:
    """The same for a run with these settings: None too where a time limit or an option may change what is paid."""
    return None if time_limit is not None or set(env_options) - HARMLESS else reference(env)


def normalised(env: str | Reference, returns: Any) -> np.ndarray:
    """100 (R - random) / (expert - random), float64, in the shape of ``returns``.

    Raises:
        ValueError: the environment has no references.
    """
    found = reference(env) if isinstance(env, str) else env
    if found is None:
        raise ValueError(
            f"{env} has no reference returns: measure them, random by rlx collect --mode random and expert by a trained run, "
            "and keep them by rlx.envs.scores.extend."
        )
    return 100 * (np.asarray(returns, np.float64) - found.random) / (found.expert - found.random)


# ------------------------------------------------------------------------------------------------------------- one's own


def _file() -> Path:
    given = os.environ.get("RLX_REFERENCES")
    if given:
        return Path(given)
    home = os.environ.get("XDG_DATA_HOME") or os.path.join(os.path.expanduser("~"), ".local", "share")
    return Path(home) / "rlx" / "references.json"


def _own(path: Path) -> dict[str, dict[str, Any]]:
    if not path.exists():
        return {}
    table = files.read_json(path)
    for name, entry in table.items():
        numbers = [entry.get(k, 0.0) for k in ("random", "expert")] if isinstance(entry, dict) else [None]
        if not all(isinstance(x, (int, float)) and np.isfinite(x) for x in numbers):
            raise ValueError(f"{path}: {name!r} is to hold the numbers 'random' and 'expert', it holds {entry!r}.")
    return table


def extend(
    env: str, *, random: float | None = None, expert: float | None = None, how: str = "", path: str | os.PathLike | None = None
) -> dict[str, Any]:
    """Keeps one's own references of ``env``, each number when it is measured, in the file ``path`` (None: that of `reference`),
    and returns the entry. They count when both are there. ``how``: in a few words, how they were measured.

    Raises:
        ValueError: no number, one that is not finite, or an expert that is not above random.
        OSError: the file cannot be written.
    """
    given = {k: float(x) for k, x in (("random", random), ("expert", expert)) if x is not None}
    if not given or not all(np.isfinite(x) for x in given.values()):
        raise ValueError(f"references of {env}: give random, expert or both as finite numbers; got {given or 'none'}.")
    place = _file() if path is None else Path(path)
    table = _own(place)
    entry = {**table.get(env, {}), **given, **({"how": how} if how else {})}
    if {"random", "expert"} <= entry.keys() and not entry["expert"] > entry["random"]:
        raise ValueError(f"references of {env}: the expert's {entry['expert']} is to be above random's {entry['random']}.")
    place.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(place, json.dumps({**table, env: entry}, indent=2, sort_keys=True) + "\n")
    return entry
