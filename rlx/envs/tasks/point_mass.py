"""A point mass moved to the middle by two tendons."""

from __future__ import annotations

from typing import Any

from rlx.envs.tasks.base import MujocoTask, anywhere, columns, ident, joint_box, tolerance


def observe(xp: Any, c: Any, p: Any) -> Any:
    """Position and velocity: [4]."""
    return columns(xp, p.qpos, p.qvel)


def reward(xp: Any, c: Any, p: Any) -> Any:
    away = xp.linalg.norm(p.geom_xpos[..., c.target, :] - p.geom_xpos[..., c.mass, :], axis=-1)
    near = tolerance(xp, away, 0, c.size, margin=c.size)
    calm = tolerance(xp, p.ctrl, margin=1, shape="quadratic", at_margin=0).mean(-1)
    return near * (calm + 4) / 5


def constants(model: Any) -> dict[str, Any]:
    target = ident(model, "geom", "target")
    found = {"target": target, "mass": ident(model, "geom", "pointmass"), "size": float(model.geom_size[target, 0])}
    return {**found, **joint_box(model), "nv": model.nv}


TASKS = {
    "easy": MujocoTask(
        "point_mass",
        ("qpos", "qvel", "geom_xpos", "ctrl"),
        observe,
        reward,
        anywhere,
        draws=lambda model: (model.nq, 0),
        constants=constants,
    )
}
