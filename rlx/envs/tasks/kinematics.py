"""What MuJoCo derives of positions and velocities alone, as functions over arrays: places, rotations, momenta.

``Kinematics(model)(xp, qpos, qvel, fields)`` is what ``mj_kinematics``, ``mj_comPos`` and ``mj_subtreeVel`` would leave in
``MjData``, for any number of states at once: a rigid body moves with its parent, and by its joints against it. Contacts, forces
and accelerations have no place here, so sensors of those are NaN.

In here arrays have their own axes first and those of the states last ([3, 3, N]): each operation then runs over long rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

MOVING = {"sensordata", "subtree_angmom"}  # fields that need velocities
FREE, _, SLIDE, HINGE = range(4)  # kinds of joints, mujoco.mjtJoint


class _Bodies(NamedTuple):
    """By body: rotation [3, 3], place [3], and of the motion v(p) = ``slide`` + ``turn`` x p, in world axes [3]."""

    turned: list[Any]
    place: list[Any]
    turn: list[Any]
    slide: list[Any]


class Kinematics:
    """Of one ``mujoco.MjModel``.

    Raises:
        ValueError: it has bodies that are placed from outside (mocap), whose place is no part of (qpos, qvel).
    """

    def __init__(self, model: Any):
        if model.nmocap:
            raise ValueError("bodies that are placed from outside (mocap) do not follow from qpos and qvel.")
        self.model = model
        self.parents = model.body_parentid.tolist()
        self.joints = [range(a, a + n) for a, n in zip(model.body_jntadr.tolist(), model.body_jntnum.tolist(), strict=True)]
        self.below = [[b] for b in range(model.nbody)]  # of each body those that hang on it, itself included
        for b in range(model.nbody - 1, 0, -1):
            self.below[self.parents[b]] += self.below[b]

    def __call__(self, xp: Any, qpos: Any, qvel: Any, fields: tuple[str, ...]) -> dict[str, Any]:
        """``fields`` by name, in MuJoCo's layout ([N, body, 3], xmat as [N, body, 9]), of ``qpos`` [N, nq] and ``qvel``
        [N, nv]. Of ``sensordata`` subtree velocities and momenta, and velocimeters; all else there is NaN.

        Raises:
            ValueError: a field that does not follow from positions and velocities.
        """
        m, scene = self.model, _Scene(xp, self, _bodies(xp, self, qpos.T, qvel.T, bool(MOVING & set(fields))))
        bodies, each = scene.bodies, range(m.nbody)
        makers = {
            "xpos": lambda: bodies.place,
            "xmat": lambda: [r.reshape(9, -1) for r in bodies.turned],
            "xipos": lambda: scene.centres,
            "geom_xpos": lambda: [_at(bodies, b, p) for b, p in zip(m.geom_bodyid, m.geom_pos, strict=True)],
            "subtree_com": lambda: [scene.centre(b) for b in each],
            "subtree_angmom": lambda: [scene.momentum(b) for b in each],
        }
        unknown = set(fields) - {*makers, "sensordata"}
        if unknown:
            raise ValueError(f"{', '.join(sorted(unknown))} does not follow from qpos and qvel alone.")
        whole = lambda made: xp.moveaxis(xp.stack(made), -1, 0)
        return {f: scene.sensors() if f == "sensordata" else whole(makers[f]()) for f in fields}


def _bodies(xp: Any, k: Kinematics, qpos: Any, qvel: Any, moving: bool) -> _Bodies:
    """Walks from parents to children, which come after them in MuJoCo's order."""
    m, count = k.model, qpos.shape[-1]
    zero = xp.zeros((3, count), qpos.dtype)
    eye = zero[None] + np.eye(3)[..., None].astype(qpos.dtype)
    world = _Bodies([eye], [zero], [zero], [zero])
    for b in range(1, m.nbody):
        turned, place, turn, slide = (x[k.parents[b]] for x in world)
        place = place + _times(turned, m.body_pos[b])
        if m.body_quat[b][0] != 1:
            turned = _product(turned, rotation(m.body_quat[b])[..., None])
        for j in k.joints[b]:
            kind, q, v = int(m.jnt_type[j]), int(m.jnt_qposadr[j]), int(m.jnt_dofadr[j])
            if kind == FREE:
                place, turned = qpos[q : q + 3], rotation(qpos[q + 3 : q + 7], xp)
                turn = _times(turned, qvel[v + 3 : v + 6])
                slide = qvel[v : v + 3] - _cross(xp, turn, place)
                continue
            axis = _times(turned, m.jnt_axis[j])
            if kind == SLIDE:
                place = place + axis * (qpos[q] - m.qpos0[q])
                slide = slide + axis * qvel[v] if moving else slide
                continue
            anchor = place + _times(turned, m.jnt_pos[j])
            if kind == HINGE:
                turned, faster = _product(turned, about(m.jnt_axis[j], qpos[q] - m.qpos0[q], xp)), axis * qvel[v]
            else:  # a ball
                turned = _product(turned, rotation(qpos[q : q + 4], xp))
                faster = _times(turned, qvel[v : v + 3])
            place = anchor - _times(turned, m.jnt_pos[j])
            if moving:
                turn, slide = turn + faster, slide - _cross(xp, faster, anchor)
        for known, new in zip(world, (turned, place, turn, slide), strict=True):
            known.append(new)
    return world


