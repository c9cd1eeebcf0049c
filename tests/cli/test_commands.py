"""The commands, in this process, at debug size: what they leave, what they say, and that the same command goes on."""

from __future__ import annotations

import json
from pathlib import Path

import gymnasium
import jax
import numpy as np
import pytest

import rlx
from rlx.cli import main, outputs
from rlx.envs import scores
from rlx.train.checkpoint import Checkpoints
from rlx.train.policy import load_members
from rlx.types import Step

ENVS = {"device": "rlx:pendulum", "host": "gym:Pendulum-v1"}
QUIET = ["--no-progress"]


def train_args(env: str, run_dir: Path, *more: str) -> list[str]:
    return ["train", "sac", "--env", env, "--preset", "debug", "--run-dir", str(run_dir), *QUIET, *more]


def result_of(out: str) -> dict:
    """The last line of stdout."""
    last = out.rstrip("\n").splitlines()[-1]
    assert last.startswith("RESULT {")
    return json.loads(last.removeprefix("RESULT "))


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict[str, Path]:
    """Run folders of one training on a device environment and one on a host environment."""
    folders = {}
    for kind, env in ENVS.items():
        folders[kind] = tmp_path_factory.mktemp("runs") / kind
        more = ["--no-video"] if kind == "host" else []
        assert main(train_args(env, folders[kind], *more)) == 0
    return folders


@pytest.mark.slow
@pytest.mark.parametrize("kind", ENVS)
def test_train_leaves_all_it_promises(trained, kind):
    folder = trained[kind]
    config = json.loads((folder / "config.json").read_text())
    assert config["agent"] == "sac" and config["env"] == ENVS[kind] and config["seed"] == 0
    assert config["versions"]["jax"] == jax.__version__
    result = json.loads((folder / "result.json").read_text())
    low, high = result["return_ci"]
    assert result["return_ci_over"] == "2 episodes of one seed; not an interval of the method"
    assert low <= result["return_mean"] <= high <= 0  # the pendulum only costs
    assert result["env_steps"] > 0 and result["updates"] > 0 and result["episodes"] == 2
    assert Path(result["curve"]).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    kinds = {json.loads(line)["kind"] for line in (folder / "metrics.jsonl").read_text().splitlines()}
    assert {"train", "eval"} <= kinds
    assert not list(folder.glob(".*.part*"))


def test_the_video_is_one_and_moves(trained):
    from PIL import Image

    path = Path(json.loads((trained["device"] / "result.json").read_text())["video"])
    if path.suffix == ".mp4":
        assert path.read_bytes()[4:8] == b"ftyp"
        return
    with Image.open(path) as film:
        assert film.n_frames > 10
        film.seek(0)
        first = np.asarray(film.convert("RGB"), int)
        film.seek(film.n_frames - 1)
        assert np.abs(np.asarray(film.convert("RGB"), int) - first).max() > 50


def test_the_same_command_on_a_finished_run_trains_nothing_and_says_the_same(trained, capsys):
    before = (trained["device"] / "metrics.jsonl").read_text()
    first = json.loads((trained["device"] / "result.json").read_text())
    assert main(train_args(ENVS["device"], trained["device"])) == 0
    captured = capsys.readouterr()
    again = result_of(captured.out)
    assert "goes on" in captured.out
    assert (trained["device"] / "metrics.jsonl").read_text() == before
    for name in ("return_mean", "return_ci", "return_best", "env_steps", "updates"):
        assert again[name] == first[name], name


def test_plan_comes_before_and_result_after(tmp_path, capsys):
    assert main(train_args(ENVS["device"], tmp_path / "run", "--no-video", "--seed", "3")) == 0
    out = capsys.readouterr().out
    assert 0 <= out.index("Plan") < out.index("memory replay") < out.index("Result") < out.index("RESULT {")
    assert result_of(out)["seed"] == 3


