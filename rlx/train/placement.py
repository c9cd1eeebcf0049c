"""How the members of a population lie on devices and processes.

The compiled programs have *places* for one member each, and every device has equally many of them. A population that does
not divide is padded with empty places, which run a copy that nobody asks for; where members died, the living ones move together
into fewer. Inside the runner arrays are by place, what leaves it is by member.

Members need nothing from one another while they train, so each process compiles its programs for its own devices. Processes
meet between two chunks only: to agree on what comes next, to gather scores, to exchange members and to write a checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rlx.train import processes
from rlx.types import PyTree

AXIS = "member"
EMPTY = -1


@dataclass(frozen=True, eq=False)
class Placement:
    """``member_ids`` int [P * S]: the member in each place, of all processes in turn, or `EMPTY`. ``total``: members in all,
    living or not. ``devices``: those of this process that are used."""

    member_ids: np.ndarray
    total: int
    devices: tuple[Any, ...]

    @staticmethod
    def of(members: Sequence[int] | np.ndarray, total: int, devices: Sequence[Any] | None = None) -> Placement:
        """``members`` in order, equally many to each device of each process; devices that would stay empty are left out."""
        have = tuple(jax.local_devices() if devices is None else devices)
        count = processes.count()
        each = -(-len(members) // count)  # members to a process
        per = -(-each // len(have))  # places to a device
        used = have[: -(-each // per)]
        member_ids = np.full(count * per * len(used), EMPTY, np.int64)
        member_ids[: len(members)] = members
        return Placement(member_ids, total, used)

    @property
    def per_process(self) -> int:
        """Places of this process."""
        return len(self.member_ids) // processes.count()

    @property
    def own(self) -> slice:
        """Where the places of this process are among all."""
        return slice(processes.index() * self.per_process, (processes.index() + 1) * self.per_process)

    @property
    def full(self) -> bool:
        """Whether place and member are the same thing."""
        return processes.count() == 1 and len(self.member_ids) == self.total

    @cached_property
    def mesh(self) -> Mesh:
        return Mesh(np.array(self.devices), (AXIS,))

    # ------------------------------------------------------------------------------------------------------------ programs

    def map(self, fn: Callable, axes: Any, each: Callable = jax.vmap) -> Callable:
        """``fn`` over the places: ``each(fn, axes)`` on every device. ``axes``: 0 or None for each argument."""
        axes = (axes,) if isinstance(axes, int) else axes
        return self.shard(each(fn, axes), axes)

    def shard(self, fn: Callable, axes: Sequence[int | None], out: Any = None) -> Callable:
        """``fn``, which takes places by itself, on every device with the places that are there."""
        if len(self.devices) == 1:
            return fn
        specs = tuple(P() if a is None else P(AXIS) for a in axes)

        def local(*args: PyTree) -> Any:
            """Arrays without elements, such as priorities that nobody asks for, are made anew: the compiler of jax 0.11 dies
            of those that come from outside and are used."""
            return fn(*jax.tree.map(lambda x: x if x.size else jnp.zeros_like(x), args))

        return jax.shard_map(local, mesh=self.mesh, in_specs=specs, out_specs=P(AXIS) if out is None else out, check_vma=False)

    def any(self, flag: Any) -> Any:
        """Within a mapped program: whether ``flag`` is set on any device of this process."""
        return flag if len(self.devices) == 1 else jax.lax.pmax(flag.astype(int), AXIS) > 0

    def put(self, tree: PyTree) -> PyTree:
        """Arrays by place, on their devices."""
        return self._put(tree, P(AXIS))

    def whole(self, array: Any) -> Any:
        """An array by place of this process as its part of one over all processes: what orbax writes. Numpy is gathered."""
        if isinstance(array, np.ndarray):
            return processes.gather(array)
        used = {d.process_index: 0 for d in jax.devices()}
        order = []
        for d in sorted(jax.devices(), key=lambda d: (d.process_index, d.id)):
            if used[d.process_index] < len(self.devices):
                order.append(d)
            used[d.process_index] += 1
        sharding = NamedSharding(Mesh(np.array(order), (AXIS,)), P(AXIS))
        parts = [s.data for s in sorted(self.put(array).addressable_shards, key=lambda s: s.device.id)]
        return jax.make_array_from_single_device_arrays((len(self.member_ids), *array.shape[1:]), sharding, parts)

    def everywhere(self, tree: PyTree) -> PyTree:
        """Arrays that all places share, on every device; those in host memory stay there."""
        return jax.tree.map(lambda x: self._put(x, P()) if isinstance(x, jax.Array) else x, tree)

    def _put(self, tree: PyTree, spec: P) -> PyTree:
        if len(self.devices) == 1:
            return tree if self.devices[0] == jax.local_devices()[0] else jax.device_put(tree, self.devices[0])
        return jax.device_put(tree, NamedSharding(self.mesh, spec))

    # --------------------------------------------------------------------------------------------------- places and members

    def locate(self, member_ids: np.ndarray) -> np.ndarray:
        """Of each of all places, where its member is in ``member_ids``; for an empty one some place that holds a member."""
        at = {int(m): i for i, m in enumerate(member_ids) if m != EMPTY}
        return np.array([at.get(int(m), next(iter(at.values()))) for m in self.member_ids], np.int64)

    def place_of(self, members: np.ndarray) -> np.ndarray:
        """Among all places, that of each of ``members``; 0 for one without."""
        return np.array([int(np.argmax(self.member_ids == m)) for m in members], np.int64)

    def by_member(self, array: Any, rest: Any = np.nan) -> np.ndarray:
        """An array by place of this process as one by member of all, ``rest`` (a scalar, or by member) where there is none."""
        array = np.asarray(array)
        if self.full:
            return array
        array = processes.gather(array)
        rest = np.asarray(rest)
        kind = np.result_type(array, np.float32) if rest.dtype.kind == "f" and np.isnan(rest).any() else array.dtype
        out = np.empty((self.total, *array.shape[1:]), kind)
        out[...] = rest
        held = self.member_ids != EMPTY
        out[self.member_ids[held]] = array[held]
        return out


def by_member(placement: Placement | None, array: Any, rest: Any = np.nan) -> np.ndarray:
    """`Placement.by_member`; without members the array as it is."""
    return np.asarray(array) if placement is None else placement.by_member(array, rest)
