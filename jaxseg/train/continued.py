"""What a training that begins from another run's weights keeps of that run's preparation, and what it changes."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from jaxseg import checkpoint
from jaxseg.data.records import Recipe
from jaxseg.data.store.base import recipe_from
from jaxseg.utils.guard import shown

_NAMES = ("labels", "modalities")  # which change nothing about the arrays that the network gets


def say_preparation(run: Path, recipe: Recipe, say: Callable[[str], None]) -> None:
    """Say how the images of a training are prepared beside those of the run whose weights it begins from.

    Args:
      run: the folder of that run, or of a checkpoint.
      recipe: the training's recipe.
      say: called with one line.
    """
    theirs = recipe_from(checkpoint.find_record(run))
    fields = [field.name for field in dataclasses.fields(Recipe) if field.name not in _NAMES]
    changed = [name for name in fields if getattr(recipe, name) != getattr(theirs, name)]
    if not changed:
        say(f"images are prepared as for {run}")
        return
    said = "; ".join(f"{name} {shown(getattr(theirs, name))} becomes {shown(getattr(recipe, name))}" for name in changed)
    say(
        f"images are prepared otherwise than for {run}: {said}. Its own preparation is kept by `jaxseg train {run} "
        f"--config.model.init={run} --config.data.root=...`"
    )
