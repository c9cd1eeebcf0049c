"""The house rules, checked on the syntax tree of every file: who may import whom, sizes, and what is never used."""

from __future__ import annotations

import ast
import configparser
import functools
import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# A room imports from the rows above its own, never from its own row or below. `keys` needs the types' names alone.
ROWS = (
    ("precision",),
    ("types", "config", "plugins", "files", "_version", "_versions"),
    ("keys",),
    ("nn",),
    ("envs", "replay"),
    ("dynamics", "planning", "preferences"),
    ("agents",),
    ("train", "export"),
    ("cli",),
    ("__main__",),
)
ROW = {room: row for row, rooms in enumerate(ROWS) for room in rooms}

FILE_LINES, FUNCTION_LINES = 400, 60
# path or path:function -> why it is better long
LONG: dict[str, str] = {"rlx/types.py": "every contract in one file, which is what a newcomer reads"}

NAMED = {"mujoco_playground": "playground"}  # module -> distribution, where they differ and it may not be installed
UNPICKLER = "rlx/replay/datasets/unpickle.py"  # reads arrays from pickles by a list of names of its own, and runs nothing
PICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
GENERATORS = {"default_rng", "Generator", "SeedSequence", "BitGenerator", "PCG64", "Philox"}
# path -> why it may touch numpy's global generator
GLOBAL_RANDOM: dict[str, str] = {
    "rlx/envs/gym.py": "suites that draw from it are reset under a seeded one, behind a lock",
    "benchmarks/sindy.py": "pysindy's ensembles draw from it",
    "experiments/reproduce/td_jepa_ogbench.py": "OGBench plans what its arm does by it",
    "rlx/envs/dm_control.py": "dm_control's tasks take a RandomState of their own, no global one",
}
# A path of one machine, or of one person's: never in what is published.
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:work|root|home|Users|opt)/\w")
TEXT = {"", *".py .md .cfg .toml .txt .ipynb .json .jsonl .csv .html .svg .yaml .yml .xml".split()}
SKIP = {ROOT / name for name in ("runs", "data", "build", "dist", "wandb")}  # what is not published


def sources(*folders: str) -> list[str]:
    return sorted(p.relative_to(ROOT).as_posix() for folder in folders for p in (ROOT / folder).rglob("*.py"))


@functools.cache
def tree_of(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text(), path)


LIBRARY = sources("rlx")
SCRIPTS = sources("experiments", "benchmarks")
pytestmark = pytest.mark.filterwarnings("error")


# ---------------------------------------------------------------------------------------------------------------- imports


