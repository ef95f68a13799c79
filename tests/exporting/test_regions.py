"""A cascade around regions of interest leaves as one file: both networks, and numpy for what lies between them."""

import zipfile

import numpy as np
import pytest

pytest.importorskip("flatbuffers", reason="jax.export writes with it: the extra [export]")

from jaxseg import checkpoint  # noqa: E402
from jaxseg.data.formats import volumes  # noqa: E402
from jaxseg.exporting import export  # noqa: E402
from jaxseg.exporting.runner import model as runner  # noqa: E402
from jaxseg.exporting.runner import regions  # noqa: E402
from jaxseg.infer import cascade  # noqa: E402
from jaxseg.infer.labels import logits_of  # noqa: E402
from jaxseg.infer.run import open_run  # noqa: E402
from tests import untrained  # noqa: E402

SHAPE, ROI, CROP = (19, 14, 17), (8, 8, 8), (10, 8, 24)  # a crop may be larger than the volume


def volume(*balls: tuple[tuple[int, int, int], float]) -> np.ndarray:
    """Two channels: balls of 2 in noise, and noise."""
    random = np.random.default_rng(len(balls))
    made = random.normal(0, 0.2, (*SHAPE, 2)).astype(np.float32)
    for centre, radius in balls:
        away = sum((i - c) ** 2 for i, c in zip(np.indices(SHAPE), centre)) ** 0.5
        made[..., 0] += 2 * (away < radius)
    return made


def find(x):
    return x[..., :1] * 2 - 1.5


def segment(x):
    return x[..., [1, 0, 2]] * np.float32(3)  # channels and a coordinate as logits


@pytest.mark.slow
@pytest.mark.parametrize("merge, activation", [("max", "sigmoid"), ("probability", "softmax")])
def test_regions_are_found_and_joined_as_by_predict(merge, activation):
    for given in ([((5, 4, 5), 3.5), ((14, 10, 12), 3.0)], [((9, 7, 8), 5.0)], []):
        scan, most = volume(*given), 2
        options = {"max_instances": most, "min_size": 3, "merge": merge, "activation": activation}
        theirs = cascade.segment(find, segment, scan, num_classes=3, roi_size=ROI, crop=CROP, **options)
        scores = np.asarray(theirs.scores)
        expected = scores if merge == "max" else logits_of(scores, sigmoid=False)
        rule = {**options, "roi_size": ROI, "crop": CROP, "roi_coordinates": True}
        mine = regions.segment_regions(find, segment, scan, {"batch": 1, "coordinates": True, "regions": rule}, 3)
        np.testing.assert_allclose(mine, expected, atol=1e-5, rtol=1e-6)
        assert theirs.found == len(given)


@pytest.mark.slow
def test_both_networks_leave_as_one_file(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXSEG_CACHE", str(tmp_path / "cache"))
    root = untrained.write(tmp_path / "set", 3, count=6)
    whole = untrained.config(root, 3, data__coordinates=True).copy_and_resolve_references().unlock()
    whole.data.whole, whole.data.fit = True, "stretch"
    finder = untrained.make(tmp_path / "finder", whole)
    second = untrained.make(tmp_path / "second", untrained.config(root, 3, data__size=(4, 4, 8)))
    settings = checkpoint.read_record(second)["config"]["infer"] | {"roi": str(finder), "max_instances": 2, "min_size": 2}
    export.export(second, tmp_path / "m.jaxseg", settings=settings, say=lambda line: None)
    image = root / "images" / "1.nii.gz"
    opened, model = open_run(second, settings), runner.Model(tmp_path / "m.jaxseg")
    mine, theirs = model.segment(str(image)), opened.segment([volumes.read_volume(image)])
    restored = theirs.examples.orientation.restore
    np.testing.assert_array_equal(mine.labels, restored(theirs.labels))
    np.testing.assert_allclose(mine.probabilities, restored(opened.probabilities(theirs)), atol=1e-5)
    assert 0.02 < mine.labels.mean() < 0.9 and (mine.probabilities == 0).any()
    with zipfile.ZipFile(tmp_path / "m.jaxseg") as file:
        assert b"around at most 2 regions" in file.read("MODEL_CARD.md")