def test_the_first_sections_of_a_report_are_read_out(tmp_path, capsys, monkeypatch):
    """As many as fit on a screen, long lines counted as the rows that they take."""
    monkeypatch.setenv("COLUMNS", "80")
    short, mixed, long, drawn = (tmp_path / k for k in ("equations.md", "policy.md", "regions.md", "portrait.png"))
    short.write_text("x' = 2 x\n")
    mixed.write_text("# Found\n## Dynamics\nx' = 2 x\n## Policy\n" + "u" * 80 * outputs.SCREEN + "\n")
    long.write_text("row\n" * (outputs.SCREEN + 1))
    drawn.write_bytes(b"\x89PNG")
    outputs.read_out([short, mixed, long, drawn])
    assert capsys.readouterr().out == f"\nx' = 2 x\n\n# Found\n## Dynamics\nx' = 2 x\nMore in {mixed}\n"


@pytest.mark.slow
def test_members_are_several_seeds(tmp_path, capsys, monkeypatch):
    more = ["--no-video", "--seeds", "2", "--seed", str(2**32 - 1)]  # on both sides of 32 bits
    assert main(train_args(ENVS["device"], tmp_path / "run", *more)) == 0
    out = capsys.readouterr().out
    result = result_of(out)
    assert result["members"] == 2 and result["episodes"] == 4
    each = json.loads((tmp_path / "run" / "result.json").read_text())["each"]
    assert [m["seed"] for m in each] == [2**32 - 1, 2**32]
    assert result["return_ci_over"] == "2 seeds" and "95% interval over 2 seeds" in out
    assert result["return_ci"] == pytest.approx(sorted(m["return_mean"] for m in each))  # of two: from one mean to the other
    policies = [rlx.load(tmp_path / "run", member=m) for m in range(2)]
    actions = [p.act(np.ones(3, np.float32))[0] for p in policies]
    assert not np.allclose(*actions)
    with pytest.raises(ValueError, match="member"):
        rlx.load(tmp_path / "run", member=2)
    evaluate = ["evaluate", "--run-dir", str(tmp_path / "run"), "--episodes", "3"]
    assert main(evaluate) == 0
    result = result_of(capsys.readouterr().out)
    means = np.mean(result["returns"], 1)
    assert np.shape(result["returns"]) == (2, 3) and result["members"] == [0, 1] and result["return_ci_over"] == "2 seeds"
    assert result["return_ci"] == pytest.approx(sorted(means)) and result["return_mean"] == pytest.approx(means.mean())
    assert main([*evaluate, "--member", "1"]) == 0
    result = result_of(capsys.readouterr().out)
    assert result["members"] == [1] and result["return_ci_over"].startswith("3 episodes of one seed")
    assert result["returns"] == pytest.approx(policies[1].evaluate(3)["returns"], rel=1e-5)
    newest, alive = Checkpoints.newest, [True, False]

    def diverged(*args, **more):
        step, tree, meta = newest(*args, **more)
        return step, tree, {**meta, "alive": alive}

    monkeypatch.setattr(Checkpoints, "newest", diverged)
    assert list(load_members(tmp_path / "run")) == [0]
    alive[0] = False
    assert main(evaluate) == 2 and "all members" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ENVS)
def test_evaluate(trained, kind, capsys):
    args = ["evaluate", "--run-dir", str(trained[kind]), "--episodes", "3"]
    assert main(args) == 0
    out = capsys.readouterr().out
    result = result_of(out)
    assert len(result["returns"]) == 3 == result["episodes"]
    assert result["return_mean"] == pytest.approx(np.mean(result["returns"]))
    assert result["return_ci"][0] <= result["return_mean"] <= result["return_ci"][1]
    assert "95% interval over 3 episodes of one seed; not an interval of the method" in out
    assert main(args) == 0
    assert result_of(capsys.readouterr().out) == result  # the same keys, the same episodes
    assert main([*args, "--seed", "1"]) == 0
    assert result_of(capsys.readouterr().out)["returns"] != result["returns"]


