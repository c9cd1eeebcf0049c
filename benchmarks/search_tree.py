"""Point location by a binary search tree over hyperplanes, in C: the best that explicit MPC is known to do in one state.

After Tondel, Johansen and Bemporad 2003, "Evaluation of piecewise affine control via binary search tree", Automatica 39; which
regions lie on which side of a hyperplane is told by their corners, so it is for few parameters. `benchmarks/yann.py` uses it.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial import HalfspaceIntersection

from rlx.export import measure
from rlx.planning import laws, mpqp

TREE = """\
#include <stdint.h>
static inline float one(const float *z, const float *row, const float *bound, const int32_t *next, const int32_t *leaf,
                        const float *area, const float *edge, const float *K)
{
    int32_t node = 0;
    while (node >= 0) {
        float room = bound[node];
        for (int k = 0; k < N; k++) room -= row[N * node + k] * z[k];
        node = next[2 * node + (room < 0)];
    }
    const int32_t *list = leaf + LEAF * ~node;
    int32_t best = list[0];
    for (int i = 0; i < LEAF && list[1] >= 0 && list[i] >= 0; i++) {
        float least = 1e30f;
        for (int j = 0; j < Q; j++) {
            float room = edge[Q * list[i] + j];
            for (int k = 0; k < N; k++) room -= area[N * (Q * list[i] + j) + k] * z[k];
            least = room < least ? room : least;
        }
        if (least >= -1e-6f) { best = list[i]; break; }
    }
    float u = K[(N + 1) * best + N];
    for (int k = 0; k < N; k++) u += K[(N + 1) * best + k] * z[k];
    return u;
}
void many(int n, const float *z, float *u, const float *row, const float *bound, const int32_t *next, const int32_t *leaf,
          const float *area, const float *edge, const float *K)
{
    for (int i = 0; i < n; i++) u[i] = one(z + N * i, row, bound, next, leaf, area, edge, K);
}
"""


def sides(regions: mpqp.Regions) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Hyperplanes [h, nz], [h], and which regions [h, p] reach their lower and their upper side, from the regions' corners."""
    rows, bounds, _ = laws.compress(regions)
    rows, bounds = rows[:-1], bounds[:-1]
    low, high = (np.zeros((len(rows), len(regions.K)), bool) for _ in range(2))
    for i, (A, b, centre) in enumerate(zip(regions.A, regions.b, regions.centre, strict=True)):
        on = np.isfinite(b)
        scaled = np.concatenate([A[on] * regions.scale, -b[on, None]], 1)
        corners = HalfspaceIntersection(scaled, centre / regions.scale).intersections * regions.scale
        room = bounds[:, None] - rows @ corners.T
        low[:, i], high[:, i] = (room > 1e-6).any(1), (room < -1e-6).any(1)
    return rows, bounds, low, high


def build(regions: mpqp.Regions) -> tuple[list[np.ndarray], int]:
    """Tables of the search tree, and the depth: each node splits its regions by the hyperplane that leaves fewest in the larger
    part, until one law is left, or until no hyperplane tells them apart."""
    rows, bounds, low, high = sides(regions)
    law = np.round(np.concatenate([regions.K[:, 0], regions.r[:, :1]], 1), 9)
    nodes: list[tuple[int, list[int]]] = []
    leaves: list[np.ndarray] = []
    todo, depth = [(np.arange(len(law)), -1, 0, 0)], 0
    while todo:
        some, parent, side, level = todo.pop()
        parts = np.stack([low[:, some].sum(1), high[:, some].sum(1)])
        cut = int(np.lexsort((parts.sum(0), parts.max(0)))[0])
        if (law[some] == law[some[0]]).all() or parts[:, cut].max() >= len(some):
            here = ~len(leaves)
            leaves.append(some[:1] if (law[some] == law[some[0]]).all() else some)
        else:
            here = len(nodes)
            nodes.append((cut, [0, 0]))
            todo += [(some[half[cut, some]], here, k, level + 1) for k, half in enumerate((low, high))]
        if parent >= 0:
            nodes[parent][1][side] = here
        depth = max(depth, level)
    cuts = [cut for cut, _ in nodes]
    leaf = np.full((len(leaves), max(2, *map(len, leaves))), -1)
    for i, some in enumerate(leaves):
        leaf[i, : len(some)] = some
    floats = [rows[cuts], bounds[cuts], regions.A, np.where(np.isfinite(regions.b), regions.b, 1e30)]
    K = np.concatenate([regions.K[:, 0], regions.r[:, :1]], 1)
    row, bound, area, edge, gains = (np.ascontiguousarray(x, np.float32) for x in (*floats, K))
    index = [np.ascontiguousarray(x, np.int32) for x in (np.array([n for _, n in nodes]), leaf)]
    return [row, bound, *index, area, edge, gains], depth


def compiled(regions: mpqp.Regions, folder: Path) -> tuple[Callable[[np.ndarray], np.ndarray], dict[str, Any]]:
    begun = time.perf_counter()
    tables, depth = build(regions)
    made = {"tree_build_s": time.perf_counter() - begun, "tree_depth": depth, "tree_leaves": len(tables[3])}
    sizes = {"N": regions.A.shape[2], "Q": regions.A.shape[1], "LEAF": tables[3].shape[1]}
    (folder / "tree.c").write_text(TREE)
    flags = ["-std=c99", "-O3", "-march=native", "-shared", "-fPIC", *(f"-D{k}={v}" for k, v in sizes.items())]
    library = folder / f"tree{len(regions.K)}.so"
    measure.compile_c(measure.compiler_of(None), [*flags, "tree.c", "-o", library.name], folder)
    many = ctypes.CDLL(str(library)).many
    pointer = lambda x: x.ctypes.data_as(ctypes.c_void_p)

    def call(z: np.ndarray) -> np.ndarray:
        u = np.zeros(len(z), np.float32)
        many(len(z), pointer(z), pointer(u), *map(pointer, tables))
        return u

    return call, made
