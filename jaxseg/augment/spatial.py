"""Geometric augmentation: each transform maps output to input positions; consecutive transforms need only one resampling.

Positions are in pixels (voxels) relative to the image's centre, (n - 1) / 2 along each axis, so that a flip, or a rotation of a
square by 90 degrees, is exact. A transform's `pull(key, size)` returns one sample's map as (matrix [r, r], offset [r]):
input position = matrix @ output position + offset, with r the rank. Axes are named by letter: h, w and, at rank 3, d.

Signs, for an image with row 0 on top: positive degrees rotate the content counter-clockwise (the right edge moves to the top);
a factor above 1 enlarges; a positive translation moves the content right, down, and to higher d; a positive shear moves content
below the centre to the right.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxseg.augment import white
from jaxseg.types import Array, ConfigError

LETTERS = {2: "hw", 3: "dhw"}  # names of the spatial axes by rank


def as_range(what: str, value, *, symmetric: bool = False, positive: bool = False) -> tuple[float, float]:
    """Convert a pair or a number v to (low, high): v becomes (-v, v) if `symmetric`, else the constant (v, v).

    Raises:
      ConfigError: the value is neither a number nor an increasing pair of finite numbers, or is not positive if `positive`.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    pair = ((-value, value) if symmetric else (value, value)) if number else value
    if (
        not isinstance(pair, Sequence)
        or isinstance(pair, str)
        or len(pair) != 2
        or not all(isinstance(v, (int, float)) and math.isfinite(v) for v in pair)
        or pair[0] > pair[1]
    ):
        raise ConfigError(f"{what}={value!r}: must be a number or (low, high) with low <= high")
    if positive and pair[0] <= 0:
        raise ConfigError(f"{what}={value!r}: must be above 0")
    return float(pair[0]), float(pair[1])


def uniform(key: Array, bounds: tuple[float, float], shape=()) -> Array:
    """Float32 numbers drawn uniformly from (low, high), or the constant if both are equal."""
    if bounds[0] == bounds[1]:
        return jnp.full(shape, bounds[0], jnp.float32)
    return jax.random.uniform(key, shape, jnp.float32, *bounds)


def _rotation(radians: Array, first: int, second: int, rank: int) -> Array:
    """Pull matrix [r, r] of a counter-clockwise rotation in the plane (first, second) = (down, right)."""
    c, s = jnp.cos(radians), jnp.sin(radians)
    m = jnp.eye(rank, dtype=jnp.float32)
    return m.at[first, first].set(c).at[first, second].set(s).at[second, first].set(-s).at[second, second].set(c)


def _axis(letter: str, rank: int, what: str) -> int:
    if letter not in tuple(LETTERS[rank]):
        raise ConfigError(f"{what}: no axis {letter!r} at rank {rank}; axes are {', '.join(LETTERS[rank])}")
    return LETTERS[rank].index(letter)


@dataclasses.dataclass(frozen=True)
class Flip:
    """Reverse one axis. `swap`: pairs of labels that are exchanged by the flip, such as ((1, 2),) for left and right."""

    axis: str
    rank: int
    swap: tuple = ()

    def __post_init__(self):
        _axis(self.axis, self.rank, "flip")
        if not all(isinstance(p, Sequence) and len(p) == 2 and all(isinstance(v, int) for v in p) for p in self.swap):
            raise ConfigError(f"swap={self.swap!r}: must be pairs of labels such as ((1, 2),)")
        labels = [label for pair in self.swap for label in pair]
        if len(set(labels)) != len(labels):
            raise ConfigError(f"swap={self.swap!r}: a label may occur in only one pair")

    def pull(self, key: Array, size: tuple[int, ...]):
        i = _axis(self.axis, self.rank, "flip")
        return jnp.eye(self.rank).at[i, i].set(-1.0), jnp.zeros(self.rank)


