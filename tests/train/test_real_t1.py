"""A real T1 (Colin 27, Debian package mricron-data) through sliding window and cascade, back in its own geometry.

Skipped where the package is not installed; JAXSEG_T1 may name another skull-stripped T1.
"""

import os
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import tiny_volumes as tiny

from jaxseg.data.formats import volumes
from jaxseg.data.records import Recipe
from jaxseg.infer import predict_volumes as runs
from jaxseg.infer.volumes import VolumeNetwork
from jaxseg.models import create_model, functional

T1 = Path(os.environ.get("JAXSEG_T1", "/usr/share/mricron/templates/ch2bet.nii.gz"))
pytestmark = pytest.mark.skipif(not T1.is_file(), reason=f"no {T1}")


def untrained(size: tuple[int, ...], classes: int, *, coordinates: bool, whole: bool) -> runs.Trained:
    model = create_model(tiny.NAME, in_channels=1 + 3 * coordinates, num_classes=classes, rank=3)
    network, params, state = functional.split(model)
    seen = VolumeNetwork(network, window=size, num_classes=classes, coordinates=coordinates and not whole)
    recipe = Recipe(size=size, window=None, spacing=None, channels=1, labels=("a", "b")[:classes - 1], intensity="brain",
                    modalities=("t1",))
    record = {"config": {"data": {"coordinates": coordinates, "whole": whole}, "eval": {"threshold": 0.5}},
              "model": {"name": tiny.NAME, "rank": 3}}
    return runs.Trained(record, recipe, seen, seen.place(params, state), ())


def test_a_real_t1_comes_back_in_its_own_geometry(tmp_path):
    image = volumes.read_volume(T1)
    finder = untrained((32, 32, 32), 2, coordinates=True, whole=True)
    second = untrained((48, 48, 48), 3, coordinates=True, whole=False)
    settings = {"probabilities": False, "overlay": True}
    for name, roi in (("windows", None), ("cascade", finder)):
        runs._one(second, roi, [image], tmp_path, name, settings, [])
        written, source = nibabel.load(tmp_path / f"{name}.nii.gz"), nibabel.load(T1)
        assert written.shape == source.shape[:3] and (written.affine == source.affine).all()
        assert len(np.unique(np.asarray(written.dataobj))) > 1
        assert (tmp_path / f"{name}_overlay.png").stat().st_size > 10_000
