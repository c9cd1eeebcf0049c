"""Videos: a policy's episode, drawn by the environment, as MP4 where ffmpeg is at hand and as GIF otherwise."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np

from rlx import files, keys
from rlx.envs.base import batch, begin
from rlx.train.policy import Policy
from rlx.types import Env, HostEnv, Key

LONGEST = 300  # pictures in a video; of longer episodes every second, third, ... step is drawn


def frames(policy: Policy, env: Env | HostEnv, key: Key, steps: int, every: int = 1) -> Iterator[np.ndarray]:
    """Pictures, uint8 [H, W, 3], of one episode of at most ``steps`` decisions: the first observation and each ``every``-th.

    Raises:
        Exception: of the environment's renderer, such as where there is no OpenGL.
    """
    vec = batch(env, 1, ends="stop")
    random = keys.HostKey.of(key, 1)
    move = vec.step if vec.host else jax.jit(vec.step)
    try:
        state, step, carry, *_ = begin(vec, vec.params, policy.carry(1), key)
        yield vec.render(vec.params, state)
        for t in range(1, steps + 1):
            action, carry = policy.act(step, carry, keys.fold(key, "act", t))
            state, step = move(vec.params, state, action, random.at(t) if vec.host else keys.fold(key, "env", t))
            over = bool(np.asarray(step.last)[0])
            if over or t % every == 0:
                yield vec.render(vec.params, state)
            if over:
                return
    finally:
        vec.close()


def record(
    policy: Policy,
    env: Env | HostEnv,
    stem: str | os.PathLike,
    key: Key,
    steps: int | None = None,
    fps: int = 25,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """One episode to ``stem`` + ``.mp4`` or ``.gif``. ``progress(done, of)`` is told of each picture.

    Returns:
        The path written; the file appears only when it is whole.

    Raises:
        ValueError: an environment without time limit, and no ``steps``.
    """
    steps = steps or env.spec.horizon
    if steps is None:
        raise ValueError(f"{env.name} has no time limit: say how many steps the video is to show.")
    every = -(-steps // LONGEST)
    pictures = []
    for picture in frames(policy, env, key, steps, every):
        pictures.append(np.asarray(picture, np.uint8))
        if progress:
            progress(len(pictures), steps // every + 1)
    return write(stem, pictures, fps)


def write(stem: str | os.PathLike, pictures: Sequence[np.ndarray], fps: int = 25) -> Path:
    """Pictures, uint8 [H, W, 3], as a video file."""
    program = ffmpeg()
    path = Path(f"{os.fspath(stem)}.{'mp4' if program else 'gif'}")
    with files.replacing(path) as part:
        if program:
            _write_mp4(program, part, pictures, fps)
        else:
            _write_gif(part, pictures, fps)
    return path


def ffmpeg() -> str | None:
    """The program's path: on PATH, or as imageio-ffmpeg brings it."""
    found = shutil.which("ffmpeg")
    if found:
        return found
    try:
        import imageio_ffmpeg
    except ImportError:
        return None
    return imageio_ffmpeg.get_ffmpeg_exe()


def _write_mp4(program: str, path: Path, pictures: Sequence[np.ndarray], fps: int) -> None:
    height, width = pictures[0].shape[:2]
    given = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps), "-i", "-"]
    # H.264 as browsers play it: subsampled colour, which needs even sides
    wanted = ["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-c:v", "libx264", "-pix_fmt", "yuv420p", "-movflags", "+faststart"]
    command = [program, "-y", "-loglevel", "error", *given, *wanted, os.fspath(path)]
    done = subprocess.run(command, input=b"".join(p.tobytes() for p in pictures), capture_output=True)
    if done.returncode:
        raise OSError(f"ffmpeg could not write {path.name}: {done.stderr.decode(errors='replace').strip()}")


def _write_gif(path: Path, pictures: Sequence[np.ndarray], fps: int) -> None:
    from PIL import Image

    first, *rest = (Image.fromarray(p).quantize(64) for p in pictures)
    first.save(path, save_all=True, append_images=rest, duration=round(1000 / fps), loop=0)
