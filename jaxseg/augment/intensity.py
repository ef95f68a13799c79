"""Intensity augmentation: each transform changes one sample's image, (key, image [*S, C]) -> image, and not the mask.

U(a) means a number drawn uniformly from the range a = (low, high), or a itself if a is a number. `balanced` ranges with
low < 1 < high are drawn as in nnU-Net: from (low, 1) or (1, high) with equal probability, whatever their widths.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxseg.augment import white
from jaxseg.augment.spatial import LETTERS, along_axes, as_range, gaussian_matrix, uniform
from jaxseg.types import Array, ConfigError

_GREY = (0.299, 0.587, 0.114)  # weights of red, green and blue (ITU-R BT.601)


def _factor(key: Array, bounds: tuple[float, float], balanced: bool, shape=()) -> Array:
    low, high = bounds
    if not balanced or not low < 1 < high:
        return uniform(key, bounds, shape)
    side, value = jax.random.split(key)
    below = jax.random.bernoulli(side, 0.5, shape)
    return jax.random.uniform(value, shape, jnp.float32, jnp.where(below, low, 1.0), jnp.where(below, 1.0, high))


def _probability(what: str, value: float) -> None:
    if not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ConfigError(f"{what}={value!r}: must lie in 0..1")


def _space(image: Array) -> tuple[int, ...]:
    return tuple(range(image.ndim - 1))


def _grey(image: Array) -> Array:
    """Luminance [*S] of an image with 3 channels, or the only channel."""
    return (image * jnp.asarray(_GREY)).sum(-1) if image.shape[-1] == 3 else image[..., 0]


@dataclasses.dataclass(frozen=True)
class Noise:
    """Add Gaussian noise of standard deviation U(sigma), the same for all channels. nnU-Net: (0, 0.1) on z-scores."""

    sigma: tuple | float = (0.0, 0.1)

    def __post_init__(self):
        if as_range("noise sigma", self.sigma)[0] < 0:
            raise ConfigError(f"noise sigma={self.sigma!r}: must not be negative")

    def __call__(self, key: Array, image: Array) -> Array:
        size, noise = jax.random.split(key)
        return image + uniform(size, as_range("sigma", self.sigma)) * white.normal(noise, image.shape)


@dataclasses.dataclass(frozen=True)
class Blur:
    """Gaussian blur with standard deviation U(sigma) pixels for every channel and axis; channels with probability per_channel.

    The filter is that of scipy.ndimage.gaussian_filter (cut off at 4 sigma, reflecting borders). nnU-Net: (0.5, 1),
    per_channel 0.5.
    """

    sigma: tuple | float = (0.5, 1.0)
    per_channel: float = 1.0

    def __post_init__(self):
        as_range("blur sigma", self.sigma, positive=True)
        _probability("blur per_channel", self.per_channel)

    def __call__(self, key: Array, image: Array) -> Array:
        channels, axes = image.shape[-1], len(_space(image))
        size, chosen = jax.random.split(key)
        sigma = uniform(size, as_range("sigma", self.sigma), (axes, channels))
        matrices = [jax.vmap(lambda s, n=n: gaussian_matrix(n, s))(sigma[i]) for i, n in enumerate(image.shape[:-1])]
        return jnp.where(jax.random.bernoulli(chosen, self.per_channel, (channels,)), along_axes(image, matrices), image)


@dataclasses.dataclass(frozen=True)
class Brightness:
    """Multiply each channel by its own factor. nnU-Net: (0.75, 1.25), balanced."""

    factor: tuple | float = (0.75, 1.25)
    balanced: bool = True

    def __post_init__(self):
        as_range("brightness factor", self.factor, positive=True)

    def __call__(self, key: Array, image: Array) -> Array:
        return image * _factor(key, as_range("factor", self.factor), self.balanced, (image.shape[-1],))


@dataclasses.dataclass(frozen=True)
class Contrast:
    """mean + factor (image - mean) per channel, clipped to the channel's original range. nnU-Net: (0.75, 1.25), balanced."""

    factor: tuple | float = (0.75, 1.25)
    balanced: bool = True
    preserve_range: bool = True

    def __post_init__(self):
        as_range("contrast factor", self.factor, positive=True)

    def __call__(self, key: Array, image: Array) -> Array:
        factor = _factor(key, as_range("factor", self.factor), self.balanced, (image.shape[-1],))
        mean = image.mean(_space(image))
        new = mean + factor * (image - mean)
        return jnp.clip(new, image.min(_space(image)), image.max(_space(image))) if self.preserve_range else new


