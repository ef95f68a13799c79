"""The networks by name: all of them by family, or a table of some, with parameters counted from shapes."""

from collections.abc import Iterator, Sequence

from jaxseg.config.names import NETWORKS
from jaxseg.utils.lookup import unknown_name


def names() -> str:
    """All networks, by family; imports nothing heavy."""
    lines = [f"{family}: {', '.join(known)}" for family, known in NETWORKS.items()]
    count = sum(map(len, NETWORKS.values()))
    return "\n".join(
        [*lines, "", f"{count} networks; jaxseg zoo NAME... counts the parameters of those with NAME in their names"]
    )


def table(contains: Sequence[str]) -> Iterator[str]:
    """A line for each network whose name contains one of the texts: family, axes, channels, classes, parameters.

    Channels and classes are the variant's own, for which the parameters are counted; a config may change them.

    Raises:
      ConfigError: a text that is in no name.
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
