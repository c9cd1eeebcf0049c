"""What a run leaves for people: what the latent has kept, as pictures and as numbers, and how the constraint went."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from rlx import files
from rlx.agents.repo import losses
from rlx.agents.repo.world import price, window
from rlx.dynamics.rssm import Latent
from rlx.envs import batch, begin, rollout
from rlx.nn.pictures import pixels
from rlx.replay import Index, Sequences
from rlx.types import AgentState, Array, Env, HostEnv, Row

STREAMS, STEPS = 16, 100  # looked at, at most so many decisions of each
SHOWN, SEEN = 8, 5  # pictures of a line; those that the model is shown before it imagines the rest
RIDGE = 1.0  # of standardised inputs
LINES = {"updates": "updates", "beta": "dual/beta", "kl": "model/kl", "active": "dual/active"}  # of metrics


class Look(NamedTuple):
    """Of T steps of W streams, numpy."""

    rows: Row  # [T + 1, W, ...]
    belief: np.ndarray  # [T, W, H]
    posterior: np.ndarray  # [T, W, S], its means
    kl: np.ndarray  # [T, W]
    decoded: np.ndarray | None  # uint8 [T, W, H, W, C] of what was seen, where there is a decoder of pictures
    imagined: np.ndarray | None  # and of what the model thought would come, having seen the first `SEEN`

    @property
    def features(self) -> np.ndarray:
        """[T, W, H + S]."""
        return np.concatenate([self.belief, self.posterior], -1)


def played(agent: Any, env: Env | HostEnv, state: AgentState, streams: int, steps: int, seed: int = 0) -> Row:
    """Rows [steps, streams] of the policy as it explores, numpy."""
    vec, key = batch(env, streams), jax.random.key(seed)
    carry, act = agent.carry(state, streams), lambda c, step, k: agent.act(state, None, c, step, k, "explore")
    if env.host:
        jitted = jax.jit(lambda c, step, data: act(c, step, jax.random.wrap_key_data(data)))
        rows = rollout(vec, env.params, jitted, begin(vec, env.params, carry, key), key, steps)[1]
    else:
        play = lambda params, key: rollout(vec, params, act, begin(vec, params, carry, key), key, steps)[1]
        rows = jax.jit(play)(env.params, key)
    vec.close()
    return jax.tree.map(np.asarray, rows)


def look(method: Any, state: AgentState, rows: Row) -> Look:
    """What the model makes of ``rows`` [T + 1, W, ...], begun with nothing known."""
    net, params = method.net, state.learned["params"]
    width = rows.reward.shape[1]
    index = Index(np.zeros(width, np.int32), np.arange(width, dtype=np.int32))
    w = window(net, Sequences(**rows._asdict(), weight=np.ones(width, np.float32), index=index))
    shows = net.images and "decoder" in net.modules

    @jax.jit
    def whole(params: Any, w: Any, key: Any) -> Any:
        noise = jax.random.normal(key, (*w.reward.shape, net.config.state))
        found = net.rssm.filter(params["rssm"], net.embed(params, w.obs), w.action, w.joined, noise)
        kl = losses.divergence(found.posterior, found.prior, None)
        if not shows:
            return found, kl, None, None
        at = jax.tree.map(lambda x: x[SEEN - 1], found.latent)

        def on(latent: Latent, x: tuple[Array, Array]) -> tuple[Latent, Latent]:
            latent = net.rssm.imagine(params["rssm"], latent, *x)
            return latent, latent

        ahead = jax.lax.scan(on, at, (w.action[SEEN:SHOWN], noise[SEEN:SHOWN]))[1]
        thought = jax.tree.map(lambda a, b: jnp.concatenate([a[:SEEN], b]), found.latent, ahead)
        decode = lambda latent: pixels(net.decode(params, latent.features))
        return found, kl, decode(jax.tree.map(lambda x: x[:SHOWN], found.latent)), decode(thought)

    found, kl, decoded, imagined = jax.tree.map(np.asarray, whole(params, w, jax.random.key(1)))
    return Look(rows, found.latent.belief, found.posterior.mean, kl, decoded, imagined)


# ------------------------------------------------------------------------------------------- what can be read off the latent


def readable(inputs: np.ndarray, targets: np.ndarray) -> float | None:
    """R^2 of targets [T, W, k] that a ridge regression on inputs [T, W, n] has, fitted on one half of the streams and asked of
    the other; the mean over those targets that vary there, None where none does."""
    half = inputs.shape[1] // 2
    flat = lambda x, part: np.asarray(x[:, part], np.float64).reshape(-1, x.shape[-1])
    (x, y), (x_new, y_new) = ((flat(inputs, p), flat(targets, p)) for p in (slice(half), slice(half, None)))
    middle, scale = x.mean(0), np.maximum(x.std(0), 1e-6)
    x, x_new, mean = (x - middle) / scale, (x_new - middle) / scale, y.mean(0)
    weights = np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), x.T @ (y - mean))
    left, there = ((y_new - mean - x_new @ weights) ** 2).sum(0), ((y_new - y_new.mean(0)) ** 2).sum(0)
    varies = there > 1e-8 * len(y_new)
    return float((1 - left[varies] / there[varies]).mean()) if varies.any() else None


def behind(bank: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Which of the frames ``bank`` uint8 [F, H, W, C] is behind each of the pictures uint8 [T, W, H, W, C]: the nearest one, as
    bodies cover few pixels. int [T, W]."""
    grey = lambda x: np.asarray(x, np.float32).mean(-1).reshape(*x.shape[:-3], -1)
    frames, pictures = grey(bank), grey(images)
    nearest = [np.argmin(np.abs(frames - picture).mean(1)) for picture in pictures.reshape(-1, frames.shape[1])]
    return np.array(nearest).reshape(images.shape[:2])