@dataclasses.dataclass(frozen=True)
class Mirror:
    """Reverse each of `axes` (letters; all when empty) with the transform's probability, independently."""

    rank: int
    axes: tuple = ()
    swap: tuple = ()  # label pairs that are exchanged when `side` is reversed
    side: str = "w"  # the axis from left to right

    def __post_init__(self):
        self.flips()

    def flips(self) -> list[Flip]:
        """One Flip per axis."""
        if len(set(self.axes)) != len(self.axes):
            raise ConfigError(f"mirror axes={self.axes!r}: must name each axis once")
        _axis(self.side, self.rank, "mirror side")
        return [Flip(a, self.rank, self.swap if a == self.side else ()) for a in self.axes or LETTERS[self.rank]]


@dataclasses.dataclass(frozen=True)
class Rotate:
    """Rotate about the centre by U(degrees); a number d means (-d, d).

    At rank 3 an angle is drawn for each axis of rotation in `axes` (all three if empty). Angles are measured on the voxel
    grid; for anisotropic voxels rotate only in the plane of the slices, axes=("d",).
    """

    rank: int
    degrees: tuple = (-45.0, 45.0)
    axes: tuple = ()

    def __post_init__(self):
        as_range("rotate degrees", self.degrees, symmetric=True)
        for letter in self.axes:
            _axis(letter, 3, "rotate axes")
        if self.rank == 2 and self.axes:
            raise ConfigError(f"rotate axes={self.axes!r}: at rank 2 there is only one plane of rotation; leave axes out")

    def pull(self, key: Array, size: tuple[int, ...]):
        about = ("d",) if self.rank == 2 else tuple(self.axes) or tuple("dhw")
        angles = uniform(key, as_range("degrees", self.degrees, symmetric=True), (len(about),)) * (math.pi / 180)
        matrix = jnp.eye(self.rank)
        for letter, angle in zip(about, angles):
            first, second = (i - (3 - self.rank) for i in range(3) if i != "dhw".index(letter))
            matrix = _product(matrix, _rotation(angle, first, second, self.rank))
        return matrix, jnp.zeros(self.rank)


@dataclasses.dataclass(frozen=True)
class Scale:
    """Enlarge about the centre by U(factor), the same for all axes unless `per_axis`; only along `axes` (letters; () for all)."""

    rank: int
    factor: tuple = (0.8, 1.2)
    per_axis: bool = False
    axes: tuple = ()

    def __post_init__(self):
        as_range("scale factor", self.factor, positive=True)

    def pull(self, key: Array, size: tuple[int, ...]):
        factor = uniform(key, as_range("factor", self.factor), (self.rank if self.per_axis else 1,))
        axes = [_axis(letter, self.rank, "scale axes") for letter in self.axes or LETTERS[self.rank]]
        scaled = jnp.array([i in axes for i in range(self.rank)])
        return jnp.eye(self.rank) / jnp.where(scaled, factor, 1.0), jnp.zeros(self.rank)


@dataclasses.dataclass(frozen=True)
class Translate:
    """Move along each axis by U(fraction) of its length; a number f means (-f, f)."""

    rank: int
    fraction: tuple | float = 0.2

    def __post_init__(self):
        as_range("translate fraction", self.fraction, symmetric=True)

    def pull(self, key: Array, size: tuple[int, ...]):
        part = uniform(key, as_range("fraction", self.fraction, symmetric=True), (self.rank,))
        return jnp.eye(self.rank), -part * jnp.asarray(size, jnp.float32)


