"""A real T1 (Colin 27, Debian package mricron-data) through sliding window and cascade, back in its own geometry.

Skipped where the package is not installed; JAXSEG_T1 may name another skull-stripped T1.
"""

import dataclasses
import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tiny_volumes as tiny

from jaxseg.data import layout
from jaxseg.data.formats import volumes
from jaxseg.data.records import Recipe
from jaxseg.infer import cases, examples, network, predict, run
from jaxseg.models import create_model, functional

T1 = Path(os.environ.get("JAXSEG_T1", "/usr/share/mricron/templates/ch2bet.nii.gz"))
pytestmark = pytest.mark.skipif(not T1.is_file(), reason=f"no {T1}")


def untrained(size: tuple[int, ...], classes: int, *, coordinates: bool, whole: bool) -> run.Run:
    model = create_model(tiny.NAME, in_channels=1 + 3 * coordinates, num_classes=classes, rank=3)
    split, params, state = functional.split(model)
    forward = network.Forward(split, num_classes=classes, batch=2)
    recipe = Recipe(
        size=size,
        window=None,
        spacing=None,
        channels=1,
        labels=("a", "b")[: classes - 1],
        intensity="brain",
        modalities=("t1",),
        fit="patches",
    )
    record = {
        "config": {"data": {"coordinates": coordinates, "whole": whole}},
        "labels": ["a", "b"][: classes - 1],
        "recipe": dataclasses.asdict(recipe),
        "model": {"name": tiny.NAME, "rank": 3},
    }
    settings = {"overlap": 0.25, "blend": "gaussian", "positions": "monai", "sums": "float32", "accumulator": "auto"}
    application = run.application_of(forward, recipe, whole=whole, coordinates=coordinates, settings=settings)
    return run.Run(
        record, recipe, examples.Preparation(layout.of(recipe)), application, (forward.place(params, state),), (), 0.5, ""
    )


def test_a_real_t1_comes_back_in_its_own_geometry(tmp_path):
    second = untrained((48, 48, 48), 3, coordinates=True, whole=False)
    options = {"max_instances": 3, "min_size": 0, "merge": "max"}
    both = run.cascaded(untrained((32, 32, 32), 2, coordinates=True, whole=True), second, options)
    settings = {"probabilities": False, "overlay": True}
    for name, opened in (("windows", second), ("cascade", both)):
        case = cases.Input(name, (T1,), lambda: [volumes.read_volume(T1)])
        assert predict._one(opened, case, tmp_path, settings, [])[0] == [f"{name}.nii.gz", f"overlays/{name}.png"]
        written, source = nibabel.load(tmp_path / f"{name}.nii.gz"), nibabel.load(T1)
        assert written.shape == source.shape[:3] and (written.affine == source.affine).all()
        assert len(np.unique(np.asarray(written.dataobj))) > 1
        assert (tmp_path / "overlays" / f"{name}.png").stat().st_size > 10_000