def background(env: Env | HostEnv, images: np.ndarray, blocks: int = 4) -> np.ndarray | None:
    """Of what a distractor's bank has behind pictures uint8 [T, W, H, W, C]: means of blocks, [T, W, blocks^2]; None where
    there is no bank."""
    bank = env.params.get("bank") if isinstance(env.params, dict) else None
    if bank is None or not np.size(bank):
        return None
    grey = np.asarray(bank, np.float32).mean(-1)
    edge = grey.shape[1] - grey.shape[1] % blocks
    parts = grey[:, :edge, :edge].reshape(len(grey), blocks, edge // blocks, blocks, edge // blocks)
    means = parts.mean((2, 4)).reshape(len(grey), -1)
    return means[behind(np.asarray(bank), images)]


def kept(env: Env | HostEnv, found: Look) -> dict[str, dict[str, float | None]]:
    """How well task state and background can be read off the posterior's means, and off all features."""
    inputs = {"posterior": found.posterior, "features": found.features}
    targets, obs = {}, found.rows.obs
    if isinstance(obs, dict) and "state" in obs:
        leaves = [np.asarray(x[1:], np.float32) for x in jax.tree.leaves(obs["state"])]
        targets["state"] = np.concatenate([x.reshape(*x.shape[:2], -1) for x in leaves], -1)
    images = obs.get("pixels") if isinstance(obs, dict) else obs
    if images is not None and getattr(images, "ndim", 0) == 5:
        behind = background(env, images[1:])
        targets |= {} if behind is None else {"background": behind}
    return {name: {k: readable(x, y) for k, x in inputs.items()} for name, y in targets.items()}


# ------------------------------------------------------------------------------------------------------------ the report


def grid(found: Look, observed: np.ndarray, streams: int = 4) -> np.ndarray:
    """uint8 [H, W, 3]: of each stream three lines, what was seen, what the probe reads off the latent, what was imagined."""
    lines = []
    for i in range(min(streams, observed.shape[1])):
        for images in (observed[:SHOWN, i], found.decoded[:, i], found.imagined[:, i]):  # type: ignore[index]
            line = np.concatenate([np.pad(x, ((1, 1), (1, 1), (0, 0)), constant_values=255) for x in images], 1)
            lines.append(line)
    whole = np.concatenate(lines)
    return np.repeat(whole, 3, -1) if whole.shape[-1] == 1 else whole[..., :3]


def history(folder: Path) -> dict[str, np.ndarray]:
    """Lines of the run's metrics that speak of the constraint, by name [lines, members]; empty where there are none."""
    found: list[list[np.ndarray]] = []
    path = folder / "metrics.jsonl"
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        line = json.loads(text)
        if line.get("kind") == "train" and all(line.get(k) is not None for k in LINES.values()):
            values = [np.atleast_1d(np.array(line[k], float)) for k in LINES.values()]
            found.append(list(np.broadcast_arrays(*values)))
    return {name: np.array([x[i] for x in found]) for i, name in enumerate(LINES)} if found else {}


@dataclass(frozen=True)
class Report:
    """`rlx.types.Agent.report`; ``method`` has the functions of the agent."""

    method: Any
    env: Env | HostEnv

    def __call__(self, state: AgentState, folder: Path) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        statistics, h, target = state.learned["told"], state.hyper, float(state.hyper["target_kl"])
        bound = self.method.config.bottleneck == "dual"  # else there is none
        steps = min(STEPS, max(self.env.spec.horizon or STEPS, SHOWN)) + 1
        found = look(self.method, state, played(self.method, self.env, state, STREAMS, steps))
        active = float(statistics["active"]) / max(int(statistics["updates"]), 1)
        page = {
            "beta": float(price(self.method.net, self.method.beta(state), statistics["kl"] - target, h)),
            "kl": float(statistics["kl"]),
            "kl_of_the_policy": float(found.kl.mean()),
            **({"target_kl": target, "active_share": active} if bound else {}),
            "updates": int(statistics["updates"]),
            "r2": kept(self.env, found),
        }
        paths = [folder / "repo.json"]
        files.write_text(paths[0], json.dumps(page, indent=1) + "\n")
        if found.decoded is not None:
            picture = Image.fromarray(grid(found, self.method.net.see(found.rows.obs, 2)[1:]))
            out = io.BytesIO()
            picture.resize([2 * n for n in picture.size], Image.Resampling.NEAREST).save(out, "PNG")
            paths.append(folder / "probe.png")
            files.write_bytes(paths[1], out.getvalue())
        lines = history(folder) if bound else {}
        if lines:
            paths.append(folder / "constraint.png")
            files.write_bytes(paths[-1], drawn(lines, target))
        return paths


def drawn(lines: dict[str, np.ndarray], target: float) -> bytes:
    """A PNG of `history`, a curve for each member."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 3)
    for place, (name, title) in zip(
        axes, {"kl": "divergence, nats", "beta": "multiplier", "active": "share of updates above"}.items(), strict=True
    ):
        place.plot(lines["updates"], lines[name])
        place.set(title=title, xlabel="updates")
    axes[0].axhline(target, color="black", linewidth=0.8, linestyle="--")
    axes[1].set_yscale("log" if np.nanmin(lines["beta"]) > 0 else "linear")
    axes[2].set_ylim(-0.05, 1.05)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110)
    return out.getvalue()
