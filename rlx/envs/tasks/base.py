"""What a MuJoCo task is: a model and functions over arrays, for native threads and MJX alike.

``physics`` is a namespace of arrays with MuJoCo's names (``qpos``, ``xmat`` as [..., body, 9], ...) and any leading axes, of
which a task declares the fields that it reads. ``c`` holds constants of the model (indices, sizes), found once by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from rlx.envs.options import dm_control_suite
from rlx.types import Leaf, Task

XX, XZ, ZZ = 0, 2, 8  # entries of a rotation matrix in MuJoCo's row-major order


@dataclass(frozen=True)
class MujocoTask:
    """``observe(xp, c, physics)`` -> [..., n] in dm_control's order of names, flattened. ``reward(xp, c, physics)``.

    ``init(xp, c, u, z)`` -> (qpos, qvel, goal): from ``draws[0]`` uniform numbers in [0, 1) and ``draws[1]`` normal ones; a
    ``goal`` (or None) belongs to the episode and is read as ``physics.goal``. ``settle``: physics steps before it begins.

    ``move(model, data, action)`` takes one control step by itself, for an action that is more than ``data.ctrl``, and gives
    the values of ``info``; of several control steps in one decision the greatest counts. What it remembers is in
    ``data.userdata``. Native threads alone have it.
    """

    domain: str
    fields: tuple[str, ...]
    observe: Callable[..., Any]
    reward: Callable[..., Any]
    init: Callable[..., Any]
    draws: Callable[[Any], tuple[int, int]]  # of the model
    constants: Callable[[Any], dict[str, Any]] = lambda model: {}
    control_timestep: float | None = None  # s; None: the model's own time step
    time_limit: float = 20.0  # s
    settle: int = 0
    goal: tuple[int, ...] | None = None
    camera: str | int = 0
    goal_geom: str | None = None  # whose place in the plane is the goal, for pictures
    goal_radius: float | None = None  # of that geom, where it is not the model's, m
    view: Mapping[str, Any] = field(default_factory=dict)  # what observations alone tell: score, project, box, names
    xml: str | None = None  # MJCF; None: the domain's, of dm_control
    ready: Callable[[Any], None] | None = None  # changes the MjData that an episode begins with
    move: Callable[[Any, Any, np.ndarray], tuple[float, ...]] | None = None  # see below
    info: Mapping[str, Leaf] = field(default_factory=dict)  # what ``move`` tells

    @property
    def contract(self) -> Task:
        return Task(observe=self.observe, reward=self.reward, **self.view)

    def model(self) -> Any:
        """The task's MJCF model; that of dm_control from the installed one. Raises ValueError where that is missing."""
        import mujoco

        xml, assets = self.xml, None
        if xml is None:
            xml, assets = getattr(dm_control_suite(), self.domain).get_model_and_assets()
        model = mujoco.MjModel.from_xml_string(xml if isinstance(xml, str) else xml.decode(), assets)
        if self.goal_radius is not None:
            model.geom(self.goal_geom).size[0] = self.goal_radius
        return model

    def substeps(self, model: Any) -> int:
        return 1 if self.control_timestep is None else round(self.control_timestep / model.opt.timestep)

    def horizon(self, model: Any) -> int:
        """Control steps per episode."""
        return math.ceil(self.time_limit / (model.opt.timestep * self.substeps(model)) - 1e-9)

    def find(self, model: Any) -> SimpleNamespace:
        return SimpleNamespace(**self.constants(model))


def ident(model: Any, kind: str, name: str) -> int:
    """The index of a named body, geom, joint or sensor's data."""
    if kind == "sensor":
        return int(model.sensor_adr[model.sensor(name).id])
    return int(getattr(model, kind)(name).id)


def joint_box(model: Any) -> dict[str, np.ndarray]:
    """Where joints may start: their range if limited, a full turn for free hinges, else their default."""
    import mujoco

    low, high = model.qpos0.copy(), model.qpos0.copy()
    for j in range(model.njnt):
        at = model.jnt_qposadr[j]
        if model.jnt_limited[j]:
            low[at], high[at] = model.jnt_range[j]
        elif model.jnt_type[j] == mujoco.mjtJoint.mjJNT_HINGE:
            low[at], high[at] = -np.pi, np.pi
    return {"low": low, "high": high}


def anywhere(xp: Any, c: Any, u: Any, z: Any) -> Any:
    """Joints uniform in their box, at rest."""
    qpos = c.low + u[..., : c.low.shape[0]] * (c.high - c.low)
    return qpos, xp.zeros((*u.shape[:-1], c.nv)), None


def tolerance(
    xp: Any, x: Any, low: float = 0.0, high: float = 0.0, margin: float = 0.0, shape: str = "gaussian", at_margin: float = 0.1
) -> Any:
    """1 within [low, high], falling to ``at_margin`` at a distance of ``margin`` with the given shape (Tassa et al. 2018,
    dm_control): "gaussian", "linear" or "quadratic"."""
    inside = (low <= x) & (x <= high)
    if margin == 0:
        return xp.where(inside, 1.0, 0.0)
    d = xp.where(x < low, low - x, x - high) / margin
    if shape == "gaussian":
        outside = xp.exp(d**2 * math.log(at_margin))
    elif shape == "linear":
        s = (1 - at_margin) * d
        outside = xp.where(abs(s) < 1, 1 - s, 0.0)
    elif shape == "quadratic":
        s = math.sqrt(1 - at_margin) * d
        outside = xp.where(abs(s) < 1, 1 - s**2, 0.0)
    else:
        raise ValueError(f"tolerance: shape={shape!r}; there are 'gaussian', 'linear' and 'quadratic'.")
    return xp.where(inside, 1.0, outside)


def columns(xp: Any, *parts: Any) -> Any:
    """Arrays [..., n_i] side by side; those with one axis less are one column."""
    lead = max(p.ndim for p in parts)
    return xp.concatenate([p if p.ndim == lead else p[..., None] for p in parts], -1)


Tasks = Mapping[str, MujocoTask]
