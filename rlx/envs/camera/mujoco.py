"""What a camera of a MuJoCo model sees, for native physics and MJX alike: a `Scene` of its geoms and sites, and where they are,
from positions alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx.envs.camera.scene import Camera, Colour, Poses, Scene, Shape, Texture
from rlx.envs.tasks.kinematics import Kinematics, rotation

if TYPE_CHECKING:
    import mujoco

SHOWN = 3  # groups of geoms and sites from here on are hidden by default
UNSET = (0.5, 0.5, 0.5, 1.0)  # MuJoCo's default colour: the material's holds
SKY: tuple[Colour, Colour] = ((0.35, 0.52, 0.7), (0.05, 0.08, 0.1))
FIXED, TRACK, TRACKCOM, TARGET, TARGETCOM = range(5)  # mujoco.mjtCamLight
FREE = -1  # the camera of a model that has none: MuJoCo's viewer begins with it


@dataclass(frozen=True)
class _Object:
    """A geom or a site: its number, its body, and how it lies there."""

    kind: str  # "geom" or "site"
    index: int
    body: int
    place: np.ndarray
    turned: np.ndarray


class MujocoView:
    """The camera ``camera`` (name or number) of ``model``; what is shown is what MuJoCo shows by default.

    Raises:
        ValueError: no such camera, or geoms of a form that has no signed distance here.
    """

    def __init__(self, name: str, model: mujoco.MjModel, camera: str | int = 0):
        self.model, self.camera = model, camera_number(name, model, camera)
        found = list(_objects(model))
        forms = sorted({_form(model, o) for o in found} - {"plane", "sphere", "capsule", "ellipsoid", "cylinder", "box"})
        if forms:
            raise ValueError(
                f"{name} has geoms of the form {', '.join(forms)}, which pixels='sdf' cannot draw: use pixels='gl'."
            )
        self.kinematics = Kinematics(model)
        far = self._farness(found)
        self.objects = [found[i] for i in np.argsort([-f for f in far], kind="stable")]
        free, own = self.camera == FREE, model.vis.global_
        planar = bool(own.orthographic if free else model.cam_projection[self.camera])
        fov = float(own.fovy if free else model.cam_fovy[self.camera])
        lens = Camera(fov / 2 if planar else float(np.tan(np.deg2rad(fov) / 2)), planar)
        self.scene = Scene(tuple(_shape(model, o) for o in self.objects), lens, SKY)

    def _farness(self, found: list[_Object]) -> list[float]:
        """How far objects are from the camera where the model stands at first; planes are behind all else."""
        self.objects = found
        poses = self.poses(np, self.model.qpos0[None])
        depth = -((poses.place[0] - poses.eye[0]) @ poses.gaze[0])[:, 2]
        return [1e6 + d if _form(self.model, o) == "plane" else d for d, o in zip(depth, found, strict=True)]

    def poses(self, xp: Any, qpos: Any, moved: dict[int, Any] | None = None) -> Poses:
        """At ``qpos`` [N, nq]; leaves [N, ...]. ``moved``: by geom, another place [N, 3] in its body."""
        m = self.model
        mode = FREE if self.camera == FREE else int(m.cam_mode[self.camera])
        fields = ("xpos", "xmat", *(("subtree_com",) if mode in (TRACKCOM, TARGETCOM) else ()))
        found = self.kinematics(xp, qpos, xp.zeros((qpos.shape[0], m.nv), qpos.dtype), fields)
        place, turned = found["xpos"], found["xmat"].reshape(*found["xmat"].shape[:2], 3, 3)
        bodies = np.array([o.body for o in self.objects])
        local = [o.place[None] for o in self.objects]
        for k, o in enumerate(self.objects):
            if moved and o.kind == "geom" and o.index in moved:
                local[k] = moved[o.index]
        within = xp.stack([xp.broadcast_to(x, (qpos.shape[0], 3)) for x in local], 1)
        frames, own = turned[:, bodies], np.stack([o.turned for o in self.objects])
        at = place[:, bodies] + (frames * within[:, :, None]).sum(-1)
        kind = lambda x: x.astype(np.float32)
        eye, gaze = self._camera(xp, mode, place, turned, found.get("subtree_com"))
        return Poses(kind(at), kind((frames[..., None] * own[:, None]).sum(-2)), kind(eye), kind(gaze))

    def _camera(self, xp: Any, mode: int, place: Any, turned: Any, com: Any) -> tuple[Any, Any]:
        """mj_camlight: a camera is fixed to its body, follows a point of it, or turns to look at one."""
        m, c = self.model, self.camera
        if mode == FREE:
            return tuple(xp.broadcast_to(xp.asarray(x, place.dtype), (place.shape[0], *x.shape)) for x in _free_camera(m))
        body, target = int(m.cam_bodyid[c]), int(m.cam_targetbodyid[c])
        if mode in (TRACK, TRACKCOM):
            shift = m.cam_pos0[c] if mode == TRACK else m.cam_poscom0[c]
            follows = place if mode == TRACK else com
            still = m.cam_mat0[c].reshape(3, 3)
            return follows[:, body] + shift, xp.broadcast_to(xp.asarray(still, place.dtype), (place.shape[0], 3, 3))
        eye = place[:, body] + (turned[:, body] * m.cam_pos[c]).sum(-1)
        if mode == FIXED or target < 0:
            return eye, (turned[:, body][..., None] * rotation(m.cam_quat[c])).sum(-2)
        back = eye - (place if mode == TARGET else com)[:, target]
        back = back / xp.sqrt((back**2).sum(-1, keepdims=True))
        right = xp.stack([-back[:, 1], back[:, 0], xp.zeros_like(back[:, 0])], -1)
        right = right / xp.sqrt((right**2).sum(-1, keepdims=True))
        return eye, xp.stack([right, xp.cross(back, right), back], -1)

    def poses_of(self, data: list[Any]) -> Poses:
        """Of native data, as they stand; leaves [N, ...]."""
        place, turned = (
            np.stack([[getattr(d, f"{o.kind}_{what}")[o.index] for o in self.objects] for d in data]).astype(np.float32)
            for what in ("xpos", "xmat")
        )
        if self.camera == FREE:
            eye, gaze = (np.stack([x.astype(np.float32)] * len(data)) for x in _free_camera(self.model))
        else:
            eye, gaze = (
                np.stack([getattr(d, what)[self.camera] for d in data]).astype(np.float32) for what in ("cam_xpos", "cam_xmat")
            )
        return Poses(place, turned.reshape(*turned.shape[:2], 3, 3), eye, gaze.reshape(-1, 3, 3))

    def pose(self, positions: dict[str, Any], goal_geom: str | None = None) -> Poses:
        """Of one stream, in JAX: ``positions["qpos"]`` [nq]; ``positions["goal"]`` is where a geom is in the plane."""
        moved = {}
        if goal_geom is not None:
            g = self.model.geom(goal_geom).id
            moved[g] = jnp.append(positions["goal"], jnp.float32(self.model.geom_pos[g, 2]))[None]
        return jax.tree.map(lambda x: x[0], self.poses(jnp, positions["qpos"][None].astype(jnp.float32), moved))


def camera_number(name: str, model: mujoco.MjModel, camera: str | int) -> int:
    """Of a name or a number; 0 of a model without cameras is `FREE`. Raises ValueError where ``model`` has no such camera."""
    names = [model.camera(i).name for i in range(model.ncam)]
    if camera == 0 and not names:
        return FREE
    if isinstance(camera, str) and camera in names:
        return names.index(camera)
    if isinstance(camera, int) and not isinstance(camera, bool) and 0 <= camera < model.ncam:
        return camera
    there = f"it has {', '.join(map(repr, names))}, or a number from 0 to {len(names) - 1}" if names else "leave camera out"
    raise ValueError(f"{name} has no camera {camera!r}; {there}.")


def _free_camera(model: mujoco.MjModel) -> tuple[np.ndarray, np.ndarray]:
    """mjv_defaultFreeCamera: where it is [3], and its axes [3, 3] (right, up, back): it looks at the model's middle."""
    turn, lift = np.deg2rad([model.vis.global_.azimuth, model.vis.global_.elevation])
    back = -np.array([np.cos(lift) * np.cos(turn), np.cos(lift) * np.sin(turn), np.sin(lift)])
    right = np.array([np.sin(turn), -np.cos(turn), 0.0])
    return model.stat.center + 1.5 * model.stat.extent * back, np.stack([right, np.cross(back, right), back], -1)


