"""What a volume's report says of structures that were missed: how far they count, and by which rule."""

import json
import math

import numpy as np
import pytest

from jaxseg.evaluate import report, scoring
from jaxseg.metrics.lesions import FAR
from jaxseg.types import ConfigError
from tests.evaluate import two_processes


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return two_processes.make_store(tmp_path_factory.mktemp("toy") / "store")


@pytest.mark.parametrize(
    "dataset, lesions, far", [("folder", "", None), ("organs_ct", "", None), ("brats", "", FAR), ("folder", "GLI", FAR)]
)
def test_374_mm_belong_to_brats_and_to_lesion_wise_scores(dataset, lesions, far):
    assert scoring.policy_of(dataset, empty="one", lesions=lesions) == ("one", far)
    with pytest.raises(ConfigError, match="one or nan"):
        scoring.policy_of(dataset, empty="zero", lesions=lesions)


@pytest.mark.parametrize("dataset", ["folder", "brats"])
def test_a_network_that_finds_nothing_is_as_far_off_as_the_policy_in_the_file_says(store, tmp_path, dataset):
    policy = scoring.policy_of(dataset, empty="nan", lesions="")
    rules = scoring.Rules(store.labels, store.regions, policy, surface=True)

    def nothing(i):
        row, truth = store.rows[i], np.asarray(store.mask(i))
        about = {"case": row["case"], "patient": row["patient"]}
        yield scoring.Example(about, np.zeros(truth.shape, np.uint8), truth, row["spacing"])

    scored = scoring.score(range(len(store.rows)), nothing, rules)
    table = report.table_of(scored, rules, "the cases' own grid")
    text = report.report(table, None, head=(), details=(), facts={}, folder=tmp_path)
    said = json.loads((tmp_path / "evaluation.json").read_text())["empty_masks"]
    about = {row["case"]: row for row in store.rows}
    for row in scored.rows:
        shape, spacing = (about[row["case"]][key] for key in ("shape", "spacing"))
        far = math.hypot(*(n * s for n, s in zip(shape, spacing))) if dataset == "folder" else 374
        assert row["hd95"] == pytest.approx(far) if row["truth_ml"] else math.isnan(row["hd95"])
    assert said == {"both_empty": "nan", "missed_hd95_mm": "diagonal of the case's grid" if dataset == "folder" else 374}
    assert ("the diagonal of its case's grid" if dataset == "folder" else "374 mm (BraTS)") in text
