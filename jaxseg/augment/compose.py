"""Combine a list of transforms into one function of (key, image, mask).

Every transform of every sample has its own key, derived from the batch's key, the transform's position in the list and the
sample's position in the batch. A sample therefore depends neither on the other samples (except in CutMix) nor on how the batch
is sharded. Consecutive geometric transforms are merged into one map and one resampling, of which the last may be elastic; flips
alone only reverse axes. Samples to which no transform was applied are unchanged, bit for bit.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxseg.augment import intensity, mix, spatial
from jaxseg.augment import stage as previous
from jaxseg.types import Array, ConfigError
from jaxseg.utils.lookup import check_kind, import_object, is_path, lookup, unknown_name


class Entry(NamedTuple):
    """A transform's class, its kind, and the fields that its name sets."""

    make: Any
    kind: str  # "spatial", "intensity", "mix" or "classes"
    fixed: dict[str, Any] = {}

    def options(self) -> set[str]:
        """Names of the options a user may set."""
        return {f.name for f in dataclasses.fields(self.make)} - set(self.fixed) - {"rank"}


# the method that a transform of each kind defines
METHODS = {"spatial": "pull", "intensity": "__call__", "mix": "__call__", "classes": "__call__"}


def own(given: str | type) -> Entry:
    """The entry of a user's own transform: a dataclass whose fields are its options, with a class attribute `kind`.

    Args:
      given: the class, or its path "module:Class". Its kind determines how it is called inside jit: "intensity": __call__(key,
        image [*S, C]) -> image; "spatial": pull(key, size) -> (matrix, offset), from output to input positions (see
        `augment/spatial.py`); "mix": __call__(keys [B], image [B, *S, C], mask [B, *S]) -> (image, mask), for a whole batch;
        "classes": __call__(key, classes [*S, K]) -> classes, those of a cascade's previous stage.
    Raises:
      ConfigError: there is no such class, or it does not define the method of its kind.
    """
    cls = given if isinstance(given, type) else import_object(given, "augmentation")
    name = given if isinstance(given, str) else cls.__qualname__
    kind = getattr(cls, "kind", None)
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)) or kind not in METHODS or not hasattr(cls, METHODS[kind]):
        raise ConfigError(
            f"augmentation {name!r} must be a dataclass with kind = 'intensity' and __call__(self, key, image), "
            "'spatial' and pull(self, key, size), or 'mix' and __call__(self, keys, image, mask); see docs/plugins.md"
        )
    return Entry(cls, kind)


class Item(NamedTuple):
    """One transform of a list; its number is part of its random key."""

    number: int
    probability: float
    kind: str
    transform: Any

    def draw(self, key: Array, batch: int) -> tuple[Array, Array]:
        """(keys [B] of the samples, flags [B] whether the transform is applied)."""
        keys = jax.random.split(jax.random.fold_in(key, self.number), batch)
        pair = jax.vmap(jax.random.split)(keys)  # [B, 2]
        fired = jax.vmap(lambda k: jax.random.uniform(k))(pair[:, 0]) < self.probability
        return pair[:, 1], fired


TRANSFORMS: dict[str, Entry] = {
    "hflip": Entry(spatial.Flip, "spatial", {"axis": "w"}),
    "vflip": Entry(spatial.Flip, "spatial", {"axis": "h"}),
    "dflip": Entry(spatial.Flip, "spatial", {"axis": "d"}),
    "rotate": Entry(spatial.Rotate, "spatial"),
    "scale": Entry(spatial.Scale, "spatial"),
    "translate": Entry(spatial.Translate, "spatial"),
    "shear": Entry(spatial.Shear, "spatial"),
    "mirror": Entry(spatial.Mirror, "spatial"),
    "affine": Entry(spatial.Affine, "spatial"),
    "elastic": Entry(spatial.Elastic, "spatial"),
    "noise": Entry(intensity.Noise, "intensity"),
    "blur": Entry(intensity.Blur, "intensity"),
    "brightness": Entry(intensity.Brightness, "intensity"),
    "contrast": Entry(intensity.Contrast, "intensity"),
    "intensity": Entry(intensity.Shift, "intensity"),
    "gamma": Entry(intensity.Gamma, "intensity"),
    "gamma_signed": Entry(intensity.SignedGamma, "intensity"),
    "lowres": Entry(intensity.LowResolution, "intensity"),
    "colour_jitter": Entry(intensity.ColourJitter, "intensity"),
    "equalize": Entry(intensity.Equalize, "intensity"),
    "cutmix": Entry(mix.CutMix, "mix"),
    "cutout": Entry(mix.Cutout, "mix"),
    "black_rectangle": Entry(mix.BlackRectangle, "mix"),
    "stage_morphology": Entry(previous.Morphology, "classes"),
    "stage_drop": Entry(previous.DropComponent, "classes"),
}


