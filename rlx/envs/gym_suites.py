"""Which Gymnasium id a name means, once what registers it was imported."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator

import gymnasium

from rlx.envs.options import unknown

SUITES = {"gymnasium_robotics": "adroit", "ogbench": "ogbench", "metaworld": "metaworld"}  # package -> the extra that brings it


def names() -> list[str]:
    """Ids that are registered."""
    return sorted(gymnasium.registry)


def registered(name: str) -> str:
    """The id in Gymnasium's registry that ``name`` means. ``module:Env-v0`` imports the module first; for an id that nobody
    registered the known suites are imported, one after another, until one does.

    Raises:
        ValueError: the module cannot be imported, or the id is unknown.
    """
    module, _, task = name.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except Exception as e:
            raise ValueError(
                f"gym:{name} needs the module {module!r}, which cannot be imported: {type(e).__name__}: {e}."
            ) from e
    hints = [] if module or task in gymnasium.registry else list(_search(task))
    if task not in gymnasium.registry:
        also = f" {module} was imported and does not register it." if module else "".join(f" {x}" for x in hints)
        raise ValueError(f"{unknown('gym', task, names())}{also}")
    return task


def _search(task: str) -> Iterator[str]:
    """Imports suites until one has registered ``task``; says what those are that cannot be had."""
    for package, extra in SUITES.items():
        if task in gymnasium.registry:
            return
        bare = " (from Python 3.13 on: pip install --no-deps ogbench dm_control)" if extra == "ogbench" else ""
        if importlib.util.find_spec(package) is None:
            yield f"Not installed is {package}: pip install 'rlx[{extra}]'{bare}."
            continue
        try:
            module = importlib.import_module(package)
        except Exception as e:  # a broken suite must not hide the others
            yield f"{package} cannot be imported ({type(e).__name__}: {e}): pip install 'rlx[{extra}]'{bare}."
            continue
        if hasattr(module, "register_envs_with_gymnasium"):
            module.register_envs_with_gymnasium()


def origin(task: str) -> str:
    """The package of the environment that is registered as ``task``."""
    entry = gymnasium.registry[task].entry_point
    module = entry if isinstance(entry, str) else getattr(entry, "__module__", "") or ""
    return module.split(":")[0].split(".")[0]
