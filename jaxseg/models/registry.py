"""Networks by name. A new family needs one file in this folder (or a folder, if it has its own blocks) and a line in FAMILIES."""

import dataclasses
import functools
import importlib
import inspect
import re
import weakref
from collections.abc import Callable

import numpy as np
from flax import nnx

from jaxseg.models import composite, functional
from jaxseg.models.base import Segmenter, Variant
from jaxseg.types import ConfigError, JaxsegError
from jaxseg.utils.lookup import import_object, lookup, unknown_name

FAMILIES = (
    "basicunet",
    "dual_branch",
    "dynunet",
    "effisegnet",
    "hdbet",
    "linknet3d",
    "mednext",
    "mobile_unetr",
    "mobile_unetr3d",
    "monai_unet",
    "nnunet",
    "planes",
    "pspnet",
    "resunetpp",
    "segformer",
    "segnext",
    "segresnet",
    "swin_unetr",
    "unet",
    "unet2d",
    "unet3d",
    "unet3p",
    "unetr",
)


_NAMES: weakref.WeakKeyDictionary[Segmenter, str] = weakref.WeakKeyDictionary()  # names of the networks that `create_model` built


def family_of(name: str):
    """The module of the family that has a network `name`, or None."""
    for family in FAMILIES:
        module = importlib.import_module(f"jaxseg.models.{family}")
        if name in module.VARIANTS:
            return module
    return None


def variants() -> dict[str, Variant]:
    """All named networks, as {name: Variant}."""
    return {
        name: variant
        for family in FAMILIES
        for name, variant in importlib.import_module(f"jaxseg.models.{family}").VARIANTS.items()
    }


def list_models(contains: str = "") -> list[str]:
    """Sorted names of all networks whose names contain `contains`."""
    return sorted(n for n in variants() if contains in n)


def create_model(
    name: str | type[Segmenter],
    *,
    in_channels: int | None = None,
    num_classes: int | None = None,
    rank: int | None = None,
    seed: int = 0,
    abstract: bool = False,
    **overrides,
) -> Segmenter:
    """Build a network.

    Args:
      name: one of `list_models()`; "encoder+decoder" such as "segnext_t+unet"; or your own class, or its path "my_module:MyNet".
        It is derived from `jaxseg.models.Segmenter` and built with (in_channels=, num_classes=, rank=, rngs=, **overrides).
      in_channels, num_classes: number of image channels and of classes; None: the variant's defaults.
      rank: number of spatial axes; None: the variant's default.
      seed: random seed of the initial values.
      abstract: build the network with shapes only, without values, for instance to count parameters.
      **overrides: fields of the family's Config to change (dropout rates, widths, ...).
    Returns:
      The network, in inference mode: `model(image)` gives float32 logits.
    Raises:
      ConfigError: an unknown name, rank or override, a number below 1, or an override with which the network cannot be built.
    """
    own = name if isinstance(name, type) else None
    if own is not None:
        name = f"{own.__module__}:{own.__qualname__}"
    if not isinstance(name, str):
        raise ConfigError(f"got the model {name!r}; give its name, one of jaxseg.models.list_models()")
    for what, value in (("in_channels", in_channels), ("num_classes", num_classes), ("rank", rank)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1):
            raise ConfigError(f"got {what}={value!r} for model {name!r}: must be a whole number of at least 1")
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
        raise ConfigError(f"got seed={seed!r} for model {name!r}: must be a whole number")
    if ":" in name:
        cls = own or import_object(name, "model")
        if not (isinstance(cls, type) and issubclass(cls, Segmenter)):
            raise ConfigError(f"model {name!r} is not a class of networks; derive it from jaxseg.models.Segmenter")
        takes = inspect.signature(cls.__init__).parameters.values()
        known = {p.name for p in takes} - {"self", "in_channels", "num_classes", "rank", "rngs"}
        if not any(p.kind is p.VAR_KEYWORD for p in takes):
            for key in overrides.keys() - known:
                raise unknown_name(f"option of model {name!r}", key, known)
        sizes = {"in_channels": in_channels or 1, "num_classes": num_classes or 1, "rank": rank or 2}
        network: Callable[..., Segmenter] = cls
        make = lambda: network(**sizes, rngs=nnx.Rngs(seed), **overrides)
    elif "+" in name:
        make = _composite(name, in_channels, num_classes, seed, overrides)
    else:
        variant = lookup("model", name, variants())
        rank = rank or variant.ranks[0]
        if rank not in variant.ranks:
            raise ConfigError(f"got rank={rank} for model {name!r}: must be {' or '.join(map(str, variant.ranks))}")
        config = _override(name, variant.config, overrides)
        kwargs = {"in_channels": in_channels or variant.in_channels, "num_classes": num_classes or variant.num_classes}
        if len(variant.ranks) > 1:
            kwargs["rank"] = rank
        make = lambda: variant.network(config, **kwargs, rngs=nnx.Rngs(seed))

    try:
        model = functional.abstract(make) if abstract else make()
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        if ":" in name or not overrides or isinstance(error, JaxsegError):
            raise
        given = ", ".join(f"{key}={value!r}" for key, value in overrides.items())
        raise ConfigError(
            f"model {name!r} cannot be built with {given}: {error}; use values like those of its variants"
        ) from error
    if ":" not in name and "+" not in name and not overrides:
        _NAMES[model] = name
    return model


