"""Surface of a mask as small elements at voxel corners, with their lengths in mm (2-D) or areas in mm^2 (3-D).

Every corner where 2 x 2 (x 2) voxels meet has a code with one bit per voxel. The surface element of a code is that of marching
cubes, through the midpoints between voxels inside and outside. On an ambiguous face the corners of the rarer kind are cut off
separately; a polygon that is not flat is divided into the triangles with the largest area at unit spacing. With these two rules
the 256 areas equal those of google-deepmind/surface-distance at every spacing.
"""

import functools
import itertools

import numpy as np

from jaxseg.types import Spacing

_AXES = {2: list(itertools.product((0, 1), repeat=2)), 3: list(itertools.product((0, 1), repeat=3))}  # voxels of a code, by bit


def elements(mask: np.ndarray, spacing: Spacing) -> tuple[np.ndarray, np.ndarray]:
    """Positions (mm) [N, rank] of the surface elements of a boolean mask, and their measures [N] (mm, or mm^2 in 3-D)."""
    rank = mask.ndim
    padded = np.pad(mask, 1)
    codes = np.zeros([n + 1 for n in mask.shape], np.uint8)
    for bit, corner in enumerate(_AXES[rank]):
        codes |= padded[tuple(slice(c, c + n) for c, n in zip(corner, codes.shape))].astype(np.uint8) << bit
    where = np.argwhere((codes > 0) & (codes < 2**2**rank - 1))
    return where * np.asarray(spacing, float), measures(tuple(map(float, spacing)))[codes[tuple(where.T)]]


@functools.lru_cache(maxsize=64)
def measures(spacing: Spacing) -> np.ndarray:
    """Length or area of the element of every code: [16] for two spacings, [256] for three."""
    rank = len(spacing)
    table = np.zeros(2**2**rank)
    for code in range(1, len(table) - 1):
        inside = {corner: bool(code >> bit & 1) for bit, corner in enumerate(_AXES[rank])}
        if rank == 2:
            table[code] = sum(np.linalg.norm((_middle(a) - _middle(b)) * spacing) for a, b in _segments(inside, _AXES[2], True))
        else:
            for loop in _loops(inside):
                points = np.array([_middle(edge) for edge in loop])
                table[code] += sum(_area(points[list(t)] * spacing) for t in _triangles(points))
    return table


def _segments(inside: dict, corners: list, cut_true: bool) -> list[tuple]:
    """Lines in which the surface crosses one face, as pairs of cut edges. `corners`: the face's four, lexicographic."""
    ring = [corners[0], corners[1], corners[3], corners[2]]
    edges = [tuple(sorted((ring[i], ring[(i + 1) % 4]))) for i in range(4)]
    cut = [i for i in range(4) if inside[edges[i][0]] != inside[edges[i][1]]]
    if len(cut) == 4:  # ambiguous: cut off the two corners of one kind
        return [(edges[i - 1], edges[i]) for i in range(4) if inside[ring[i]] == cut_true]
    return [tuple(edges[i] for i in cut)] if cut else []


def _loops(inside: dict) -> list[list]:
    """The closed polygons through the cut edges of a 2 x 2 x 2 cell."""
    rarer = sum(inside.values()) <= 4
    next_to: dict = {}
    for axis, side in itertools.product(range(3), (0, 1)):
        for a, b in _segments(inside, [c for c in _AXES[3] if c[axis] == side], rarer):
            next_to.setdefault(a, []).append(b)
            next_to.setdefault(b, []).append(a)
    loops, seen = [], set()
    for start in next_to:
        loop, edge = [], start
        while edge is not None and edge not in seen:
            seen.add(edge)
            loop.append(edge)
            edge = next((e for e in next_to[edge] if e not in seen), None)
        if loop:
            loops.append(loop)
    return loops


def _triangles(points: np.ndarray) -> tuple[tuple[int, int, int], ...]:
    """The triangulation of a polygon [N, 3] with the largest area."""

    @functools.cache
    def best(i: int, j: int) -> tuple[float, tuple]:
        options = [
            (best(i, k)[0] + best(k, j)[0] + _area(points[[i, k, j]]), best(i, k)[1] + best(k, j)[1] + ((i, k, j),))
            for k in range(i + 1, j)
        ]
        return max(options, key=lambda option: option[0], default=(0.0, ()))

    return best(0, len(points) - 1)[1]


def _middle(edge: tuple) -> np.ndarray:
    return np.add(*edge) / 2


def _area(triangle: np.ndarray) -> float:
    return 0.5 * float(np.linalg.norm(np.cross(triangle[1] - triangle[0], triangle[2] - triangle[0])))
