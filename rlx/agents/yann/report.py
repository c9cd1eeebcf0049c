"""A trained policy, looked at::

    policy = rlx.load("runs/pendulum")
    print(markdown(policy))                             # its regions: law, visits, what learning changed, jumps
    regions_table(policy)                               # the same as a list of dicts
    draw_regions(ax, policy, axes=("angle", "rate"))    # the critical regions over a plane, as exact polygons
    draw_costs(ax, rlx.train.logging.read(run_dir))     # what evaluations cost while it learned
    Path("picture.png").write_bytes(picture(policy))    # before and after learning

`rlx train yann` leaves the page and the picture in the run folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rlx.agents.yann.draw import draw_costs, draw_regions, draw_runs, picture
from rlx.agents.yann.learner import Learner
from rlx.agents.yann.regions import Runs, Trained, law_text, markdown, opened
from rlx.agents.yann.regions import table as regions_table
from rlx.types import AgentState, Env, HostEnv

__all__ = ["Report", "Runs", "Trained", "draw_costs", "draw_regions", "draw_runs", "law_text"]
__all__ += ["markdown", "opened", "picture", "regions_table"]


@dataclass(frozen=True)
class Report:
    """`rlx.types.Agent.report`; and where `opened` finds the controller that a policy was trained from."""

    learner: Learner
    env: Env | HostEnv

    def __call__(self, state: AgentState, folder: Path) -> list[Path]:
        it = Trained(self.learner, state, self.env)
        runs = it.runs("base"), it.runs("eval")
        page, drawn = folder / "regions.md", folder / "regions.png"
        page.write_text(markdown(it, runs=runs), encoding="utf-8")
        drawn.write_bytes(picture(it, runs=runs))
        return [page, drawn]
