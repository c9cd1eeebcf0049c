"""Cart-pole swing-up: the equations of dm_control's model, without MuJoCo.

A cart (1 kg) on a rail of +-1.8 m pulls a pole (0.1 kg capsule of radius 0.045 m and length 1 m). The rail's ends are
MuJoCo's soft joint limits, of which there is at most one active, so its constraint force has a closed form.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx.envs.control.base import disc, plant, rod
from rlx.envs.tasks.cartpole import VIEW, score
from rlx.types import Env, Leaf, Task

DT = 0.01  # s, Runge-Kutta of fourth order
RAIL = 1.8  # m
_R, _H, _M = 0.045, 1.0, 0.1  # the capsule's radius, length, mass
_CYLINDER = _H / (_H + 4 / 3 * _R)  # its share of the volume, the rest are the caps
INERTIA = _M * (_CYLINDER * (_R**2 / 4 + _H**2 / 12) + (1 - _CYLINDER) * (0.4 * _R**2 + _H**2 / 4 + 3 / 8 * _H * _R))
PARAMS = {
    "cart": 1.0,  # kg
    "pole": _M,  # kg
    "centre": _H / 2,  # m, from the hinge to the pole's centre
    "inertia": INERTIA,  # kg m^2, about its centre
    "gravity": 9.81,  # m/s^2
    "gear": 10.0,  # N per unit of action
    "cart_damping": 5e-4,  # N s/m
    "pole_damping": 2e-6,  # N m s
}
# the limit: MuJoCo's reference (0.08 s, critically damped) and impedance (0.9 to 0.95 over 1 mm)
_TIME, _D_LOW, _D_HIGH, _WIDTH = 0.08, 0.9, 0.95, 0.001
_B, _K = 2 / (_D_HIGH * _TIME), 1 / (_D_HIGH * _TIME) ** 2


def drift(xp: Any, p: Any, x: Any, action: Any) -> Any:
    """d(cart, angle, cart rate, angle rate)/dt, [..., 4]; the angle is 0 upright."""
    place, angle, speed, rate = (x[..., i] for i in range(4))
    ml = p["pole"] * p["centre"]
    a, b, c = p["cart"] + p["pole"], ml * xp.cos(angle), p["inertia"] + ml * p["centre"]  # the mass matrix [[a, b], [b, c]]
    det = a * c - b * b
    pull = p["gear"] * action[..., 0] - p["cart_damping"] * speed + ml * xp.sin(angle) * rate**2
    turn = ml * p["gravity"] * xp.sin(angle) - p["pole_damping"] * rate
    free = (c * pull - b * turn) / det  # the cart's acceleration without the rail's end
    pull = pull + _rail(xp, p, place, speed, free, c / det)
    return xp.stack([speed, rate, (c * pull - b * turn) / det, (a * turn - b * pull) / det], -1)


def _rail(xp: Any, p: Any, place: Any, speed: Any, free: Any, mobility: Any) -> Any:
    """The force of the rail's end on the cart, from MuJoCo's soft constraint: 0 inside."""
    side = xp.where(place > 0, -1.0, 1.0)  # where the force points
    depth = xp.minimum(RAIL - abs(place), 0.0)
    u = xp.minimum(-depth / _WIDTH, 1.0)
    impedance = _D_LOW + (_D_HIGH - _D_LOW) * xp.where(u <= 0.5, 2 * u**2, 1 - 2 * (1 - u) ** 2)
    wanted = -_B * side * speed - _K * impedance * depth
    ml = p["pole"] * p["centre"]
    c = p["inertia"] + ml * p["centre"]
    upright = c / ((p["cart"] + p["pole"]) * c - ml * ml)  # the mobility that MuJoCo scales its regularisation with
    force = (wanted - side * free) / (mobility + upright * (1 - impedance) / impedance)
    return xp.where(depth < 0, side * xp.maximum(force, 0.0), 0.0)


def advance(p: Any, x: Any, action: Any) -> Any:
    """One step of the classical Runge-Kutta method."""
    f = lambda x: drift(jnp, p, x, action)
    k1 = f(x)
    k2 = f(x + DT / 2 * k1)
    k3 = f(x + DT / 2 * k2)
    return x + DT / 6 * (k1 + 2 * k2 + 2 * k3 + f(x + DT * k3))


def observe(xp: Any, p: Any, x: Any) -> Any:
    """Cart position, cosine and sine of the pole, velocities: [5]."""
    return xp.stack([x[..., 0], xp.cos(x[..., 1]), xp.sin(x[..., 1]), x[..., 2], x[..., 3]], -1)


def reward(xp: Any, p: Any, x: Any, action: Any, new: Any) -> Any:
    """dm_control's: upright, centred, little force and slow."""
    return score(xp, observe(xp, p, new), action)


def start(p: Any, key: Any) -> Any:
    """Near the middle, pole down, almost at rest."""
    return 0.01 * jax.random.normal(key, (4,)) + jnp.array([0.0, np.pi, 0.0, 0.0])


def draw(pen: Any, size: int, x: np.ndarray) -> None:
    scale, ground = size / 5.0, 0.62 * size
    place = size / 2 + scale * float(x[0])
    pen.line([(size / 2 - scale * 2, ground), (size / 2 + scale * 2, ground)], (150, 150, 150), size // 128)
    pen.rectangle([place - 0.2 * scale, ground - 0.12 * scale, place + 0.2 * scale, ground + 0.12 * scale], (70, 90, 120))
    tip = (place + scale * np.sin(x[1]), ground - scale * np.cos(x[1]))
    rod(pen, (place, ground), tip, size // 40, (204, 120, 60))
    disc(pen, place, ground, size / 90, (30, 30, 30))


def make(repeat: int = 1, time_limit: int | None = None) -> Env:
    """Observation [5], one action (force), 1000 control steps of 10 ms, reward in [0, 1] per step."""
    return plant(
        "rlx:cartpole-swingup",
        task=Task(observe, reward, drift=drift, score=score, **VIEW),
        obs=Leaf((5,)),
        actions=1,
        params=dict(PARAMS),
        start=start,
        advance=advance,
        horizon=1000,
        repeat=repeat,
        time_limit=time_limit,
        draw=draw,
    )
