"""Downsampled whole volumes, the training data of a region-of-interest network, computed once from the prepared volumes.

They are downsampled as in the cascade (`infer.cascade.roi_input`), coordinates included, so that the network sees the same
inputs in training and in prediction.
"""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np

from jaxseg.data.records import Recipe
from jaxseg.data.store import per_case
from jaxseg.data.store.base import Store
from jaxseg.infer import cascade
from jaxseg.utils import files

NAME = "WT"  # the one class: any foreground


def target_of(size: tuple[int, ...]) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function that downsamples a mask [X, Y, Z] to the network's target, uint8 [*size]."""
    target = jax.jit(lambda mask: cascade.roi_target(mask, size))
    return lambda mask: np.asarray(target(mask)).astype(np.uint8)


def recipe_of(recipe: Recipe, coordinates: bool) -> Recipe:
    """Return the recipe of downsampled volumes for the recipe of the volumes themselves."""
    return dataclasses.replace(recipe, labels=(NAME,), channels=recipe.channels + 3 * coordinates)


def downsampled(store: Store, recipe: Recipe, *, coordinates: bool, log: Callable[[str], None] = print) -> Store:
    """Return a store of the same volumes at recipe.size, with one class: the union of all classes.

    Args:
      store: the prepared volumes.
      recipe: the run's recipe; its size is the network's input size.
      coordinates: add three channels with each voxel's position in the volume.
      log: receives a line when the store has been built.
    """
    size = tuple(recipe.size)
    whole = recipe_of(dataclasses.replace(store.recipe, size=size), coordinates)
    image_of = jax.jit(lambda volume: cascade.roi_input(volume, size, coordinates))
    mask_of = target_of(size)

    def items():
        for i, row in enumerate(store.rows):
            mask = mask_of(np.asarray(store.mask(i)))
            spacing = [s * n / m for s, n, m in zip(row["spacing"], row["shape"], size)]
            image = np.ascontiguousarray(image_of(np.asarray(store.image(i))))
            yield image, mask, row | {"spacing": spacing}

    key = files.digest(store.folder.name, str(size), str(coordinates))[:16]
    final = files.cache_root() / "volumes" / f"{store.name}-whole-{key}"
    built = files.build_folder(
        final,
        lambda folder: per_case.write(
            folder, items(), whole, count=len(store), name=store.name, synthetic=store.synthetic, regions=(), log=log
        ),
    )
    return dataclasses.replace(per_case.open_store(built), recipe=whole, left_out=store.left_out)
