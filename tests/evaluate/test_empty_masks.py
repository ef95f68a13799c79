"""What a volume's report says of structures that were missed: how far they count, and by which rule."""

import json
import math

import numpy as np
import pytest

from jaxseg.evaluate import volumes
from jaxseg.metrics.lesions import FAR
from jaxseg.types import ConfigError
from tests.evaluate import two_processes


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return two_processes.make_store(tmp_path_factory.mktemp("toy") / "store")


@pytest.mark.parametrize("dataset, lesions, far", [("folder", "", None), ("organs_ct", "", None), ("brats", "", FAR),
                                                   ("folder", "GLI", FAR)])
def test_374_mm_belong_to_brats_and_to_lesion_wise_scores(dataset, lesions, far):
    assert volumes.policy_of(dataset, empty="one", lesions=lesions) == ("one", far)
    with pytest.raises(ConfigError, match="one or nan"):
        volumes.policy_of(dataset, empty="zero", lesions=lesions)


@pytest.mark.parametrize("dataset", ["folder", "brats"])
def test_a_network_that_finds_nothing_is_as_far_off_as_the_policy_in_the_file_says(store, tmp_path, dataset):
    policy = volumes.policy_of(dataset, empty="nan", lesions="")
    nothing = lambda image, mask, spacing: np.zeros(mask.shape, np.uint8)
    scored = volumes.score(nothing, store, np.arange(len(store.rows)), policy=policy, surface=True)
    text = volumes.report(scored, store, policy=policy, folder=tmp_path, **two_processes.ABOUT)
    said = json.loads((tmp_path / "evaluation.json").read_text())["empty_masks"]
    for case, row in zip(scored.cases, store.rows):
        diagonal = math.hypot(*(n * s for n, s in zip(row["shape"], row["spacing"])))
        for name in (key.removeprefix("truth_ml_") for key in case if key.startswith("truth_ml_")):
            far = diagonal if dataset == "folder" else 374
            assert case[f"hd95_{name}"] == pytest.approx(far) if case[f"truth_ml_{name}"] else math.isnan(case[f"hd95_{name}"])
    assert said == {"both_empty": "nan", "missed_hd95_mm": "diagonal of the case's grid" if dataset == "folder" else 374}
    assert ("the diagonal of its case's grid" if dataset == "folder" else "374 mm (BraTS)") in text
