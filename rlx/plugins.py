"""Code from outside this tree: modules that a command imports, and entry points of installed packages.

A module registers what it brings when it is imported (`rlx.agents.register`, `rlx.envs.register`). An installed package says
in its metadata which module that is, and is imported when the name is first asked for::

    [project.entry-points."rlx.agents"]
    crossq = "my_package.crossq"        # name of the agent = its module

    [project.entry-points."rlx.envs"]
    mine = "my_package.envs"            # prefix of the environments = the module that registers them
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable, Sequence
from importlib import metadata
from types import ModuleType

FLAG = "--import"
imported: list[str] = []  # by `import_modules` in this process, in order: what a process that it starts must import too


def import_modules(names: Iterable[str], wanted_by: str = FLAG) -> None:
    """Imports modules by dotted name. Files in the current folder are found too, after all that is installed.

    Raises:
        ValueError: one cannot be imported; says which, who wanted it and what was wrong.
    """
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
    for name in names:
        try:
            importlib.import_module(name)
            imported.extend([name] if name not in imported else [])
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise ValueError(f"{wanted_by} {name}: it imports {error.name}, which is not installed.") from error
            raise ValueError(
                f"{wanted_by} {name}: there is no module {error.name!r}. Give its dotted name as Python imports it; its folder "
                "must be the current one or on PYTHONPATH, or the package installed."
            ) from None
        except Exception as error:
            raise ValueError(f"{wanted_by} {name}: importing it failed with {type(error).__name__}: {error}.") from error


def given(argv: Sequence[str]) -> tuple[str, ...]:
    """The modules that a command line names by ``--import``, each once."""
    found = []
    for word, following in zip(argv, [*argv[1:], ""], strict=False):
        if word == FLAG and following and not following.startswith("-"):
            found.append(following)
        elif word.startswith(f"{FLAG}="):
            found.append(word.partition("=")[2])
    return tuple(dict.fromkeys(found))


def entry_names(group: str) -> list[str]:
    """The names that installed packages declare in ``group``, without importing them."""
    return sorted({entry.name for entry in metadata.entry_points(group=group)})


def entry(group: str, name: str) -> ModuleType | None:
    """The module behind an entry point, imported now; None where no installed package declares the name.

    Raises:
        ValueError: it cannot be imported, or is no module, or two packages mean different things by it.
    """
    found = {e.value: e for e in metadata.entry_points(group=group) if e.name == name}
    if not found:
        return None
    words = [f"'{name} = {value}' of {e.dist.name if e.dist else 'an unnamed package'}" for value, e in found.items()]
    if len(found) > 1:
        raise ValueError(f"several packages have a {name!r} in {group}: {', '.join(words)}. Uninstall all but one.")
    try:
        module = next(iter(found.values())).load()
    except Exception as error:
        raise ValueError(
            f"{name!r} is in {group} by the entry point {words[0]}, which cannot be imported: {type(error).__name__}: {error}. "
            "Mend or uninstall that package; everything else works."
        ) from error
    if not isinstance(module, ModuleType):
        raise ValueError(f"the entry point {words[0]} in {group} must name a module, not a {type(module).__name__}.")
    return module
