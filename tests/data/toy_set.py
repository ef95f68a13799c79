"""A data set of a few small volumes, written where a test says."""

import functools
from pathlib import Path

import nibabel
import numpy as np

from jaxseg.data.formats.volumes import check_labels
from jaxseg.data.records import Case, DataSet, Recipe

RECIPE = Recipe(size=(16, 24), window=(40.0, 120.0), spacing=None, channels=1, labels=("bleed",))


def make(root: Path, patients: int = 6, slices: int = 4, protocol: str = "all", shape=(20, 18)) -> DataSet:
    """`patients` volumes [X, Y, slices] of noise with a bright block in the odd slices of every second patient."""
    root.mkdir(parents=True, exist_ok=True)
    cases = []
    for p in range(patients):
        random = np.random.default_rng(p)
        image = random.normal(30, 10, (*shape, slices)).astype(np.int16)
        mask = np.zeros_like(image, np.uint8)
        if p % 2:
            mask[5:10, 4:12, 1::2] = 255
        image[mask > 0] += 40
        affine = np.diag([-0.5, -0.6, 5.0, 1.0]) if p != 2 else np.diag([0.5, 0.6, -5.0, 1.0])  # one stored the other way round
        for name, array in (("image", image), ("mask", mask)):
            nibabel.save(nibabel.Nifti1Image(array, affine), root / f"{name}{p:02d}.nii")
        cases.append(Case(f"c{p:02d}", f"p{p:02d}", (root / f"image{p:02d}.nii",), root / f"mask{p:02d}.nii"))
    return DataSet(
        "toy",
        root,
        tuple(cases),
        RECIPE.labels,
        to_classes,
        keep_slice=functools.partial(keep, protocol),
        stratum=stratum,
        synthetic=True,
    )


def to_classes(raw):
    check_labels(raw, (0, 255), "mask")
    return (raw > 127).astype(np.uint8)


def keep(protocol, case, index, mask):
    return protocol == "all" or (protocol == "only" and bool(mask.any()))


def stratum(case):
    return "bleed" if int(case.id[1:]) % 2 else "none"