def test_evaluate_on_another_environment_of_the_same_shapes(trained, capsys):
    assert main(["evaluate", "--run-dir", str(trained["device"]), "--env", ENVS["host"], "--episodes", "2"]) == 0
    result = result_of(capsys.readouterr().out)
    assert result["env"] == ENVS["host"] and result["return_mean"] < 0
    for option, code, says in (("host=true", 0, "RESULT"), ("nobody=1", 2, "error: rlx:pendulum cannot be")):
        assert main(["evaluate", "--run-dir", str(trained["device"]), "--episodes", "1", "--env-option", option]) == code
        assert says in "".join(capsys.readouterr())


class Blind(gymnasium.Env):
    """A pendulum's shapes, and nothing to draw with."""

    metadata = {"render_modes": ["rgb_array"]}
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(3, np.float32), {}

    def step(self, action):
        return np.zeros(3, np.float32), 1.0, False, False, {}

    def render(self):
        raise RuntimeError("no display here")


def test_without_a_renderer_there_is_a_message_and_no_video(trained, capsys):
    gymnasium.register("RlxBlind-v0", entry_point=Blind, max_episode_steps=20)
    try:
        args = ["evaluate", "--run-dir", str(trained["device"]), "--env", "gym:RlxBlind-v0", "--episodes", "2", "--video"]
        assert main(args) == 0
    finally:
        gymnasium.registry.pop("RlxBlind-v0")
    captured = capsys.readouterr()
    assert "no video" in captured.err and "no display here" in captured.err
    result = result_of(captured.out)
    assert result["video"] is None and result["return_mean"] == 20


# ------------------------------------------------------------------------------------------------------------------- load


@pytest.mark.parametrize("kind", ENVS)
def test_load_acts_on_one_observation_a_batch_and_a_step(trained, kind):
    policy = rlx.load(trained[kind])
    assert policy.spec.action.shape == (1,)
    obs = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, -2.0]], np.float32)
    batch, carry = policy.act(obs)
    assert batch.shape == (2, 1) and np.abs(batch).max() <= 1
    single, _ = policy.act(obs[0])
    assert single.shape == (1,)
    np.testing.assert_allclose(single, batch[0], rtol=1e-5, atol=1e-6)
    no = np.zeros(2, bool)
    step = Step(obs, np.zeros(2, np.float32), no, no, ~no, {})
    np.testing.assert_array_equal(policy.act(step, policy.carry(2), jax.random.key(0))[0], batch)
    drawn = [policy.act(obs, carry, k, mode="explore")[0] for k in (0, 1)]
    assert not np.allclose(*drawn)


def test_load_says_what_does_not_fit(trained, tmp_path):
    policy = rlx.load(trained["device"])
    with pytest.raises(ValueError, match=r"\(3,\).*\(4,\)"):
        policy.act(np.zeros(4))
    with pytest.raises(ValueError, match="mode 'evil'.*'eval'"):
        policy.act(np.zeros(3), mode="evil")
    with pytest.raises(ValueError, match="no run folder"):
        rlx.load(tmp_path)
    with pytest.raises(ValueError, match="which='worst'"):
        rlx.load(trained["device"], which="worst")


def test_last_and_best_are_what_the_run_ended_with(trained):
    best, last = (rlx.load(trained["device"], which) for which in ("best", "last"))
    lines = [json.loads(line) for line in (trained["device"] / "metrics.jsonl").read_text().splitlines()]
    scores = [line["return_mean"] for line in lines if line["kind"] == "eval"]
    result = json.loads((trained["device"] / "result.json").read_text())
    assert result["return_best"] == pytest.approx(max(scores), rel=1e-5)
    assert jax.tree.structure(best.state) == jax.tree.structure(last.state)
    assert best.cycle <= last.cycle


# ---------------------------------------------------------------------------------------------------------------- collect


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["eval", "explore", "random"])
def test_collect_writes_what_can_be_read_back(trained, mode, tmp_path, capsys):
    out = tmp_path / "data.npz"
    assert main(["collect", "--run-dir", str(trained["device"]), "--steps", "500", "--mode", mode, "--out", str(out)]) == 0
    result = result_of(capsys.readouterr().out)
    assert result["out"] == str(out) and result["transitions"] >= 500
    read_back(out, result)


def read_back(out: Path, result: dict) -> None:
    from rlx.replay import datasets

    episodes = datasets.read(out)
    assert len(episodes) == result["episodes"]


