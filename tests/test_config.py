"""Config: flags, presets, the JSON record, and what people see who mistype."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytest

from rlx import config
from rlx.config import traced


class AgentConfig:
    """What a field is annotated with that holds one of several configs."""


@dataclass(frozen=True)
class Optimiser:
    lr: float = traced(3e-4, help="Step size.")
    clip: float | None = None


@dataclass(frozen=True)
class Sac(AgentConfig):
    """Soft actor-critic."""

    hidden: tuple[int, ...] = (256, 256)
    discount: float = traced(0.99)
    activation: Literal["relu", "tanh"] = "relu"
    layer_norm: bool = False
    optimiser: Optimiser = Optimiser()
    target: float | None = None
    bounds: tuple[float, float] = (-5.0, math.inf)
    weights: dict[str, float] = dataclasses.field(default_factory=dict)
    critic: Optimiser | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.discount <= 1:
            raise ValueError(f"discount is {self.discount}, it must be within [0, 1]")


@dataclass(frozen=True)
class Train:
    env: str = "rlx:pendulum"
    seed: int = 0  # the root key
    agent: AgentConfig = Sac()


PRESETS = config.compose(
    {"debug": {"seed": 7}, "seven": {"seed": 77}},
    agent={"debug": {"hidden": (8,), "optimiser.lr": 1e-2}, "wide": {"hidden": (512, 512)}},
)


def parse(*argv: str) -> Any:
    return config.parse(Train, argv, PRESETS, prog="rlx train", description="Trains an agent.")


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """What a refused command line says: exit code 2, all of it on stderr, no traceback."""
    with pytest.raises(SystemExit) as stopped:
        parse(*argv)
    out, err = capsys.readouterr()
    assert stopped.value.code == 2 and out == "" and "Traceback" not in err
    return " ".join(err.replace("│", " ").split())


# ------------------------------------------------------------------------------------------------------- traced and static


def test_traced_and_static_split_the_fields():
    assert config.hyper(Train()) == {"agent.discount": 0.99, "agent.optimiser.lr": 3e-4}
    assert set(config.static(Sac())) == {
        "hidden",
        "activation",
        "layer_norm",
        "optimiser.clip",
        "target",
        "bounds",
        "weights",
        "critic",
    }
    assert config.static(Sac(discount=0.5)) == config.static(Sac()) != config.static(Sac(hidden=(1,)))


def test_traced_values_are_floats_even_where_a_whole_number_was_given():
    value = config.hyper(config.replace(Sac(), discount=1))["discount"]
    assert value == 1.0 and type(value) is float


# ------------------------------------------------------------------------------------------------------------------ flags


def test_defaults():
    assert parse() == Train()


@pytest.mark.parametrize("flag", ["--agent.optimiser.lr", "--agent.optimiser.lr=1e-3"])
def test_a_dotted_flag(flag):
    argv = [flag] if "=" in flag else [flag, "1e-3"]
    assert parse(*argv).agent.optimiser.lr == 1e-3


def test_hyphens_and_underscores_are_the_same():
    assert parse("--agent.layer-norm").agent.layer_norm and parse("--agent.layer_norm").agent.layer_norm


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--agent.layer-norm"], True),
        (["--agent.no-layer-norm"], False),
        (["--agent.layer-norm", "True"], True),
        (["--agent.layer_norm", "false"], False),
        (["--agent.layer-norm=True", "--seed", "1"], True),
    ],
)
def test_switches(argv, expected):
    assert parse(*argv).agent.layer_norm is expected


def test_all_kinds_of_fields():
    argv = "--env dmc:walker-walk --agent.hidden 3 4 5 --agent.activation tanh --agent.target -1.5 --agent.bounds -1 inf"
    got = parse(*argv.split())
    assert got == Train(
        env="dmc:walker-walk", agent=Sac(hidden=(3, 4, 5), activation="tanh", target=-1.5, bounds=(-1.0, math.inf))
    )
    assert parse("--agent.target", "None").agent.target is None
    assert parse("--agent.hidden").agent.hidden == ()


def test_starting_from_a_config():
    start = Train(seed=5)
    assert config.parse(start, ["--env", "x"]) == Train(env="x", seed=5)


# ---------------------------------------------------------------------------------------------------------------- presets


def test_presets_stack_and_flags_win():
    assert parse("--preset", "debug") == Train(seed=7, agent=Sac(hidden=(8,), optimiser=Optimiser(lr=1e-2)))
    assert parse("--preset=debug", "--preset", "wide").agent == Sac(hidden=(512, 512), optimiser=Optimiser(lr=1e-2))
    assert parse("--preset", "wide", "--preset", "debug").agent.hidden == (8,)
    assert parse("--preset", "debug", "--preset", "seven").seed == 77
    assert parse("--seed", "1", "--preset", "debug") == dataclasses.replace(parse("--preset", "debug"), seed=1)


def test_compose():
    assert PRESETS == {
        "debug": {"seed": 7, "agent.hidden": (8,), "agent.optimiser.lr": 1e-2},
        "seven": {"seed": 77},
        "wide": {"agent.hidden": (512, 512)},
    }


def test_a_preset_that_names_no_field():
    with pytest.raises(ValueError, match=r"preset 'bad': unknown field 'agent\.hiden' of Sac\. Did you mean 'agent\.hidden'"):
        config.apply(Train(), {"bad": {"agent.hiden": (8,)}}, ["bad"])


# ---------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ("--agent.hiden 3", "--agent.hidden"),
        ("--agent.optimizer.lr 3", "--agent.optimiser.lr"),
        ("--discount 0.9", "--agent.discount"),
        ("--sed 3", "--seed"),
        ("--seed x", "invalid literal for int"),
        ("--agent.discount high", "--agent.discount"),
        ("--agent.hidden 3 x", "--agent.hidden"),
        ("--agent.activation rely", "('relu', 'tanh')"),
        ("--agent.layer-norm maybe", "maybe"),
        ("--agent.discount 1.5", "discount is 1.5, it must be within [0, 1]"),
        ("stray", "stray"),
        ("--preset debgu", "unknown preset 'debgu'. Did you mean 'debug'?"),
        ("--preset zzz", "Allowed: debug, seven, wide."),
        ("--preset", "--preset: expected one argument"),
        ("--env", "--env"),
        ("-- --seed 3", "'--' alone says nothing"),
    ],
)
def test_bad_input_ends_with_code_2_and_one_message_that_helps(argv, says, capsys):
    assert says in refused(capsys, *argv.split())


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as stopped:
        parse("--help")
    text = capsys.readouterr().out
    assert stopped.value.code == 0
    line = " ".join(text.replace("│", " ").split())
    assert "Trains an agent." in line and "Soft actor-critic." in line
    assert "--agent.optimiser.lr FLOAT Step size. [traced] (default: 0.0003)" in line
    assert "--agent.discount FLOAT [traced] (default: 0.99)" in line
    assert "--seed INT the root key (default: 0)" in line
    assert line.count("[traced]") == 2
    assert "--preset debug: seed=7, agent.hidden=(8,), agent.optimiser.lr=0.01" in line
    assert "agent options" in line and "agent.optimiser options" in line  # a section per config


# ---------------------------------------------------------------------------------------------------------------- replace


def test_replace():
    got = config.replace(
        Train(), {"agent.hidden": [64, 64], "agent.optimiser.lr": 1, "agent.weights": {"a": 2}}, seed=np.int64(3)
    )
    assert got == Train(seed=3, agent=Sac(hidden=(64, 64), optimiser=Optimiser(lr=1.0), weights={"a": 2.0}))
    assert type(got.agent.optimiser.lr) is float and type(got.seed) is int and type(got.agent.weights["a"]) is float
    assert config.replace(Train(), {"agent.layer-norm": True}).agent.layer_norm
    assert config.replace(Train(), {"agent": {"hidden": (1,)}}) == config.replace(Train(), {"agent.hidden": (1,)})
    assert config.replace(Train(), agent=Sac(target=2.0)).agent.target == 2.0
    assert config.replace(Sac(), discount=np.float32(0.5)).discount == 0.5
    assert Train() == Train(agent=Sac())  # the original is untouched


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sead": 1}, "unknown field 'sead' of Train. Did you mean 'seed'?"),
        ({"agent.optimiser.lrr": 1}, "unknown field 'agent.optimiser.lrr' of Optimiser. Did you mean 'agent.optimiser.lr'"),
        ({"seed.x": 1}, "seed is a value, it has no field 'x'"),
        ({"seed": 1.5}, "seed is 1.5 (float), it must be int"),
        ({"seed": True}, "seed is True (bool), it must be int"),
        ({"agent.discount": True}, "agent.discount is True (bool), it must be float"),
        ({"agent.discount": "0.9"}, "agent.discount is '0.9' (str), it must be float"),
        ({"agent.layer_norm": 1}, "agent.layer_norm is 1 (int), it must be bool"),
        ({"agent.hidden": (8, 2.5)}, "agent.hidden[1] is 2.5 (float), it must be int"),
        ({"agent.hidden": 8}, "agent.hidden is 8 (int), it must be tuple[int, ...]"),
        ({"agent.bounds": (1.0,)}, "agent.bounds is (1.0,) (tuple), it must be tuple[float, float]"),
        ({"agent.activation": "rely"}, "it must be one of 'relu', 'tanh'. Did you mean 'relu'?"),
        ({"agent.target": "no"}, "agent.target is 'no' (str), it must be float or None"),
        ({"agent.weights": {"a": "b"}}, "agent.weights['a'] is 'b' (str), it must be float"),
        ({"agent": 3}, "agent is 3 (int), it must be AgentConfig"),
        ({"agent.discount": 2.0}, "discount is 2.0, it must be within [0, 1]"),
    ],
)
def test_replace_refuses(changes, says):
    with pytest.raises(ValueError) as refusal:
        config.replace(Train(), changes)
    assert says in str(refusal.value)


def test_a_union_keeps_the_type_that_was_given():
    @dataclass(frozen=True)
    class Mixed:
        horizon: float | int = 0.5

    got = config.replace(Mixed(), horizon=3).horizon
    assert got == 3 and type(got) is int


def test_every_field_needs_a_default():
    @dataclass(frozen=True)
    class Bare:
        env: str

    with pytest.raises(TypeError, match="Bare: every config field has a default, env has none"):
        config.parse(Bare, [])


# ------------------------------------------------------------------------------------------------------- bounds and old names


@dataclass(frozen=True)
class Net:
    RENAMED = {"size": "width", "rate": "lr"}

    width: int = config.size(8, least=1, below=100)
    lr: float = traced(1e-3, above=0)


@dataclass(frozen=True)
class Bounded:
    RENAMED = {"width": "hidden"}

    hidden: tuple[int, ...] = config.size((256, 256), least=1)  # widths of all networks
    streams: int = config.size(1, "Side by side.", least=1, most=1_000)
    trust: float | None = config.size(None, above=0, most=1)
    utd: float = config.size(1.0, above=0)  # updates per decision
    cap: float = config.size(math.inf, least=0, finite=False)
    discount: float = traced(0.99, least=0, most=1, help="Per decision.")
    scale: float = traced(1.0)  # of anything
    net: Net = Net()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"hidden": (64, 0)}, "sac: hidden[1] must be at least 1, got 0."),
        ({"streams": 0}, "sac: streams must be at least 1 and at most 1_000, got 0."),
        ({"streams": 10**400}, "sac: streams must be at least 1 and at most 1_000, got 1000"),
        ({"trust": 0.0}, "sac: trust must be above 0 and at most 1, got 0.0."),
        ({"utd": math.inf}, "sac: utd must be finite and above 0, got inf."),
        ({"cap": math.nan}, "sac: cap must be at least 0, got nan."),
        ({"discount": 1.5}, "sac: discount must be at least 0 and at most 1, got 1.5."),
        ({"discount": math.nan}, "sac: discount must be finite and at least 0 and at most 1, got nan."),
        ({"scale": -math.inf}, "sac: scale must be finite, got -inf."),
        ({"net.width": 100}, "sac: net.width must be at least 1 and below 100, got 100."),
        ({"net.lr": 0, "hidden": (0,)}, "sac: hidden[0] must be at least 1, got 0; net.lr must be above 0, got 0.0."),
    ],
)
def test_a_value_out_of_its_bounds_is_named_with_them(changes, says):
    with pytest.raises(ValueError) as refusal:
        config.check(config.replace(Bounded(), changes), "sac")
    assert str(refusal.value).startswith(says)


def test_values_within_their_bounds_pass():
    config.check(Bounded())
    ends = {"hidden": (), "trust": 1.0, "cap": math.inf, "discount": 1.0, "scale": -5.0, "streams": 1_000, "net.width": 99}
    config.check(config.replace(Bounded(), ends))
    config.check_values(Bounded(), "net.lr", [1e-9, 1e9])
    with pytest.raises(ValueError, match=r"net\.lr must be above 0, got 0\.0"):
        config.check_values(Bounded(), "net.lr", [1e-3, 0.0])


def test_a_default_out_of_its_bounds_is_refused_where_it_is_declared():
    with pytest.raises(ValueError, match="a default must be at least 1, got 0"):
        config.size(0, least=1)
    with pytest.raises(ValueError, match="a default must be finite, got nan"):
        traced(math.nan)


def test_bounds_on_the_command_line_and_in_help(capsys):
    for argv, says in (
        ("--hidden 64 -1", "error: --hidden must be at least 1, got -1"),
        ("--net.lr 0", "error: --net.lr must be above 0, got 0.0"),
        ("--discount nan", "error: --discount must be finite and at least 0 and at most 1, got nan"),
    ):
        with pytest.raises(SystemExit) as stopped:
            config.parse(Bounded, argv.split())
        out, err = capsys.readouterr()
        assert stopped.value.code == 2 and out == "" and err.strip() == says
    with pytest.raises(SystemExit):
        config.parse(Bounded, ["--help"])
    line = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--hidden [INT [INT ...]] widths of all networks [at least 1] (default: 256 256)" in line
    assert "--streams INT Side by side. [at least 1 and at most 1_000] (default: 1)" in line
    assert "updates per decision [above 0] (default: 1.0)" in line
    assert "--discount FLOAT Per decision. [traced, at least 0 and at most 1] (default: 0.99)" in line
    assert "--scale FLOAT of anything [traced] (default: 1.0)" in line


def test_an_old_name_is_answered_with_the_new_one(capsys):
    for changes, says in (
        ({"width": (1,)}, "unknown field 'width' of Bounded. It is called 'hidden' now."),
        ({"net.rate": 1}, "unknown field 'net.rate' of Net. It is called 'net.lr' now."),
        ({"net": {"size": 1}}, "unknown field 'net.size' of Net. It is called 'net.width' now."),
        ({"net.size": 1}, "unknown field 'net.size' of Net. It is called 'net.width' now."),
    ):
        with pytest.raises(ValueError) as refusal:
            config.replace(Bounded(), changes)
        assert str(refusal.value) == says
    with pytest.raises(ValueError, match=r"'net\.size' of Net\. It is called 'net\.width' now"):
        config.from_json(Bounded, '{"net": {"size": 3}}')
    for flag in ("--net.size", "--net.size=3"):
        with pytest.raises(SystemExit) as stopped:
            config.parse(Bounded, [flag, "3"])
        assert stopped.value.code == 2
        assert capsys.readouterr().err.strip() == f"error: {flag[:10]} is called --net.width now."
    assert config.hint(Bounded(), "net.size") == " It is called 'net.width' now."
    assert config.hint(Bounded(), "net.widht") == " Did you mean 'net.width'?"


# ------------------------------------------------------------------------------------------------------------------- JSON


def test_json_round_trip():
    full = Train(
        env="dmc:walker-walk",
        seed=2**40,
        agent=Sac(
            hidden=(1, 2, 3),
            discount=0.1 + 0.2,
            layer_norm=True,
            optimiser=Optimiser(lr=1e-30, clip=10.0),
            target=-0.5,
            weights={"a": 1.0},
            critic=Optimiser(clip=0.5),
        ),
    )
    text = config.to_json(full)
    assert config.from_json(Train, text) == full
    assert config.from_json(Train, config.to_json(Train())) == Train()


def test_json_is_strict_json():
    record = json.loads(config.to_json(Train()), parse_constant=pytest.fail)
    assert record["agent"]["bounds"] == [-5.0, "inf"] and record["agent"]["hidden"] == [256, 256]


def test_json_keeps_defaults_for_what_it_lacks_and_refuses_what_it_does_not_know():
    assert config.from_json(Train, '{"seed": 4}') == Train(seed=4)
    with pytest.raises(ValueError, match=r"unknown field 'agent\.discont'.*Did you mean 'agent\.discount'"):
        config.from_json(Train, '{"agent": {"discont": 0.9}}')
    with pytest.raises(ValueError, match=r"seed is 'x' \(str\), it must be int"):
        config.from_json(Train, '{"seed": "x"}')
    for text in ("{", "[1]", ""):
        with pytest.raises(ValueError, match="not JSON|a config is a JSON object"):
            config.from_json(Train, text)


@dataclass(frozen=True)
class Named:
    names: tuple[str, ...] = ()


def test_one_text_is_a_tuple_of_one():
    assert (
        config.replace(Named(), {"names": "a.npz"}).names == ("a.npz",) and config.replace(Named(), {"names": ""}).names == ()
    )
    with pytest.raises(ValueError, match="names"):
        config.replace(Named(), {"names": 3})