@dataclass(frozen=True)
class _Scene:
    """What follows of the bodies' places and motions, computed where it is asked for."""

    xp: Any
    k: Kinematics
    bodies: _Bodies

    @cached_property
    def centres(self) -> list[Any]:
        """Centres of mass [3, N] of the bodies."""
        return [_at(self.bodies, b, p) for b, p in enumerate(self.k.model.body_ipos)]

    @cached_property
    def speeds(self) -> list[Any]:
        """Of those."""
        return [self.speed(b, c) for b, c in enumerate(self.centres)]

    def speed(self, b: int, p: Any) -> Any:
        """How fast body ``b`` moves at ``p`` [3, N]."""
        return self.bodies.slide[b] + _cross(self.xp, self.bodies.turn[b], p)

    def _mean(self, parts: list[Any], b: int) -> Any:
        """By mass, over body ``b`` and all that hangs on it."""
        mass = self.k.model.body_mass
        whole = max(float(mass[self.k.below[b]].sum()), 1e-15)  # as MuJoCo has it for bodies without mass
        return sum(mass[i] / whole * parts[i] for i in self.k.below[b])

    def centre(self, b: int) -> Any:
        """Of mass, of the subtree of ``b``."""
        return self._mean(self.centres, b)

    def drift(self, b: int) -> Any:
        """The velocity of that."""
        return self._mean(self.speeds, b)

    def momentum(self, b: int) -> Any:
        """The angular momentum of the subtree about it."""
        m, centre, drift, total = self.k.model, self.centre(b), self.drift(b), 0.0
        for i in self.k.below[b]:
            frame = _product(self.bodies.turned[i], rotation(m.body_iquat[i])[..., None])
            spin = _times(frame, m.body_inertia[i][:, None] * _back(frame, self.bodies.turn[i]))
            total = total + spin + m.body_mass[i] * _cross(self.xp, self.centres[i] - centre, self.speeds[i] - drift)
        return total

    def sensors(self) -> Any:
        """[N, nsensordata]."""
        import mujoco

        m, kinds, columns = self.k.model, mujoco.mjtSensor, []
        for i in range(m.nsensor):
            kind, on = int(m.sensor_type[i]), int(m.sensor_objid[i])
            if kind == kinds.mjSENS_SUBTREELINVEL:
                columns.append(self.drift(on))
            elif kind == kinds.mjSENS_SUBTREEANGMOM:
                columns.append(self.momentum(on))
            elif kind == kinds.mjSENS_VELOCIMETER:
                b = int(m.site_bodyid[on])
                frame = _product(self.bodies.turned[b], rotation(m.site_quat[on])[..., None])
                columns.append(_back(frame, self.speed(b, _at(self.bodies, b, m.site_pos[on]))))
            else:
                columns.append(self.xp.full((int(m.sensor_dim[i]), self.bodies.place[0].shape[-1]), np.nan))
        return self.xp.concatenate(columns).T


# ------------------------------------------------------------------------------------------------------------------- algebra


def rotation(q: Any, xp: Any = np) -> Any:
    """The rotation [3, 3, ...] of a quaternion [4, ...] (w, x, y, z), which need not have length 1."""
    w, x, y, z = q / xp.sqrt((q**2).sum(0))
    return xp.stack(
        [
            xp.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)]),
            xp.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)]),
            xp.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]),
        ]
    )


def about(axis: np.ndarray, angle: Any, xp: Any = np) -> Any:
    """Rotations [3, 3, N] about a constant ``axis`` [3] by ``angle`` [N] (Rodrigues)."""
    x, y, z = axis / np.sqrt((axis**2).sum())
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    parts = ((np.eye(3), xp.ones_like(angle)), (cross, xp.sin(angle)), (cross @ cross, 1 - xp.cos(angle)))
    return sum(m[..., None].astype(angle.dtype) * x for m, x in parts)


def _product(a: Any, b: Any) -> Any:
    """[3, 3, N] of two such."""
    return a[:, 0, None] * b[0] + a[:, 1, None] * b[1] + a[:, 2, None] * b[2]


def _times(turned: Any, v: Any) -> Any:
    """[3, N]: a vector, constant [3] or [3, N], into world axes."""
    return turned[:, 0] * v[0] + turned[:, 1] * v[1] + turned[:, 2] * v[2]


def _back(turned: Any, v: Any) -> Any:
    """[3, N] in the axes of a body of such in world axes."""
    return turned[0] * v[0] + turned[1] * v[1] + turned[2] * v[2]


def _cross(xp: Any, a: Any, b: Any) -> Any:
    return xp.stack([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]])


def _at(bodies: _Bodies, b: int, v: np.ndarray) -> Any:
    """Where the point ``v`` [3] of body ``b`` is."""
    return bodies.place[b] + _times(bodies.turned[b], v)