def test_collect_at_random_needs_no_run(tmp_path, capsys):
    out = tmp_path / "data.npz"
    args = ["collect", "--env", ENVS["host"], "--mode", "random", "--steps", "450", "--out", str(out), "--streams", "2"]
    assert main(args) == 0
    read_back(out, result_of(capsys.readouterr().out))


# ------------------------------------------------------------------------------------------------------------------ scores


def test_results_have_scores_where_there_are_references(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("RLX_REFERENCES", str(tmp_path / "references.json"))
    returns = {"return_mean": 1500.0, "return_ci": (1000.0, 2000.0), "return_ci_over": "3 seeds"}
    found = outputs.score_of(returns, scores.Reference(-1000.0, 4000.0, "D4RL's"))
    assert found == {"score": 50.0, "score_ci": [40.0, 60.0], "score_reference": "D4RL's"}
    assert outputs.score_rows({**returns, **found}) == [("score (D4RL's)", "50  [40, 60]  95% interval over 3 seeds")]
    none = outputs.score_of(returns, None)
    assert set(none.values()) == {None} and outputs.score_rows({**returns, **none}) == []
    args = ["collect", "--mode", "random", "--steps", "60", "--streams", "2", "--out", str(tmp_path / "data.npz")]
    assert main([*args, "--env", "gym:Hopper-v4"]) == 0
    result = result_of(capsys.readouterr().out)
    assert result["score"] == pytest.approx((result["return_mean"] + 20.272305) / 3254.572305 * 100)
    assert result["score_reference"] == "D4RL's hopper"
    assert main([*args, "--env", "gym:Hopper-v4", "--time-limit", "10"]) == 0
    assert result_of(capsys.readouterr().out)["score"] is None


def test_a_trained_run_is_scored_by_own_references(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("RLX_REFERENCES", str(tmp_path / "references.json"))
    scores.extend(ENVS["device"], random=-1500.0, expert=-100.0)
    assert main(["evaluate", "--run-dir", str(trained["device"]), "--episodes", "2"]) == 0
    out = capsys.readouterr().out
    result = result_of(out)
    assert result["score"] == pytest.approx((result["return_mean"] + 1500) / 1400 * 100) and "score (own: measured)" in out
    assert main(["report", *map(str, trained.values()), "--out", str(tmp_path)]) == 0
    result = result_of(capsys.readouterr().out)
    own = {row["group"].split()[1]: row for row in result["table"]}
    iqm = own[ENVS["device"]]["final IQM"]
    assert own[ENVS["device"]]["score"] == pytest.approx((iqm + 1500) / 1400 * 100, abs=0.06)
    assert own[ENVS["host"]]["score"] is None
    assert "0 is -1,500.0, 100 is -100.0" in Path(result["page"]).read_text()


# ----------------------------------------------------------------------------------------------------------------- report


def test_report_is_one_page(trained, tmp_path, capsys):
    assert main(["report", *map(str, trained.values()), "--out", str(tmp_path)]) == 0
    page = Path(result_of(capsys.readouterr().out)["page"])
    text = page.read_text()
    assert page.parent == tmp_path and text.count("<img") + text.count("<svg") >= 1
    for env in ENVS.values():
        assert env in text


@pytest.mark.slow
def test_a_grid_is_ranked_and_waves_are_reported_together(tmp_path, capsys):
    more = ["--no-video", "--seeds", "2", "--grid", "agent.actor_lr=1e-3,1e-4", "--waves", "2"]
    assert main(train_args(ENVS["device"], tmp_path / "run", *more)) == 0
    out = capsys.readouterr().out
    assert out.index("Ranking") < out.index("RESULT {") and "actor_lr=0.0001" in out and "95% interval over 2 seeds" in out
    result = result_of(out)
    assert result["return_ci"] is None and result["return_ci_over"] == "2 settings, see the ranking"
    assert main(["report", str(tmp_path / "run"), "--out", str(tmp_path / "report")]) == 0
    result = result_of(capsys.readouterr().out)
    assert result["runs"] == 4 and result["groups"] == 2