def _objects(model: mujoco.MjModel) -> Any:
    """What is shown: geoms, then sites."""
    for kind, count in (("geom", model.ngeom), ("site", model.nsite)):
        array = lambda what, kind=kind: getattr(model, f"{kind}_{what}")
        for i in range(count):
            if array("group")[i] < SHOWN and _rgba(model, kind, i)[3] > 0.1:
                yield _Object(kind, i, int(array("bodyid")[i]), array("pos")[i].copy(), rotation(array("quat")[i]))


def _rgba(model: mujoco.MjModel, kind: str, i: int) -> np.ndarray:
    own, material = getattr(model, f"{kind}_rgba")[i], getattr(model, f"{kind}_matid")[i]
    return model.mat_rgba[material] if material >= 0 and np.allclose(own, UNSET) else own


def _form(model: mujoco.MjModel, o: _Object) -> str:
    import mujoco

    return mujoco.mjtGeom(int(getattr(model, f"{o.kind}_type")[o.index])).name.removeprefix("mjGEOM_").lower()


def _shape(model: mujoco.MjModel, o: _Object) -> Shape:
    form = _form(model, o)
    size = tuple(float(x) for x in getattr(model, f"{o.kind}_size")[o.index])
    texture, rgb = None, tuple(float(x) for x in _rgba(model, o.kind, o.index)[:3])
    material = int(getattr(model, f"{o.kind}_matid")[o.index])
    if form == "plane" and material >= 0:
        rgb, texture = _checks(model, material, rgb, size)
    name = getattr(model, o.kind)(o.index).name
    return Shape(form, size, rgb, texture, backdrop=form == "plane", name=name)  # type: ignore[arg-type]


def _checks(model: mujoco.MjModel, material: int, rgb: tuple, size: tuple) -> tuple[Any, Texture | None]:
    """The two colours of a checked texture, read off its middles."""
    import mujoco

    t = int(model.mat_texid[material, mujoco.mjtTextureRole.mjTEXROLE_RGB])
    if t < 0:
        return rgb, None
    height, width, channels = (int(getattr(model, f"tex_{k}")[t]) for k in ("height", "width", "nchannel"))
    start = int(model.tex_adr[t])
    pixels = model.tex_data[start : start + height * width * channels].reshape(height, width, channels) / 255.0
    one, other = (pixels[height // 4, k, :3] * rgb for k in (width // 4, 3 * width // 4))
    repeat = max(float(model.mat_texrepeat[material, 0]), 1e-6)
    across = 1.0 if model.mat_texuniform[material] or not size[0] else size[0]  # of a metre, or of half the plane
    other = (float(other[0]), float(other[1]), float(other[2]))
    return tuple(one.tolist()), Texture("checks", other, across / repeat, (-size[0], -size[1]))
