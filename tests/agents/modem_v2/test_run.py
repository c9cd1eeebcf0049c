"""A whole run, stopped and gone on with."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from rlx import agents
from rlx.train import Options, run
from tests.agents.modem_v2.worlds import SIZES, problem
from tests.train.toys import evaluations


class Killed(Exception):
    pass


@pytest.mark.slow
def test_a_run_goes_through_its_stages_and_goes_on_where_it_was_stopped(tmp_path):
    given, told = problem(), []
    small = {**SIZES, "env_steps": 300, "bc_updates": 100, "eval_episodes": 2, "eval_every": 100, "handover.steps": 100.0}
    agent = agents.make("modem_v2", None, given, **small)
    options = Options(progress=False, checkpoint_cycles=1)
    note = evaluations(lambda line: told.append((line["eval"], line["info/violation_mean"].shape)))
    whole = run(agent, given, 3, options=options, callback=note)
    assert [name for name, _ in told] == ["bc", "bc_noisy", "main", "planner"]
    assert int(whole.counts["env_steps"]) == 300 and int(whole.counts["updates"]) == 120
    assert set(whole.agent.learned["opt"]) == {"encoder", "dynamics", "reward", "critics", "policies"}
    for source in ("data", "replay"):
        priority = np.asarray(whole.sources[source].index.priority)
        assert len(np.unique(priority)) > 3, f"priorities of {source} do not go round"

    def kill(line):
        if line["eval"] == "main":
            raise Killed

    with pytest.raises(Killed):
        run(agent, given, 3, tmp_path, options=options, callback=evaluations(kill))
    resumed = run(agent, given, 3, tmp_path, options=options)
    for a, b in zip(jax.tree.leaves(whole.agent), jax.tree.leaves(resumed.agent), strict=True):
        np.testing.assert_array_equal(a, b)