@dataclasses.dataclass(frozen=True)
class Shift:
    """image * (1 + scale * N) + shift * N', with one normal N and one N' for all channels (BraTS recipe: 0.1 and 0.05)."""

    scale: float = 0.1
    shift: float = 0.05

    def __post_init__(self):
        if not (isinstance(self.scale, (int, float)) and isinstance(self.shift, (int, float))) or min(self.scale, self.shift) < 0:
            raise ConfigError(f"intensity scale={self.scale!r}, shift={self.shift!r}: must be numbers, not negative")

    def __call__(self, key: Array, image: Array) -> Array:
        a, b = jax.random.normal(key, (2,), jnp.float32)
        return image * (1 + self.scale * a) + self.shift * b


@dataclasses.dataclass(frozen=True)
class Gamma:
    """x^g per channel, where the channel's range is mapped to 0..1 and back. nnU-Net: (0.7, 1.5), balanced.

    Args:
      gamma: range of g.
      invert: apply it to the negated image, so that dark and bright are exchanged.
      keep_statistics: restore the channel's mean and standard deviation afterwards.
      balanced: see the docstring of the module.
    """

    gamma: tuple | float = (0.7, 1.5)
    invert: bool = False
    keep_statistics: bool = True
    balanced: bool = True

    def __post_init__(self):
        as_range("gamma", self.gamma, positive=True)

    def __call__(self, key: Array, image: Array) -> Array:
        x, space = -image if self.invert else image, _space(image)
        g = _factor(key, as_range("gamma", self.gamma), self.balanced, (image.shape[-1],))
        low, span = x.min(space), jnp.maximum(x.max(space) - x.min(space), 1e-7)
        new = jnp.clip((x - low) / span, 0.0, 1.0) ** g * span + low
        if self.keep_statistics:
            new = (new - new.mean(space)) / jnp.maximum(new.std(space), 1e-7) * x.std(space) + x.mean(space)
        return -new if self.invert else new


@dataclasses.dataclass(frozen=True)
class SignedGamma:
    """sign(x) |x|^g with one g for all channels: for z-scores (BraTS recipe: 0.7..1.3)."""

    gamma: tuple | float = (0.7, 1.3)

    def __post_init__(self):
        as_range("gamma_signed gamma", self.gamma, positive=True)

    def __call__(self, key: Array, image: Array) -> Array:
        return jnp.sign(image) * jnp.abs(image) ** uniform(key, as_range("gamma", self.gamma))


@dataclasses.dataclass(frozen=True)
class LowResolution:
    """Simulate low resolution: downsample to factor * size (nearest), upsample (linear). nnU-Net: (0.5, 1), per_channel 0.5.

    Along an axis of length n the coarse grid has m = round(factor * n) cells; its cell k holds pixel
    floor((k + 1/2) n / m), and pixel i reads it linearly at (i + 1/2) m / n - 1/2 (PyTorch's nearest-exact and linear).
    Both steps are one matrix per axis. `axes` are the letters of the axes that become coarse; () for all.
    """

    factor: tuple | float = (0.5, 1.0)
    per_channel: float = 1.0
    axes: tuple = ()

    def __post_init__(self):
        if as_range("lowres factor", self.factor, positive=True)[1] > 1:
            raise ConfigError(f"lowres factor={self.factor!r}: must not exceed 1")
        _probability("lowres per_channel", self.per_channel)

    def __call__(self, key: Array, image: Array) -> Array:
        channels = image.shape[-1]
        size, chosen = jax.random.split(key)
        factor = uniform(size, as_range("factor", self.factor), (channels,))
        letters = LETTERS[image.ndim - 1]
        if set(self.axes) - set(letters):
            raise ConfigError(f"lowres axes={self.axes!r}: must be some of {', '.join(letters)} at rank {image.ndim - 1}")
        whole = lambda letter: bool(self.axes) and letter not in self.axes
        matrices = [
            jax.vmap(lambda f, n=n, f0=whole(letter): _coarse_matrix(n, jnp.ones_like(f) if f0 else f))(factor)
            for letter, n in zip(letters, image.shape[:-1])
        ]
        return jnp.where(jax.random.bernoulli(chosen, self.per_channel, (channels,)), along_axes(image, matrices), image)


def _coarse_matrix(n: int, factor: Array) -> Array:
    """The matrix [n, n] of nearest downsampling to round(factor * n) cells and linear upsampling."""
    m = jnp.clip(jnp.round(factor * n), 1.0, n)
    at = jnp.clip((jnp.arange(n) + 0.5) * m / n - 0.5, 0.0, m - 1)
    low = jnp.floor(at)
    pixel = lambda k: jnp.floor((jnp.minimum(k, m - 1) + 0.5) * n / m + 1e-4)[:, None]  # 1e-4: float32 just below a whole number
    j = jnp.arange(n)
    return jnp.where(j == pixel(low), (1 - (at - low))[:, None], 0.0) + jnp.where(j == pixel(low + 1), (at - low)[:, None], 0.0)


