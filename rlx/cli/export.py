"""``rlx export --run-dir DIR --format c``: a trained policy as a Python file, C source or StableHLO."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rlx import config, export
from rlx.cli import console
from rlx.train import load

ENDS = {"numpy": ".py", "stablehlo": ".stablehlo"}


@dataclass(frozen=True)
class Flags:
    run_dir: str = ""  # the run folder
    format: Literal["numpy", "c", "stablehlo"] = "numpy"  # one Python file, C99 header and source, or what jax.export writes
    dtype: Literal["float32", "float64"] = "float32"  # what numpy and C compute in
    name: str = "policy"  # of the files, and in C of the function NAME_act
    out: str = ""  # folder; the run folder's "export" if not given
    mode: str = "eval"  # how the agent acts; sindy_rl has "sparse", its policy as a polynomial
    which: Literal["best", "last"] = "best"  # the best by evaluation return while training, or the last
    member: int = config.size(0, least=0)  # of a run with several: seeds first, then settings
    measure: bool = False  # with --format c: compile it here and time single decisions
    imports: console.IMPORTS = config.size((), console.IMPORTS_HELP)


def main(argv: Sequence[str] | None = None) -> int:
    return console.command(body, argv)


def body(argv: list[str]) -> None:
    flags: Flags = config.parse(Flags(), argv, prog="rlx export", description=(__doc__ or "").strip())
    if not flags.run_dir:
        config.stop("which run? Give --run-dir, as in: rlx export --run-dir runs/walker --format c")
    if not flags.name or Path(flags.name).name != flags.name:
        config.stop(f"--name names files inside --out, it is no path; got {flags.name!r}")
    if flags.measure and flags.format != "c":
        config.stop(f"--measure times C: give --format c, not {flags.format}")
    if flags.format == "stablehlo" and flags.dtype != "float32":
        config.stop("--format stablehlo keeps the float32 of the trained policy: leave --dtype away")
    if not flags.out and Path(flags.run_dir).is_dir() and not os.access(flags.run_dir, os.W_OK):
        config.stop(f"{flags.run_dir} cannot be written: say by --out where the files are to go")
    policy = load(flags.run_dir, flags.which, flags.member)
    law = export.law_of(policy, flags.mode)
    folder = Path(flags.out) if flags.out else Path(flags.run_dir) / "export"
    files, difference = write(policy, law, flags, folder)
    rows = [
        ("run", f"{flags.run_dir} ({flags.which}, after cycle {policy.cycle})"),
        ("shapes", f"obs {list(policy.spec.obs.shape)} -> action {list(policy.spec.action.shape)}"),
        ("actions", law.range().removeprefix("actions ")),
        *((file.name, f"{console.size(file.stat().st_size)}  {file}") for file in files),
    ]
    values: dict[str, Any] = {
        "run_dir": flags.run_dir,
        "format": flags.format,
        "dtype": flags.dtype,
        "files": [str(file) for file in files],
        "difference": difference,
    }
    if difference is not None:
        rows.append(("largest difference", f"{difference:.1e} from the policy in JAX, on 1,000 states"))
    if flags.format == "c":
        found = export.cost(law, flags.dtype)
        rows += found.rows()
        values |= vars(found)
    if flags.measure:
        timing = export.measure_c(law, dtype=flags.dtype)
        rows += timing.rows()
        values |= {"median_ns": timing.median, "worst_ns": timing.worst, "slowest_call_ns": timing.slowest_call}
    console.table(f"exported as {flags.format}", rows)
    console.result(values)


def write(policy: Any, law: export.Law, flags: Flags, folder: Path) -> tuple[list[Path], float | None]:
    """The files; and how far their actions are from the policy's, where they can be run here."""
    if flags.format == "c":
        return list(export.to_c(law, folder, flags.name, flags.dtype)), None
    path = folder / f"{flags.name}{ENDS[flags.format]}"
    if flags.format == "stablehlo":
        act = export.from_stablehlo(export.to_stablehlo(law, path))
    else:
        export.to_numpy(law, path, flags.dtype)
        scope: dict[str, Any] = {}
        exec(path.read_text(), scope)
        act = scope["act"]
    obs = np.random.default_rng(0).standard_normal((1_000, *policy.spec.obs.shape)).astype(np.float32)
    beside = [path.with_suffix(".json")] if flags.format == "stablehlo" else []
    return [path, *beside], float(np.abs(act(obs) - policy.act(obs, mode=flags.mode, units="env")[0]).max())