def build(spec: Sequence, *, rank: int = 2, fill: float = 0.0, fixed_channels: int = 0, classes: int = 0) -> Callable:
    """Build the function augment(key, image, mask) -> (image, mask), which applies a list of transforms in order.

    Args:
      spec: ((transform, probability per sample, options), ...); (): the identity. A transform is a name in TRANSFORMS, or for
        your own a path "module:Class" or the class (see `own`).
      rank: number of spatial axes.
      fill: image value outside the image, for geometric transforms (the label there is 0).
      fixed_channels: number of last channels that are not intensities (coordinates); only geometric transforms change them.
      classes: K, of which that many are a previous stage's classes, zeros and ones: they stay so, and transforms of the kind
        "classes" change them too.
    Returns:
      A function of key (a jax random key), image float32 [B, *S, C] and mask integer [B, *S]; it works inside jax.jit.
    Raises:
      ConfigError: an unknown name or option, a probability outside 0..1, or an option that breaks its rule.
    """
    if rank not in spatial.LETTERS:
        raise ConfigError(f"got rank={rank} for augmentation: must be 2 or 3")
    items = [item for number, given in enumerate(spec) for item in _items(number, given, rank)]
    if not classes and (lost := [spec[item.number // 4][0] for item in items if item.kind == "classes"]):
        raise ConfigError(
            f"augmentation {lost[0]!r} changes the classes of config.data.previous, which names no run; leave it out"
        )
    functions = _functions(items, fill, fixed_channels, classes)

    def augment(key: Array, image: Array, mask: Array) -> tuple[Array, Array]:
        if image.ndim != rank + 2 or mask.shape != image.shape[:-1]:
            raise ValueError(
                f"got image {image.shape} and mask {mask.shape}; for rank {rank} they must be [B, {rank} spatial axes, C] "
                "and [B, the same axes]"
            )
        if image.dtype != jnp.float32 or not jnp.issubdtype(mask.dtype, jnp.integer):
            raise ValueError(f"got image {image.dtype} and mask {mask.dtype}; must be float32 and integer")
        for function in functions:
            image, mask = function(key, image, mask)
        return image, mask

    return augment


def _items(number: int, given, rank: int) -> list[Item]:
    if len(given) != 3:
        raise ConfigError(f"augmentation {given!r}: must be (name, probability, options)")
    name, probability, options = given
    entry = own(name) if isinstance(name, type) or is_path(name) else lookup("augmentation", name, TRANSFORMS)
    if not isinstance(probability, (int, float)) or not 0 <= probability <= 1:
        raise ConfigError(f"probability {probability!r} of augmentation {name!r}: must lie in 0..1")
    if not isinstance(options, Mapping):
        raise ConfigError(f"augmentation {given!r}: its options must be {{'option': value}}, or {{}} for none")
    defaults = {f.name: f.default for f in dataclasses.fields(entry.make)}
    for option, value in options.items():
        if option not in entry.options():
            raise unknown_name(f"option of augmentation {name!r}", option, entry.options())
        if defaults[option] is not dataclasses.MISSING:
            check_kind(f"augmentation {name!r}: {option}", value, defaults[option])
    missing = [key for key in entry.options() if key not in options and _is_required(entry.make, key)]
    if missing:
        raise ConfigError(f"augmentation {name!r} needs {', '.join(missing)}: give them as options, {{'{missing[0]}': value}}")
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
    made = entry.make(**entry.fixed, **values, **({"rank": rank} if "rank" in entry.make.__dataclass_fields__ else {}))
    if isinstance(made, spatial.Mirror):
        return [Item(number * 4 + i, float(probability), entry.kind, flip) for i, flip in enumerate(made.flips())]
    return [Item(number * 4, float(probability), entry.kind, made)]


def _is_required(cls: type, name: str) -> bool:
    (field,) = [f for f in dataclasses.fields(cls) if f.name == name]
    return field.init and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _functions(items: Sequence[Item], fill: float, fixed: int, classes: int) -> list[Callable]:
    """The functions of the list: one for each run of consecutive geometric transforms, one for each other transform."""
    functions: list[Callable] = []
    run: list[Item] = []
    for item in items:
        if run and not _joins(item, run):
            functions.append(_geometry(run, fill, classes))
            run = []
        if item.kind == "spatial":
            run.append(item)
        elif item.kind == "classes":
            functions.append(_classes(item, classes))
        else:
            functions.append(_pixels(item, fixed) if item.kind == "intensity" else _batch(item))
    return functions + ([_geometry(run, fill, classes)] if run else [])


def _border(run: Sequence[Item]) -> str | None:
    """The border mode of a run of transforms: None for flips, "constant" for affine maps, an elastic transform's own."""
    for item in run:
        if not isinstance(item.transform, spatial.Flip):
            return getattr(item.transform, "border", "constant")
    return None


def _joins(item: Item, run: Sequence[Item]) -> bool:
    if item.kind != "spatial" or isinstance(run[-1].transform, spatial.Elastic):
        return False
    return None in (_border(run), _border([item])) or _border(run) == _border([item])


def _geometry(run: Sequence[Item], fill: float, classes: int) -> Callable:
    if _border(run) is None:
        return lambda key, image, mask: _reverse(run, key, image, mask)

    def apply(key: Array, image: Array, mask: Array) -> tuple[Array, Array]:
        batch, *size, _ = image.shape
        rank = len(size)
        total = jnp.eye(rank), jnp.zeros(rank)
        moved, displacement, labels = jnp.zeros(batch, bool), None, mask
        for item in run:
            keys, fired = item.draw(key, batch)
            matrix, offset = jax.vmap(lambda k, t=item.transform: t.pull(k, tuple(size)))(keys)
            total = spatial.chain(
                total, (jnp.where(_like(fired, matrix), matrix, jnp.eye(rank)), jnp.where(_like(fired, offset), offset, 0.0))
            )
            if isinstance(item.transform, spatial.Elastic):
                displacement = jax.vmap(lambda k, t=item.transform: t.displacement(k, tuple(size)))(keys)
                displacement = jnp.where(_like(fired, displacement), displacement, 0.0)
            labels = _swapped(item.transform, fired, labels)
            moved |= fired
        where = spatial.positions(*total, tuple(size), displacement)
        new_image, new_mask = spatial.warp(image, labels, where, border=_border(run) or "constant", fill=fill)
        if classes:
            new_image = jnp.concatenate([new_image[..., :-classes], previous.binary(new_image[..., -classes:])], -1)
        return _select(moved, new_image, image), _select(moved, new_mask, mask)

    return apply


def _reverse(run: Sequence[Item], key: Array, image: Array, mask: Array) -> tuple[Array, Array]:
    """Apply consecutive flips by reversing axes, without resampling."""
    letters = spatial.LETTERS[mask.ndim - 1]
    flags = [jnp.zeros(image.shape[0], bool) for _ in letters]
    for item in run:
        _, fired = item.draw(key, image.shape[0])
        flags[letters.index(item.transform.axis)] ^= fired
        mask = _swapped(item.transform, fired, mask)
    return spatial.reverse(image, flags), spatial.reverse(mask[..., None], flags)[..., 0]


def _swapped(transform, fired: Array, mask: Array) -> Array:
    """The mask, with the label pairs of a flip exchanged in the samples that were flipped."""
    new = mask
    for a, b in getattr(transform, "swap", ()):
        new = jnp.where(mask == a, jnp.asarray(b, mask.dtype), jnp.where(mask == b, jnp.asarray(a, mask.dtype), new))
    return mask if new is mask else _select(fired, new, mask)


def _pixels(item: Item, fixed: int) -> Callable:
    def apply(key: Array, image: Array, mask: Array) -> tuple[Array, Array]:
        keys, fired = item.draw(key, image.shape[0])
        moving = image.shape[-1] - fixed
        new = jax.vmap(item.transform)(keys, image[..., :moving])
        return _select(fired, jnp.concatenate([new, image[..., moving:]], -1) if fixed else new, image), mask

    return apply


def _classes(item: Item, count: int) -> Callable:
    def apply(key: Array, image: Array, mask: Array) -> tuple[Array, Array]:
        keys, fired = item.draw(key, image.shape[0])
        given = image[..., -count:]
        new = jax.lax.cond(fired.any(), lambda: jax.vmap(item.transform)(keys, given), lambda: given)  # most batches take none
        return _select(fired, jnp.concatenate([image[..., :-count], new], -1), image), mask

    return apply


def _batch(item: Item) -> Callable:
    def apply(key: Array, image: Array, mask: Array) -> tuple[Array, Array]:
        keys, fired = item.draw(key, image.shape[0])
        new_image, new_mask = item.transform(keys, image, mask)
        return _select(fired, new_image, image), _select(fired, new_mask, mask)

    return apply


def _like(flags: Array, x: Array) -> Array:
    return flags.reshape(-1, *(1,) * (x.ndim - 1))


def _select(flags: Array, new: Array, old: Array) -> Array:
    return jnp.where(_like(flags, new), new, old)