@dataclasses.dataclass(frozen=True)
class Shear:
    """Shift along axis `move` by k pixels for every pixel of axis `along`; k = U(factor), or tan U(degrees).

    A number v means (-v, v). Give either `degrees` or `factor`; the default is degrees=(-30, 30).
    """

    rank: int
    degrees: tuple | float | None = None
    factor: tuple | float | None = None
    move: str = "w"
    along: str = "h"

    def __post_init__(self):
        if self.degrees is not None and self.factor is not None:
            raise ConfigError(f"shear degrees={self.degrees!r} and factor={self.factor!r}: give only one of them")
        low, high = self._range()
        if self.factor is None and max(-low, high) >= 90:
            raise ConfigError(f"shear degrees={self.degrees!r}: must lie strictly between -90 and 90")
        if _axis(self.move, self.rank, "shear move") == _axis(self.along, self.rank, "shear along"):
            raise ConfigError(f"shear move={self.move!r}, along={self.along!r}: must be two axes")

    def _range(self) -> tuple[float, float]:
        value = self.factor if self.factor is not None else (-30.0, 30.0) if self.degrees is None else self.degrees
        return as_range("shear factor" if self.factor is not None else "shear degrees", value, symmetric=True)

    def pull(self, key: Array, size: tuple[int, ...]):
        k = uniform(key, self._range())
        k = jnp.tan(k * (math.pi / 180)) if self.factor is None else k
        i, j = _axis(self.move, self.rank, "move"), _axis(self.along, self.rank, "along")
        return jnp.eye(self.rank).at[i, j].set(-k), jnp.zeros(self.rank)


@dataclasses.dataclass(frozen=True)
class Affine:
    """Scale, rotate, then translate, as albumentations 1.3.1's Affine does: numbers are constants, not ranges. Rank 2 only.

    EffiSegNet uses `degrees=90, translate=0.125, scale=(0.5, 1.5), per_axis=True`: every transformed sample is rotated by
    exactly 90 degrees and moved by exactly an eighth of its size right and down. Differs from EffiSegNet in linear
    interpolation instead of Lanczos.
    """

    rank: int
    degrees: tuple | float = 0.0
    translate: tuple | float = 0.0
    scale: tuple | float = 1.0
    per_axis: bool = False

    def __post_init__(self):
        if self.rank != 2:
            raise ConfigError(f"affine at rank {self.rank}: must be rank 2; use rotate, scale and translate instead")
        as_range("affine degrees", self.degrees)
        as_range("affine translate", self.translate)
        as_range("affine scale", self.scale, positive=True)

    def pull(self, key: Array, size: tuple[int, ...]):
        turn, move, grow = jax.random.split(key, 3)
        angle = uniform(turn, as_range("degrees", self.degrees)) * (math.pi / 180)
        offset = uniform(move, as_range("translate", self.translate), (2,)) * jnp.asarray(size, jnp.float32)
        factor = uniform(grow, as_range("scale", self.scale), (2 if self.per_axis else 1,))
        matrix = _product(jnp.eye(2) / factor, _rotation(angle, 0, 1, 2))  # undo the rotation, then the scaling
        return matrix, -_apply(matrix, offset)


