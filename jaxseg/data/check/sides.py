"""Warn if augmentation or mirroring exchanges left and right while classes are named by the side of the body."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jaxseg.data.records import Recipe

FLIPS = {"d": "dflip", "h": "vflip", "w": "hflip"}
OTHER = {"left": "right", "l": "r", "lt": "rt"}


def paired(labels: Sequence[str]) -> list[str]:
    """Return the classes whose names state a side: "left" or "right" as a word, or both of "l" and "r", or of "lt" and "rt"."""
    words = [re.split(r"[^a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()) for name in labels]
    exchange = OTHER | {b: a for a, b in OTHER.items()}
    sided = lambda named: [exchange.get(word, word) for word in named]
    return [
        name
        for name, named in zip(labels, words)
        if {"left", "right"} & set(named) or sided(named) != named and sided(named) in words
    ]


def warnings(
    labels: Sequence[str], recipe: Recipe, augment: Sequence[tuple[str, float, Mapping[str, Any]]], mirror: Sequence[int]
) -> list[str]:
    """Return one line for each setting that exchanges left and right although classes are named by their side.

    Args:
      labels: names of the classes.
      recipe: its axes decide which axis runs from left to right.
      augment: train.augment.
      mirror: infer.mirror.
    """
    named = paired(labels)
    letters = "dhw"[-len(recipe.size) :]
    axis = 1 if len(recipe.size) == 2 else (recipe.axes or (0, 1, 2)).index(0)
    if not named or len(recipe.size) == 2 and recipe.plane == "sagittal":
        return []
    letter, lines = letters[axis], []
    whom = f"the classes {', '.join(named[:4])}{', ...' if len(named) > 4 else ''}"
    for name, _, options in augment:
        reversed_here = name == FLIPS[letter] or name == "mirror" and letter in (options.get("axes") or letters)
        exchanged = bool(options.get("swap")) and (name != "mirror" or options.get("side", "w") == letter)
        if reversed_here and not exchanged:
            side = f" and side to {letter!r}" if name == "mirror" and letter != "w" else ""
            remedy = f"set its option swap to the pairs of class numbers to exchange{side}, or leave it out"
            lines.append(
                f"train.augment: {name!r} exchanges left and right, but {whom} are named by their side: flipped labels would be "
                f"wrong; {remedy}"
            )
    if axis in mirror:
        lines.append(
            f"infer.mirror={tuple(mirror)}: axis {axis} exchanges left and right, but {whom} are named by their side: averages "
            "would mix both sides; leave that axis out"
        )
    return lines