@dataclasses.dataclass(frozen=True)
class Equalize:
    """Histogram equalisation of the image quantised to 0..255, as OpenCV's equalizeHist; for images in 0..1.

    Grey value v becomes round(255 (c(v) - c(v0)) / (N - c(v0))) with c the cumulative count and v0 the darkest value
    present; a constant image is not changed. Three channels are converted to grey first, and all get the result.
    """

    def __call__(self, key: Array, image: Array) -> Array:
        if image.shape[-1] not in (1, 3):
            raise ConfigError(f"equalize on {image.shape[-1]} channels: must be 1 or 3; remove it from train.augment")
        level = jnp.clip(jnp.round(_grey(image) * 255), 0, 255).astype(jnp.int32)
        counts = jnp.zeros(256, jnp.int32).at[level.reshape(-1)].add(1)  # whole numbers: the same in any order
        total, first = jnp.cumsum(counts), counts[level.min()]
        table = jnp.round((total - first) * (255.0 / jnp.maximum(level.size - first, 1)))
        table = jnp.where(first == level.size, jnp.arange(256.0), jnp.clip(table, 0, 255)) / 255
        return jnp.broadcast_to(table[level][..., None], image.shape)


@dataclasses.dataclass(frozen=True)
class ColourJitter:
    """Change brightness, contrast, saturation and hue in a random order, for images in 0..1; results are clipped to 0..1.

    Brightness b: b x. Contrast c: c x + (1 - c) mean(grey). Saturation s: s x + (1 - s) grey. Hue h: the HSV angle changes by
    h turns. A number v means the range (max(0, 1 - v), 1 + v), for the hue (-v, v). Saturation and hue need 3 channels.
    Source: torchvision and albumentations 1.3.1 ColorJitter; differs from the latter in not rounding to bytes.
    """

    brightness: tuple | float = 0.0
    contrast: tuple | float = 0.0
    saturation: tuple | float = 0.0
    hue: tuple | float = 0.0

    def __post_init__(self):
        self._ranges()

    def _ranges(self) -> dict[str, tuple[float, float]]:
        """Ranges of the operations that have an effect."""
        out = {}
        for name in ("brightness", "contrast", "saturation"):
            value = getattr(self, name)
            pair = (max(0.0, 1 - value), 1 + value) if isinstance(value, (int, float)) and value >= 0 else value
            out[name] = as_range(f"colour_jitter {name}", pair)
            if out[name][0] < 0:
                raise ConfigError(f"colour_jitter {name}={value!r}: must not be negative")
        out["hue"] = as_range("colour_jitter hue", self.hue, symmetric=True)
        if max(map(abs, out["hue"])) > 0.5:
            raise ConfigError(f"colour_jitter hue={self.hue!r}: must lie in -0.5..0.5 turns")
        return {n: r for n, r in out.items() if r != ((0.0, 0.0) if n == "hue" else (1.0, 1.0))}

    def __call__(self, key: Array, image: Array) -> Array:
        ranges, channels = self._ranges(), image.shape[-1]
        if channels != 3 and (channels != 1 or {"saturation", "hue"} & ranges.keys()):
            raise ConfigError(
                f"colour_jitter of {', '.join(ranges)} on {channels} channels: needs 3 channels; for 1 channel set "
                "saturation and hue to 0, for others use brightness and contrast"
            )
        if not ranges:
            return image
        order, *keys = jax.random.split(key, 1 + len(ranges))
        amounts = [uniform(k, r) for k, r in zip(keys, ranges.values())]
        blend = lambda x, y, a: jnp.clip(a * x + (1 - a) * y, 0.0, 1.0)
        operations = {
            "brightness": lambda x, a: blend(x, 0.0, a),
            "contrast": lambda x, a: blend(x, _grey(x).mean(), a),
            "saturation": lambda x, a: blend(x, _grey(x)[..., None], a),
            "hue": turn_hue,
        }

        def apply(x: Array, number: Array):
            return jax.lax.select_n(number, *(operations[n](x, a) for n, a in zip(ranges, amounts))), None

        return jax.lax.scan(apply, image, jax.random.permutation(order, len(ranges)))[0]


def turn_hue(image: Array, turns: Array) -> Array:
    """Shift the HSV hue of an image [..., 3] in 0..1 by `turns` (fractions of the full circle)."""
    r, g, b = image[..., 0], image[..., 1], image[..., 2]
    high, low = image.max(-1), image.min(-1)
    span = high - low
    safe = jnp.where(span > 0, span, 1.0)
    hue = jnp.where(high == r, (g - b) / safe, jnp.where(high == g, 2 + (b - r) / safe, 4 + (r - g) / safe)) / 6 + turns
    sector = lambda n: high - span * jnp.clip(jnp.minimum((n + 6 * hue) % 6, 4 - (n + 6 * hue) % 6), 0.0, 1.0)
    return jnp.stack([sector(5.0), sector(3.0), sector(1.0)], -1)