@dataclasses.dataclass(frozen=True)
class Elastic:
    """Elastic deformation: the displacement is white noise U(-1, 1) per pixel and axis, Gaussian-filtered, times alpha.

    Args:
      alpha: pixels; the displacement's standard deviation in the plane is about 0.16 * alpha / sigma.
      sigma: standard deviation of the Gaussian in pixels (cut off at 4 sigma, reflecting borders, as
        scipy.ndimage.gaussian_filter).
      alpha_affine: pixels by which three points near the centre are moved at random, for an affine map that is applied first
        (rank 2 only). The default of albumentations 1.3.1 is 50, far more than the effect of its alpha=1, sigma=50.
      border: "reflect" (about the centre of the edge pixel) or "constant".
    """

    rank: int
    alpha: float = 1.0
    sigma: float = 50.0
    alpha_affine: float = 0.0
    border: str = "reflect"

    def __post_init__(self):
        if self.border not in ("reflect", "constant"):
            raise ConfigError(f"elastic border={self.border!r}: must be 'reflect' or 'constant'")
        if (
            not all(isinstance(v, (int, float)) for v in (self.alpha, self.sigma, self.alpha_affine))
            or not self.sigma > 0
            or self.alpha < 0
            or self.alpha_affine < 0
        ):
            raise ConfigError(
                f"elastic alpha={self.alpha}, sigma={self.sigma}, alpha_affine={self.alpha_affine}: sigma must "
                "be a number above 0, the others not negative"
            )
        if self.alpha_affine and self.rank != 2:
            raise ConfigError(f"elastic alpha_affine={self.alpha_affine} at rank {self.rank}: needs rank 2; set it to 0")

    def pull(self, key: Array, size: tuple[int, ...]):
        if not self.alpha_affine:
            return jnp.eye(self.rank), jnp.zeros(self.rank)
        s = float(min(size) // 3)  # points (s, s), (s, -s), (-s, -s) go to q0, q1, q2
        moved = uniform(jax.random.fold_in(key, 1), (-self.alpha_affine, self.alpha_affine), (3, 2))
        q = jnp.asarray([[s, s], [s, -s], [-s, -s]]) + moved
        forward = jnp.stack([q[1] - q[2], q[0] - q[1]], axis=1) / (2 * s)
        (a, b), (c, d) = forward
        matrix = jnp.stack([jnp.stack([d, -b]), jnp.stack([-c, a])]) / (a * d - b * c)
        return matrix, -_apply(matrix, (q[0] + q[2]) / 2)  # the centre is the midpoint of the first and the third point

    def displacement(self, key: Array, size: tuple[int, ...]) -> Array:
        """Displacement field [*S, r] of one sample in pixels, which is added to the positions before resampling."""
        noise = white.uniform(jax.random.fold_in(key, 0), (*size, self.rank))
        return self.alpha * along_axes(noise, [gaussian_matrix(n, jnp.float32(self.sigma)) for n in size])


def gaussian_matrix(n: int, sigma: Array) -> Array:
    """Matrix [n, n] of a Gaussian filter along an axis of length n; equals scipy.ndimage.gaussian_filter1d, mode "reflect".

    w(d) = exp(-d^2 / (2 sigma^2)) for |d| <= floor(4 sigma + 0.5); rows sum to 1, and positions outside are reflected (exact
    while 4 sigma <= 2 n). As a matrix product, one compiled program works for every sigma that is drawn on the device.
    """
    i, j = jnp.arange(n)[:, None], jnp.arange(n)[None, :]
    radius = jnp.floor(4 * sigma + 0.5)
    weight = lambda d: jnp.where(jnp.abs(d) <= radius, jnp.exp(-0.5 * (d / sigma) ** 2), 0.0)
    matrix: Array = sum(weight(j - i + 2 * n * k) + weight(j + i + 1 + 2 * n * k) for k in (-1, 0, 1))
    return matrix / matrix.sum(axis=1, keepdims=True)


def along_axes(x: Array, matrices: Sequence[Array]) -> Array:
    """Multiply each spatial axis of x [*S, C] by its matrix, [n, n] for all channels or [C, n, n]."""
    for axis, matrix in enumerate(matrices):
        moved = jnp.moveaxis(x, axis, -2)  # [..., n, C]
        spec = "ij,...jc->...ic" if matrix.ndim == 2 else "cij,...jc->...ic"
        x = jnp.moveaxis(jnp.einsum(spec, matrix, moved, precision="highest"), -2, axis)
    return x


def _product(a: Array, b: Array) -> Array:
    """a @ b for small matrices in full float32 precision (accelerators use less in matrix products)."""
    return (a[..., :, :, None] * b[..., None, :, :]).sum(-2)


def _apply(a: Array, v: Array) -> Array:
    return (a * v[..., None, :]).sum(-1)


def chain(first, second):
    """Combine the maps of two transforms, `first` followed by `second`, into one (matrix, offset)."""
    (a, s), (b, t) = first, second
    return _product(a, b), _apply(a, t) + s


def positions(matrix: Array, offset: Array, size: tuple[int, ...], displacement: Array | None = None) -> list[Array]:
    """Input positions, in pixels from index 0, of every output pixel: one [B, *S] per axis.

    Args:
      matrix, offset: [B, r, r] and [B, r].
      size: S.
      displacement: [B, *S, r] added to the output positions first.
    """
    rank = len(size)
    column = lambda v: v.reshape(-1, *(1,) * rank)
    grids = [
        jnp.expand_dims(jnp.arange(n, dtype=jnp.float32) - (n - 1) / 2, [0, *(1 + i for i in range(rank) if i != j)])
        for j, n in enumerate(size)
    ]
    if displacement is not None:
        grids = [grid + displacement[..., j] for j, grid in enumerate(grids)]
    return [
        sum((column(matrix[:, k, j]) * grids[j] for j in range(rank)), column(offset[:, k] + (size[k] - 1) / 2))
        for k in range(rank)
    ]


def reverse(x: Array, flags: Sequence[Array]) -> Array:
    """Reverse axes of x [B, *S, C] sample by sample; `flags` has one boolean [B] per axis of S.

    All axes are reversed by one gather. Selecting between an axis and its reverse, axis after axis, reads every number 2^r
    times and keeps XLA from vectorising the operations fused with it: with intensity transforms and noise after it that took
    4.5 times as long on a CPU.
    """
    batch, *size, channels = x.shape
    column = lambda line, i: line.reshape(-1, *(n if j == i else 1 for j, n in enumerate(size)))
    lines = [jnp.where(flag[:, None], jnp.arange(n)[::-1], jnp.arange(n)) for flag, n in zip(flags, size)]
    index = _flat([column(line, i) for i, line in enumerate(lines)], size)[..., None] * channels + jnp.arange(channels)
    return jax.vmap(lambda table, i: table.at[i].get(mode="promise_in_bounds"))(x.reshape(batch, -1), index)


def warp(image: Array, mask: Array, where: Sequence[Array], *, border: str = "constant", fill: float = 0.0):
    """Resample an image by linear interpolation and a mask by the nearest pixel (halves round up).

    The image is padded by one pixel of `fill` (label 0) and positions are clipped to it, so that no bounds have to be checked;
    the corners of the interpolation cells are read by 2^r flat gathers.

    Args:
      image, mask: [B, *S, C] and [B, *S].
      where: positions [B, *S] for each axis.
      border: "constant" or "reflect" (about the edge pixel's centre).
      fill: value outside the image.
    Returns:
      image [B, *S, C] and mask [B, *S] at these positions.
    """
    batch, *size, channels = image.shape
    if border == "reflect":
        where = [(n - 1) - jnp.abs(jnp.mod(p, 2 * (n - 1)) - (n - 1)) if n > 1 else p * 0 for p, n in zip(where, size)]
    where = [jnp.clip(p, -1.0, float(n)) + 1 for p, n in zip(where, size)]
    padded = [n + 2 for n in size]
    ring = ((1, 1),) * len(size)
    values = jnp.pad(image, ((0, 0), *ring, (0, 0)), constant_values=fill).reshape(batch, -1, channels)
    labels = jnp.pad(mask, ((0, 0), *ring)).reshape(batch, -1)
    read = jax.vmap(lambda table, index: table.at[index].get(mode="clip"))

    low = [jnp.minimum(jnp.floor(p), n - 2.0) for p, n in zip(where, padded)]
    part = [p - l for p, l in zip(where, low)]
    base = _flat([l.astype(jnp.int32) for l in low], padded)
    out = 0.0
    for corner in itertools.product((0, 1), repeat=len(size)):
        weight = math.prod(p if c else 1 - p for c, p in zip(corner, part))
        out += weight[..., None] * read(values, base + _flat(corner, padded))
    nearest = [jnp.floor(p + 0.5).astype(jnp.int32) for p in where]
    return out, read(labels, _flat(nearest, padded))


def _flat(index: Sequence, size: Sequence[int]):
    """Row-major index into a flattened array."""
    total = 0
    for i, n in zip(index, size):
        total = total * n + i
    return total
