"""Build a loss from named terms and their weights, for the main and the auxiliary outputs."""

import inspect
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp

from jaxseg import ops
from jaxseg.losses import TERMS
from jaxseg.types import LEFT_OUT, Array, ConfigError
from jaxseg.utils.lookup import check_kind, import_object, lookup

Parts = dict[str, tuple[Array, Array]]
_GIVEN = ("weight", "distance_maps", "annotated")  # keyword arguments that come from the batch, not from the configuration


def build(
    terms: Sequence[tuple[str | Callable, float]],
    options: Mapping[str, Mapping] | None = None,
    aux_weights: Sequence[float] = (),
    aux_terms: Sequence[tuple[str, float]] = (),
    left_out: bool = False,
) -> Callable:
    """Build the loss sum_t w_t L_t(logits) + sum_i a_i sum_t v_t L_t(aux_i), where L_t is the mean of term t.

    Args:
      terms: pairs (term, weight w_t). A term is a name in TERMS, or for your own a path "module:function" or the function.
      options: keyword arguments by term: {"focal": {"gamma": 2.0}}.
      aux_weights: a_i, one for each auxiliary output in the network's order; 0 leaves an output out. Labels are resized
        to the output's size by nearest neighbour.
      aux_terms: pairs (name, v_t) for the auxiliary outputs; (): the terms of the main output.
      left_out: voxels whose label is LEFT_OUT (in all channels, of labels with a class axis) do not count: terms get the
        argument `annotated`, and must have it.
    Returns:
      loss(outputs, batch) -> (sum, weight, parts). `outputs` has attributes logits and aux; `batch` has "mask" and may
      have "weight" [B] and "distance_maps" (`boundary.signed_distance` of the mask, [B, *S, K]). The total's mean is sum / weight
      with weight = sum of the samples' weights; parts holds the (sum, weight) of each term, unweighted, under its name,
      and "aux0.dice" for auxiliary output 0. Outputs without auxiliary logits (inference) have only the main part.
    Raises:
      ConfigError: an unknown term or option, no term, a term named twice, or one that cannot leave voxels out.
    """
    options = {} if options is None else options
    main = _bind(terms, options, left_out)
    if not main:
        raise ConfigError("got no loss term; name at least one, such as (('dice', 1.0),)")
    auxiliary = _bind(aux_terms, options, left_out) if aux_terms else main
    unused = sorted(options.keys() - main.keys() - auxiliary.keys())
    if unused:
        raise ConfigError(f"got options for {', '.join(unused)}, which this loss does not use; its terms are {', '.join(main)}")
    aux_weights = tuple(aux_weights)

    def loss(outputs, batch) -> tuple[Array, Array, Parts]:
        weight = batch["weight"] if "weight" in batch else None
        distance_maps = batch["distance_maps"] if "distance_maps" in batch else None
        parts = _evaluate(main, outputs.logits, batch["mask"], weight, distance_maps, "", left_out)
        factors = {name: factor for name, (factor, _) in main.items()}
        if outputs.aux and len(outputs.aux) != len(aux_weights):
            raise ConfigError(
                f"got {len(aux_weights)} aux_weights for a network with {len(outputs.aux)} auxiliary outputs; "
                "give one weight for each (0.0 leaves an output out)"
            )
        for i, (scale, logits) in enumerate(zip(aux_weights, outputs.aux)):
            if scale:
                parts |= _evaluate(auxiliary, logits, batch["mask"], weight, distance_maps, f"aux{i}.", left_out)
                factors |= {f"aux{i}.{name}": scale * factor for name, (factor, _) in auxiliary.items()}
        count = jnp.float32(outputs.logits.shape[0]) if weight is None else jnp.sum(weight.astype(jnp.float32))
        # a term may be normalised by something else than samples (class weights): use its mean times the samples' weight
        total = sum(
            factors[name] * value * jnp.where(part > 0, count / jnp.where(part > 0, part, 1.0), 0.0)
            for name, (value, part) in parts.items()
        )
        return total, count, parts

    return loss


def learnable(parts: Parts, weights: Mapping[str, Array]) -> Array:
    """The total sum_t 2 (sigmoid(x_t) + 1/2) L_t, whose weights are trained and lie between 1 and 3.

    Args:
      parts: (sum, weight) of each term L_t, as the loss of `build` returns them.
      weights: x_t, a trainable scalar for every term (the lung project starts at 1.0 for the main and 0.4 for the
        auxiliary loss).
    Raises:
      ConfigError: a term without a weight or a weight without a term.
    """
    if parts.keys() != weights.keys():
        raise ConfigError(f"got weights for {sorted(weights)} but terms {sorted(parts)}; every term needs exactly one weight")
    return sum(factor(weights[name]) * mean(part) for name, part in parts.items())


