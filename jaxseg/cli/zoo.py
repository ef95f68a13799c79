"""The networks by name: a list by family, or a table with numbers of parameters, which are counted without computing weights."""

from collections.abc import Iterator, Sequence

from jaxseg.config.names import NETWORKS
from jaxseg.utils.lookup import unknown_name


def names() -> str:
    """A list of all networks by family; fast, because jax is not imported."""
    lines = [f"{family}: {', '.join(known)}" for family, known in NETWORKS.items()]
    count = sum(map(len, NETWORKS.values()))
    return "\n".join(
        [*lines, "", f"{count} networks; jaxseg zoo NAME shows the parameters of all networks whose names contain NAME"]
    )


def table(contains: Sequence[str]) -> Iterator[str]:
    """The lines of a table of networks: family, spatial axes, channels, classes, parameters.

    Parameters are counted for the default numbers of channels and classes, which a config may change.

    Args:
      contains: parts of names; a network is listed if its name contains one of them.
    Raises:
      ConfigError: one of them occurs in no name.
    """
    family_of = {name: family for family, known in NETWORKS.items() for name in known}
    for text in contains:
        if not any(text in name for name in family_of):
            raise unknown_name("network", text, family_of)

    from jaxseg.models import registry, summary  # imports jax

    variants = registry.variants()
    chosen = sorted(n for n in variants if any(text in n for text in contains))
    width = max(map(len, chosen))
    yield f"{'network':{width}s}  {'family':14s} {'axes':>6s} {'channels':>8s} {'classes':>7s} {'parameters':>12s}"
    for name in chosen:
        variant = variants[name]
        axes = " or ".join(map(str, variant.ranks))
        count = summary.parameters(registry.create_model(name, abstract=True))
        yield (
            f"{name:{width}s}  {family_of[name]:14s} {axes:>6s} {variant.in_channels:8d} {variant.num_classes:7d} {count:12,d}"
        )