def imports(tree: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Full dotted names of what is imported; ``from rlx import keys`` gives ``rlx.keys``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield from ((f"{base}.{alias.name}", node) for alias in node.names)


def upward(path: str, tree: ast.AST) -> list[str]:
    """The imports of one file of the library that break the rule."""
    parts = Path(path).with_suffix("").parts[1:]
    room, inside = parts[0], parts[1:]
    wrong = []
    for name, node in imports(tree):
        said = f"{path}:{node.lineno} imports {name}"  # type: ignore[attr-defined]
        target = name.split(".")
        if name.startswith("."):
            wrong.append(f"{said}: write absolute imports")
        elif target[0] in ("experiments", "benchmarks", "tests", "notebooks"):
            wrong.append(f"{said}: the library knows nothing of its users")
        elif target[0] != "rlx" or room == "__init__":
            continue
        elif len(target) < 2 or target[1] not in ROW:
            wrong.append(f"{said}: name the room, one of {', '.join(ROW)}")
        elif target[1] != room and ROW[target[1]] >= ROW[room]:
            wrong.append(f"{said}: {room} may import only {', '.join(sum(ROWS[: ROW[room]], ()))}")
        elif target[1] == room == "agents" and inside != ("__init__",) and another_method(inside, target[2:]):
            wrong.append(f"{said}: what two methods share belongs into a shared room")
    return wrong


def import_graph(trees: dict[str, ast.AST]) -> dict[str, set[str]]:
    """Which files each file imports, at its top or inside a function. A name out of a package leads to its ``__init__``; the
    packages around a file do not count, since Python runs them before any import."""
    files = {".".join(Path(path).with_suffix("").parts).removesuffix(".__init__"): path for path in trees}
    graph: dict[str, set[str]] = {}
    for path, tree in trees.items():
        found = ((name, name.rpartition(".")[0]) for name, _ in imports(tree))
        graph[path] = {files[name] if name in files else files[parent] for name, parent in found if {name, parent} & set(files)}
    return graph


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Files that import each other in a ring, the first again at the end; empty where there is none."""
    done: set[str] = set()

    def walk(path: str, way: list[str]) -> list[str]:
        if path in way:
            return [*way[way.index(path) :], path]
        if path not in done:
            for other in sorted(graph[path]):
                if found := walk(other, [*way, path]):
                    return found
            done.add(path)
        return []

    return next((found for path in sorted(graph) if (found := walk(path, []))), [])


def test_no_files_import_each_other_in_a_circle():
    found = circle(import_graph({path: tree_of(path) for path in LIBRARY}))
    assert not found, f"{' -> '.join(found)}: move what both need into a file below them (imports for types alone count)"


@pytest.mark.parametrize(
    ("codes", "found"),
    [
        ({"a": "import rlx.b", "b": "from rlx.c import x", "c": ""}, ""),
        ({"a": "import rlx.b", "b": "from rlx.c import x", "c": "def f():\n    from rlx import a"}, "abca"),
        ({"a": "if TYPE_CHECKING:\n    from rlx.b import B", "b": "from rlx import a"}, "aba"),
        ({"a": "import rlx.a"}, "aa"),
        ({"a": "import rlx.c", "b": "import rlx.c, rlx.a", "c": "import jax, rlx"}, ""),
    ],
)
def test_the_circle_check_itself(codes, found):
    graph = import_graph(
        {f"rlx/{name}.py": ast.parse(code) for name, code in codes.items()} | {"rlx/__init__.py": ast.parse("")}
    )
    assert circle(graph) == [f"rlx/{name}.py" for name in found]


def another_method(inside: tuple[str, ...], target: list[str]) -> bool:
    """Whether a file at ``inside`` of agents imports a method (a folder there) other than its own."""
    return bool(target) and (ROOT / "rlx" / "agents" / target[0]).is_dir() and target[0] != inside[0]


def test_every_room_of_the_library_has_its_row():
    rooms = {Path(path).with_suffix("").parts[1] for path in LIBRARY} - {"__init__"}
    assert rooms <= set(ROW), f"give {rooms - set(ROW)} a row in ROWS, and in docs/architecture.md"


def test_every_folder_of_the_library_is_a_package():
    bare = {str(Path(path).parent) for path in LIBRARY} - {str(Path(path).parent) for path in LIBRARY if "__init__.py" in path}
    assert not bare, f"no __init__.py in {bare}: they would not be installed"


@pytest.mark.parametrize("path", LIBRARY)
def test_imports_go_downwards(path):
    assert upward(path, tree_of(path)) == []


@pytest.mark.parametrize(
    ("path", "code", "refused"),
    [
        ("rlx/nn/mlp.py", "from rlx import keys", False),
        ("rlx/nn/mlp.py", "from rlx.envs import base", True),
        ("rlx/nn/mlp.py", "def f():\n    import rlx.train.run", True),
        ("rlx/envs/base.py", "from rlx.replay import Replay", True),
        ("rlx/envs/base.py", "from rlx.envs.registry import make", False),
        ("rlx/agents/sac.py", "from rlx.train import run", True),
        ("rlx/agents/sac.py", "from rlx.agents.td3 import critic", False),
        ("rlx/train/run.py", "from rlx.agents.sac import make", False),
        ("rlx/train/run.py", "from rlx import load", True),
        ("rlx/train/run.py", "from . import state", True),
        ("rlx/cli/main.py", "import experiments.train", True),
        ("rlx/types.py", "from rlx import config", True),
        ("rlx/nn/mlp.py", "import jax", False),
    ],
)
def test_the_import_rule_itself(path, code, refused):
    assert bool(upward(path, ast.parse(code))) is refused


def test_a_method_imports_plain_baselines_but_no_other_method(tmp_path, monkeypatch):
    for method in ("pearl", "repo"):
        (tmp_path / "rlx" / "agents" / method).mkdir(parents=True)
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    for code, refused in (("pearl.method", True), ("repo.networks", False), ("sac", False)):
        assert bool(upward("rlx/agents/repo/method.py", ast.parse(f"from rlx.agents.{code} import x"))) is refused
    assert upward("rlx/agents/sac.py", ast.parse("from rlx.agents.repo import x"))
    assert not upward("rlx/agents/__init__.py", ast.parse("from rlx.agents.repo import x"))


def requirements() -> tuple[set[str], set[str]]:
    """Distributions that setup.cfg names: in the base, and in extras."""
    setup = configparser.RawConfigParser()
    setup.read(ROOT / "setup.cfg")

    def names(text: str) -> set[str]:
        found = (re.match(r"[\w.-]+", line.strip()) for line in text.splitlines() if line.strip())
        return {match.group().lower().replace("_", "-") for match in found if match}

    extras = setup["options.extras_require"]
    return names(setup["options"]["install_requires"]), set().union(*(names(extras[extra]) for extra in extras))


distributions = functools.cache(metadata.packages_distributions)


@pytest.mark.parametrize("path", LIBRARY + SCRIPTS)
def test_what_is_imported_is_declared(path):
    """At the top of a library module only the base may be imported; extras inside the function that needs them."""
    base, extras = requirements()
    owners, tree = distributions(), tree_of(path)
    top = {id(node) for node in tree.body}
    for name, node in imports(tree):
        package = name.split(".")[0]
        if package in sys.stdlib_module_names or package in ("", "rlx", "experiments", "benchmarks"):
            continue
        if not path.startswith("rlx/") and (ROOT / path).with_name(f"{package}.py").exists():
            continue  # a script may import another that lies beside it
        owned = {owner.lower().replace("_", "-") for owner in owners.get(package, [NAMED.get(package, package)])}
        allowed = base if id(node) in top and path.startswith("rlx/") else base | extras
        assert owned & allowed or path.startswith("benchmarks/"), f"{path} imports {package}: declare it in setup.cfg"


# ------------------------------------------------------------------------------------------------------------------ sizes


def functions(tree: ast.AST, outer: str = "") -> Iterator[tuple[str, int]]:
    """Each function with its lines; those of functions inside it are theirs."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield f"{outer}{node.name}", own_lines(node)
        named = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        yield from functions(node, f"{outer}{node.name}." if named else outer)  # type: ignore[attr-defined]


def own_lines(node: ast.AST) -> int:
    def inner(at: ast.AST) -> Iterator[ast.AST]:
        for child in ast.iter_child_nodes(at):
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield child
            else:
                yield from inner(child)

    def lines(at: ast.AST) -> int:
        return at.end_lineno - at.lineno + 1  # type: ignore[attr-defined]

    return lines(node) - sum(lines(child) for child in inner(node))


def test_own_lines():
    code = "def f():\n    x = 1\n    def g():\n        return 2\n    class A:\n        def h(self): pass\n    return g"
    assert dict(functions(ast.parse(code))) == {"f": 4, "f.g": 2, "f.A.h": 1}


@pytest.mark.parametrize("path", LIBRARY + SCRIPTS)
def test_sizes(path):
    lines = len((ROOT / path).read_text().splitlines())
    assert lines <= FILE_LINES or path in LONG, f"{path} has {lines} lines: split it, or say in LONG why not"
    for name, length in functions(tree_of(path)):
        place = f"{path}:{name}"
        assert length <= FUNCTION_LINES or place in LONG, f"{place} has {length} lines: split it, or say in LONG why not"


def test_the_list_of_exceptions_is_short_and_true():
    known = {*LIBRARY, *SCRIPTS} | {f"{path}:{name}" for path in LIBRARY + SCRIPTS for name, _ in functions(tree_of(path))}
    assert len(LONG) <= 5 and set(LONG) <= known and all(LONG.values())


# -------------------------------------------------------------------------------------------------------------- never used


def dotted(node: ast.AST) -> str:
    return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def misused(path: str, tree: ast.AST) -> list[str]:
    picklers = set() if path == UNPICKLER else PICKLERS
    wrong = [f"imports {name}" for name, _ in imports(tree) if name.split(".")[0] in picklers]
    for node in ast.walk(tree):
        name = dotted(node) if isinstance(node, ast.Attribute) else ""
        if re.fullmatch(r"(np|numpy)\.random\.\w+", name) and name.rsplit(".", 1)[1] not in GENERATORS:
            if path not in GLOBAL_RANDOM:
                wrong.append(f"{name}: draw from rlx.keys, not from a global generator")
        if name.endswith("random.PRNGKey") and not path.startswith("rlx/envs/"):
            wrong.append("a raw key: use jax.random.key, raw keys belong to the border with brax")
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and getattr(node.value, "value", True) is not False:
            wrong.append("allow_pickle")
        if isinstance(node, ast.Constant) and node.value == "jax_enable_x64":
            wrong.append("jax_enable_x64: devices compute in float32")
    return wrong


@pytest.mark.parametrize("path", LIBRARY + SCRIPTS)
def test_no_pickle_no_global_randomness_no_raw_keys_no_x64(path):
    assert misused(path, tree_of(path)) == []


@pytest.mark.parametrize(
    ("code", "count"),
    [
        ("import pickle", 1),
        ("from joblib import dump", 1),
        ("np.load(f, allow_pickle=True)", 1),
        ("np.load(f, allow_pickle=False)", 0),
        ("np.random.seed(0)", 1),
        ("np.random.default_rng(0)", 0),
        ("key = jax.random.PRNGKey(0)", 1),
        ("jax.random.key(0)", 0),
        ("jax.config.update('jax_enable_x64', True)", 1),
    ],
)
def test_the_misuse_check_itself(code, count):
    assert len(misused("rlx/nn/mlp.py", ast.parse(code))) == count


@pytest.mark.parametrize("path", LIBRARY + SCRIPTS)
def test_annotations_are_lazy_and_modules_say_what_they_are_for(path):
    tree = tree_of(path)
    if len(tree.body) > 1:  # more than one assignment
        assert ast.get_docstring(tree), f"{path} has no docstring"
    if next(functions(tree), None):
        assert "__future__.annotations" in {name for name, _ in imports(tree)}, f"{path}: from __future__ import annotations"


def published() -> Iterator[Path]:
    folders = [ROOT]
    while folders:
        for path in folders.pop().iterdir():
            hidden = path.name.startswith(".") and path.name != ".ci"
            if path.is_dir() and path not in SKIP and not hidden and not path.name.endswith(("__pycache__", ".egg-info")):
                folders.append(path)
            elif path.is_file() and path.suffix in TEXT and not path.name.startswith("."):
                yield path


def test_nothing_speaks_of_one_machine():
    found = []
    for path in published():
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if MACHINE_PATH.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}")
    assert found == []


def test_the_machine_path_check_itself():
    for part in ("work", "home", "root"):
        assert MACHINE_PATH.search(f"see /{part}/someone") and not MACHINE_PATH.search(f"rlx/{part}/x")