def same_tensors(model: Segmenter) -> tuple[str, ...]:
    """The other variants whose tensors have the same names and shapes as a network that `create_model` built.

    Weights of one of them can be loaded into the others, although these compute something else. Only variants of the same class
    whose Config has the same sizes are compared.
    """
    own = _NAMES.get(model)
    if own is None:
        return ()
    known, ours = variants(), _tensors(model)
    alike = [n for n, v in known.items() if n != own and v.network is type(model) and _same_sizes(v.config, known[own].config)]
    return tuple(n for n in alike if _tensors_of(n, model.in_channels, model.num_classes, model.rank) == ours)


def _same_sizes(a, b) -> bool:
    """Whether two configs agree in all sizes (they may differ in strings, booleans, fractions, numbers of heads or groups)."""

    def sizes(value) -> bool:
        return type(value) is int or isinstance(value, tuple) and any(map(sizes, value))

    named = [f.name for f in dataclasses.fields(a) if not re.search("head|group|window", f.name)]
    pairs = [(getattr(a, name), getattr(b, name)) for name in named]
    return all(x == y or not (sizes(x) or sizes(y)) for x, y in pairs)


@functools.cache
def _tensors_of(name: str, in_channels: int, num_classes: int, rank: int) -> frozenset:
    try:
        return _tensors(create_model(name, in_channels=in_channels, num_classes=num_classes, rank=rank, abstract=True))
    except (ArithmeticError, LookupError, TypeError, ValueError):  # this variant cannot have these channels
        return frozenset()


def _tensors(model: Segmenter) -> frozenset:
    network, _, _ = functional.split(model)
    return frozenset((name, tuple(leaf.shape)) for name, leaf in zip(network.names, network.leaves))


def _composite(
    name: str, in_channels: int | None, num_classes: int | None, seed: int, overrides: dict
) -> Callable[[], Segmenter]:
    """A function that builds "encoder+decoder"; `width` and `dropout` are options of the decoder, all others of the encoder."""
    base, _, decoder = name.partition("+")
    variant = lookup("model", base, variants())
    encoder = composite.encoder_of(name, family_of(base))
    lookup("decoder", decoder, composite.DECODERS)
    own = {key: overrides[key] for key in ("width", "dropout") if key in overrides}
    config = _override(base, variant.config, {k: v for k, v in overrides.items() if k not in own})
    return lambda: composite.Composite(
        encoder,
        config,
        decoder,
        in_channels=in_channels or variant.in_channels,
        num_classes=num_classes or variant.num_classes,
        rngs=nnx.Rngs(seed),
        **own,
    )


def _override(name: str, config, overrides: dict):
    known = {f.name: f for f in dataclasses.fields(config)}
    for key in overrides:
        if key not in known:
            raise unknown_name(f"option of model {name!r}", key, known)
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in overrides.items()}
    return dataclasses.replace(config, **values)


def planar(name: str, *, in_channels: int, num_classes: int, rngs: nnx.Rngs, **overrides) -> Segmenter:
    """Build a named network of two axes as a part of another network.

    Raises:
      ConfigError: an unknown name or override, or a network that has no form with two axes.
    """
    variant = lookup("model", name, variants())
    if 2 not in variant.ranks:
        raise ConfigError(f"got the network {name!r} for planes, which takes volumes alone; must be a network of two axes")
    rank = {"rank": 2} if len(variant.ranks) > 1 else {}
    config = _override(name, variant.config, overrides)
    return variant.network(config, in_channels=in_channels, num_classes=num_classes, rngs=rngs, **rank)
