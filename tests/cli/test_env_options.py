"""``--env-option name=value``: what an environment's maker takes, from the command line and back out of ``config.json``."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import jax
import numpy as np
import pytest

import rlx
from rlx import agents
from rlx import config as configs
from rlx.cli import main
from rlx.cli.sweep import Flags as SweepFlags
from rlx.cli.train import RUN_CONFIG_FLAGS, parse
from rlx.envs.options import parsed, written
from rlx.train import Policy
from rlx.train import run_config as run_configs
from rlx.train.run_config import RunConfig

ENDLESS = "gym:tests.envs.foreign:Endless-v0"


def test_values_are_json_or_words_and_the_later_one_counts():
    words = [
        "a=1",
        "b=2.5",
        "c=reach-v3",
        'd={"x": "last"}',
        "e=[-1, 1]",
        "f=true",
        "g=False",
        "h=",
        "i=null",
        'j="3"',
        "a=k=l",
    ]
    wanted = {"a": "k=l", "b": 2.5, "c": "reach-v3", "d": {"x": "last"}, "e": [-1, 1], "f": True, "g": False, "h": ""}
    assert parsed([*words, "a=k=l"]) == {**wanted, "i": None, "j": "3"} and parsed(written(parsed(words))) == parsed(words)
    assert type(parsed(["a=1"])["a"]) is int and parsed(["make-it=1"]) == {"make_it": 1}


@pytest.mark.parametrize(
    ("word", "message"),
    [("penalty", "is no option: give NAME=VALUE"), ("=3", "is no option"), ("repeat=3", "has a flag of its own, --repeat")],
)
def test_words_that_are_no_options_are_refused(word, message):
    with pytest.raises(ValueError, match=message):
        parsed([word])


@pytest.mark.parametrize("base", [None, SweepFlags])
def test_they_come_from_the_command_line_and_add_to_those_of_a_run_config(base):
    own = RunConfig("sac", "rlx:cstr", agents.config("sac"), env_options={"penalty": 1.0, "noise": 0.5})
    argv = ["--env-option", "penalty=2", "--env-option", "stop-on-violation=true"]
    flags = parse(own, argv, **({"base": base} if base else {}))
    made = RunConfig("sac", flags.env, flags.agent, **{k: getattr(flags, k) for k in RUN_CONFIG_FLAGS})
    assert made.env_options == {"penalty": 2, "noise": 0.5, "stop_on_violation": True}


def test_they_are_kept_in_the_run_folder_and_decide_what_a_run_is(tmp_path):
    config = agents.config("sac")
    run_config = RunConfig("sac", ENDLESS, config, env_options=("action_bounds=[-1, 3]",))
    run_configs.keep(run_config, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["env_options"] == {"action_bounds": [-1, 3]}
    again = run_configs.read(tmp_path)
    assert again == run_config and again.problem().envs["train"].spec.native_action.high.tolist() == [3, 3]
    with pytest.raises(ValueError, match="without real bounds"):
        RunConfig("sac", ENDLESS, config).problem()
    with pytest.raises(ValueError, match=r"another configuration \(env_options.action_bounds: "):
        run_configs.keep(RunConfig("sac", ENDLESS, config, env_options={"action_bounds": [-1, 2]}), tmp_path)
    with pytest.raises(ValueError, match="must be what JSON can say"):
        RunConfig("sac", ENDLESS, config, env_options={"basis": object()}).to_json()


def test_a_run_may_be_evaluated_where_some_options_differ(tmp_path):
    """Training sees all, evaluations a film that was kept back for them; the shapes have to be the same."""
    film = {"kind": "video", "frames": 4}
    looks = {"pixels": "sdf", "image": 24, "grey": True, "distractor": film, "state": False}
    words = (f"distractor={json.dumps({**film, 'held_out': True})}",)
    config = configs.replace(agents.config("repo"), agents.presets("repo")["debug"])
    run_config = RunConfig("repo", "rlx:pendulum", config, env_options=looks, eval_env_options=words)
    run_configs.keep(run_config, tmp_path)
    assert run_configs.read(tmp_path) == run_config
    of_files = replace(run_config, env_options={"distractor": {"kind": "folder", "path": "clips"}}).env_options
    assert of_files["distractor"]["path"] == os.path.abspath("clips")  # a run is read from other folders
    problem = run_config.problem()
    bank = lambda env: np.asarray(env.params["bank"])
    there, kept_back = bank(problem.envs["train"]), bank(problem.envs["eval"])
    assert not np.array_equal(there, kept_back) and run_config.make(problem).evals[0].env == "eval"

    agent = run_config.make(problem)
    policy = Policy(agent, agent.init(jax.random.key(0), agent.hyper), problem, run_config=run_config)
    elsewhere = policy.on(distractor={**film, "seed": 3}).problem  # another environment than the run's two
    assert set(elsewhere.envs) == {"train"} and not np.array_equal(bank(elsewhere.envs["train"]), there)
    with pytest.raises(ValueError, match="observation has shape"):
        replace(run_config, eval_env_options={"image": 32}).problem()


def test_meta_world_can_be_named_by_words_alone():
    pytest.importorskip("metaworld")
    run_config = RunConfig("sac", "gym:Meta-World/MT1", agents.config("sac"), env_options=("env_name=reach-v3",))
    env = run_config.problem().envs["train"]
    assert env.spec.obs.shape == (39,) and env.spec.info["success"].reduce == "any"


def test_a_policy_moves_to_other_options():
    run_config = RunConfig("ppo", "rlx:cstr", agents.config("ppo"), env_options={"noise": 0.25})
    problem = run_config.problem()
    agent = run_config.make(problem)
    policy = Policy(agent, agent.init(jax.random.key(0), agent.hyper), problem, run_config=run_config)
    noise = lambda p: float(p.problem.envs["train"].params["noise"])
    assert noise(policy) == 0.25 and noise(policy.on()) == 0.25 and noise(policy.on(noise=0.5)) == 0.5
    assert noise(policy.on("rlx:cstr", penalty=1.0)) == 0.25
    with pytest.raises(ValueError, match="cannot be made with noise=.*unexpected keyword"):
        policy.on("rlx:pendulum", noise=0.5)
    with pytest.raises(ValueError, match=r"options \['noise'\] are for environments that are made by name"):
        policy.on(rlx.envs.make("rlx:cstr"), noise=0.5)
    with pytest.raises(ValueError, match="is from no run folder"):
        replace(policy, run_config=None).on()


@pytest.mark.parametrize(
    ("env", "word", "says"),
    [
        ("rlx:pendulum", "nobody=1", "rlx:pendulum cannot be made with nobody=1: TypeError"),
        ("rlx:pendulum", "image=64", "With pixels='sdf' or 'gl' there is image."),
        ("rlx:cstr", "penalty=[1,2]", "rlx:cstr cannot be made with penalty=[1, 2]"),
        ("gym:Pendulum-v1", "g=abc", "gym:Pendulum-v1: its step raised TypeError"),
        ("gym:Pendulum-v1", "workers=x", "workers='x': give a whole number"),
        ("gym:Pendulum-v1", "name=x", "--env-option option=value"),
        ("dmc:cartpole-swingup", "threads=a", "threads='a': give a whole number"),
        ("dmc:cartpole-swingup", "threads=2.0", "threads=2.0: give a whole number"),
        ("dmc:cartpole-swingup", "threads=true", "threads=True: give a whole number"),
        (ENDLESS, "action_bounds=3", "give a pair (low, high)"),
    ],
)
def test_what_a_maker_does_not_take_is_one_message(env, word, says, tmp_path, capsys):
    argv = ["collect", "--mode", "random", "--env", env, "--steps", "5", "--streams", "1", "--out", str(tmp_path / "x.npz")]
    assert main([*argv, "--env-option", word]) == 2
    assert says in capsys.readouterr().err
