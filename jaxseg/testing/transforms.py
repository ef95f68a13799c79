"""check_transform and check_host_transform: the contracts of `augment/` and of `data/stream/stages.py`."""

import pickle
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jaxseg.augment import compose
from jaxseg.data.stream import stages
from jaxseg.testing.expectation import Tested, part_of

SHAPE = {2: (4, 12, 9), 3: (4, 8, 9, 6)}  # [B, *S] by rank


def check_transform(
    transform: str | type, *, rank: int = 2, channels: int = 2, classes: int = 3, options: Mapping[str, Any] | None = None
) -> None:
    """Check the properties of an augmentation on the device on which the training step relies.

    Inside jit it returns a finite float32 image and an integer mask of unchanged shapes; the same key gives the same result; a
    sample does not depend on the others of its batch, unless its kind is "mix"; the mask has no new class; an intensity
    transform does not change the mask; with probability 0 no bit changes.

    Args:
      transform: your dataclass (see `augment.compose.own`), its path "module:Class", or a name of
        `jaxseg.augment.TRANSFORMS`.
      rank: number of spatial axes.
      channels: C of the image.
      classes: number of classes in the mask, with background.
      options: its fields.
    Raises:
      AssertionError: the first rule that does not hold.
    """
    name = transform if isinstance(transform, str) else transform.__qualname__
    part = Tested(f"augmentation {name}", transform)
    if isinstance(transform, str):
        entry = part.attempt(
            "looking it up", lambda: compose.own(transform) if ":" in transform else compose.TRANSFORMS[transform]
        )
    else:
        entry = part.attempt("looking at it", compose.own, transform)
    part = Tested(part.name, entry.make)
    make = lambda probability: compose.build(((transform, probability, dict(options or {})),), rank=rank)
    always, never = part.attempt("building it", make, 1.0), part.attempt("building it", make, 0.0)
    random = np.random.default_rng(0)
    image = random.random((*SHAPE[rank], channels)).astype(np.float32)
    mask = random.integers(0, classes, SHAPE[rank]).astype(np.int32)
    run = jax.jit(always)
    key = jax.random.key(0)
    new_image, new_mask = (np.asarray(a) for a in part.attempt("jit", run, key, image, mask))
    for what, new, old in (("an image", new_image, image), ("a mask", new_mask, mask)):
        same = new.shape == old.shape and new.dtype == old.dtype
        part.expect(same, f"{what} of {old.dtype} {old.shape}", f"{new.dtype} {new.shape}")
    part.expect(bool(np.isfinite(new_image).all()), "a finite image", f"{(~np.isfinite(new_image)).sum()} other values")
    flat = np.asarray(run(key, np.full_like(image, 0.5), mask)[0])
    part.expect(bool(np.isfinite(flat).all()), "a finite image of a constant one", "others", f"divisions ({part.place()})")
    strange = sorted(set(np.unique(new_mask).tolist()) - set(range(classes)))
    part.expect(not strange, f"a mask of the classes 0 to {classes - 1}", f"{strange[:5]}")
    if entry.kind == "intensity":
        part.expect(np.array_equal(new_mask, mask), "an intensity transform to leave the mask", "a changed one")
    again = [np.asarray(a) for a in jax.jit(lambda *a: always(*a))(key, image, mask)]
    same = np.array_equal(again[0], new_image) and np.array_equal(again[1], new_mask)
    part.expect(same, "the same result for the same key", "another", f"random numbers that are not jax's ({part.place()})")
    if entry.kind != "mix":
        others = np.concatenate([image[:1], image[1:] ** 2])
        alone = np.asarray(run(key, others, mask)[0])[0]
        part.expect(np.array_equal(alone, new_image[0]), "a sample that does not depend on its neighbours", "one that does")
    kept = [np.asarray(a) for a in jax.jit(never)(key, image, mask)]
    bits = np.array_equal(kept[0], image) and np.array_equal(kept[1], mask)
    part.expect(bits, "every bit to stay at probability 0", "changed ones", "jaxseg/augment/compose.py")


def check_host_transform(
    transform: str | Callable, *, rank: int = 2, channels: int = 2, classes: int = 3, options: Mapping[str, Any] | None = None
) -> None:
    """Check the properties of a host transform on which the input pipeline relies.

    It returns an image and a mask of unchanged shapes and dtypes, for 8-bit and for float images; the same example, index and
    seed give the same result, whatever the state of numpy's global generator; it does not change its input; the mask has no new
    class; it can be pickled for reading processes.

    Args:
      transform: your function (example, index, seed, **options) -> example, or its path "module:function".
      rank, channels, classes: of the examples, as for `check_transform`.
      options: its keyword arguments.
    Raises:
      AssertionError: the first rule that does not hold.
    """
    part = part_of(transform, "host transform")
    given = dict(options or {})
    function = part.attempt("looking at it", stages.function_of, part.object, given)
    random = np.random.default_rng(0)
    mask = random.integers(0, classes, SHAPE[rank][1:]).astype(np.uint8)
    for dtype in (np.uint8, np.float32):
        image = (random.random((*SHAPE[rank][1:], channels)) * (200 if dtype == np.uint8 else 1)).astype(dtype)

        def run(index: int, seed: int, image=image) -> stages.HostExample:
            example = stages.HostExample(image=image.copy(), mask=mask.copy())
            made = part.attempt(
                f"an example of {image.dtype}", stages.apply, function, example, index, seed, given, "the transform"
            )
            kept = np.array_equal(example["image"], image) and np.array_equal(example["mask"], mask)
            part.expect(kept, "the example that it is given to stay as it is", "a changed one", f"assignments ({part.place()})")
            return made

        first = run(7, 1)
        finite = dtype == np.uint8 or bool(np.isfinite(first["image"]).all())
        part.expect(finite, "a finite image", "other values")
        strange = sorted(set(np.unique(first["mask"]).tolist()) - set(range(classes)))
        part.expect(not strange, f"a mask of the classes 0 to {classes - 1}", f"{strange[:5]}")
        np.random.random()  # moves numpy's own generator, which nobody may depend on
        second = run(7, 1)
        same = all(np.array_equal(first[key], second[key]) for key in ("image", "mask"))
        look = f"random numbers ({part.place()}): draw them from np.random.default_rng((seed, index))"
        part.expect(same, "the same result for the same example, index and seed", "another", look)
    if not isinstance(transform, str):
        part.attempt("pickling it for a reading process", pickle.dumps, transform)