def mean(part: tuple[Array, Array]) -> Array:
    """The mean of a term, sum / weight; 0 where the weight is 0."""
    value, weight = part
    return jnp.where(weight > 0, value / jnp.where(weight > 0, weight, 1.0), 0.0)


def factor(x: Array) -> Array:
    """The weight 2 (sigmoid(x) + 1/2) of a term with the trained scalar x."""
    return 2.0 * (jax.nn.sigmoid(x) + 0.5)


def name_of(term: str | Callable) -> str:
    """The name of a term in options, parts and reports: its name in TERMS, or the path of a function."""
    return term if isinstance(term, str) else f"{term.__module__}:{term.__qualname__}"


def _term(given: str | Callable) -> Callable:
    """The function of a term that is given by its name in TERMS, by a path "module:function", or as the function itself.

    Raises:
      ConfigError: there is no such function, or it has no argument `weight`.
    """
    own = callable(given) or isinstance(given, str) and ":" in given
    if not own:
        return lookup("loss term", given, TERMS)
    term = given if callable(given) else import_object(given, "loss term")
    if not callable(term) or "weight" not in inspect.signature(term).parameters:
        raise ConfigError(
            f"loss term {name_of(given)!r} must be a function (logits, labels, *, weight=None, **options) -> (sum, weight); "
            "docs/plugins.md shows an example"
        )
    return term


def _bind(
    terms: Sequence[tuple[str | Callable, float]], options: Mapping[str, Mapping], left_out: bool
) -> dict[str, tuple[float, Callable]]:
    """{name: (weight, term with its options)}; unknown names and options are refused."""
    bound: dict[str, tuple[float, Callable]] = {}
    for given_term, weight in terms:
        name = name_of(given_term) if callable(given_term) else given_term
        if name in bound:
            raise ConfigError(f"got the loss term {name!r} twice; name it once, with the sum of its weights")
        term = _term(given_term)
        if left_out and "annotated" not in inspect.signature(term).parameters:
            raise ConfigError(
                f"loss term {name!r} cannot leave out voxels that are not annotated; use another, such as 'dice' or 'nnunet', or "
                "count them as background: --config.data.ignore=background"
            )
        given = options[name] if name in options else {}
        if not isinstance(given, Mapping):
            raise ConfigError(f"got the options {given!r} of loss term {name!r}; must be {{'option': value}}")
        given = dict(given)
        takes = {
            p.name: p.default
            for p in inspect.signature(term).parameters.values()
            if p.kind is p.KEYWORD_ONLY and p.name not in _GIVEN
        }
        for option, value in given.items():
            if option not in takes:
                raise ConfigError(f"loss term {name!r} has no option {option!r}; its options are {', '.join(takes) or 'none'}")
            check_kind(f"loss term {name!r}: {option}", value, takes[option])
        bound[name] = (float(weight), _closed(term, given, left_out))
    return bound


def _closed(term: Callable, given: dict, left_out: bool) -> Callable:
    """A term with its options set; distance maps are passed on if the term uses them, and so is where voxels count."""

    def closed(logits: Array, labels: Array, weight: Array | None, maps: Array | None, annotated: Array | None):
        from_batch = {"distance_maps": maps} if "distance_maps" in inspect.signature(term).parameters else {}
        from_batch |= {"annotated": annotated} if left_out else {}
        return term(logits, labels, weight=weight, **from_batch, **given)

    return closed


def _evaluate(
    terms, logits: Array, labels: Array, weight: Array | None, distance_maps: Array | None, prefix: str, left_out: bool
) -> Parts:
    size, annotated = logits.shape[1:-1], None
    with_classes = labels.ndim == logits.ndim
    if labels.shape[1 : 1 + len(size)] != size:
        labels = ops.resize(labels if with_classes else labels[..., None], size, method="nearest")
        labels, distance_maps = labels if with_classes else labels[..., 0], None  # distances do not survive a resize
    if left_out:
        annotated = (labels[..., 0] if with_classes else labels) != LEFT_OUT
        labels = jnp.where(annotated[..., None] if with_classes else annotated, labels, 0)
    return {prefix + name: term(logits, labels, weight, distance_maps, annotated) for name, (_, term) in terms.items()}
