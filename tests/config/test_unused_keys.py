"""Keys that would have no effect are refused, with what they need: beside other keys, and in modes that never read them."""

import pytest

from configs._base import base
from jaxseg.config import NEEDS, NEEDS_OF_MODES, UNUSED_IN_FILES, check_mode, flatten, resolve
from jaxseg.types import ConfigError

VOLUMES = {"data.rank": 3, "data.fit": "patches", "data.size": (16, 16, 16), "data.window": (), "data.intensity": "brain"}
WHOLE = VOLUMES | {"data.whole": True, "data.fit": "stretch"}
PATCHES = {"data.fit": "patches"}
PLACED = {  # decides nothing without patches
    "data.per_volume": 4,
    "data.foreground": 0.5,
    "data.positions": "centre_clipped",
    "infer.overlap": 0.5,
    "infer.blend": "constant",
    "infer.positions": "nnunet",
    "infer.sums": "float16",
    "infer.accumulator": "host",
    "infer.whole": True,
    "data.store_dtype": "float16",
}
IDLE = [
    ("data.fold", 0, {}, "data.split='fold'"),
    ("data.folds", 4, {}, "data.split='fold'"),
    ("data.fractions", (0.6, 0.2, 0.2), {"data.split": "fixed"}, "data.split='patient'"),
    ("data.split_seed", 3, {"data.split": "fixed"}, "'patient' or 'fold'"),
    ("data.sample_seed", 3, {}, "data.sample"),
    ("schedule.warmup_ratio", 0.1, {}, "schedule.warmup"),
    ("search.low", 0.2, {"search.space": (("optim.lr", "log", 1e-5, 1e-2),)}, "class weights"),
    ("search.high", 9.0, {"search.space": (("optim.lr", "log", 1e-5, 1e-2),)}, "class weights"),
    ("data.filter", "lanczos", VOLUMES, "data.rank=2"),
    ("data.plane", "coronal", {}, "tables list axial slices"),
    ("data.filter", "lanczos", PATCHES, "data.spacing"),
    ("data.previous_labels", "labels", VOLUMES, "data.previous"),
    ("data.statistics", ((0.0, 1.0, 0.5, 0.1),), VOLUMES, "ct_zscore"),
    ("eval.batch_size", 4, VOLUMES, "data.fit='stretch' or 'centre'"),
    ("eval.batch_size", 4, PATCHES, "data.fit='stretch' or 'centre'"),
    ("eval.tables", ("classes",), PATCHES, "data.fit='stretch' or 'centre'"),
    ("infer.batch_size", 4, VOLUMES, "infer.windows"),
    ("infer.batch_size", 4, PATCHES, "infer.windows"),
    ("infer.windows", 4, {}, "infer.batch_size"),
    ("infer.mirror", (0,), VOLUMES | {"infer.roi": "runs/roi"}, "infer.roi=''"),
    ("infer.max_instances", 2, VOLUMES, "infer.roi"),
    ("infer.min_size", 9, VOLUMES, "infer.roi"),
    ("infer.merge", "probability", {}, "infer.roi"),
    ("data.store_address", "gs://bucket/folder", {"data.store_engine": "zarr3"}, "data.fit='patches'"),
    *((key, value, others, "data.fit='patches'") for key, value in PLACED.items() for others in ({}, WHOLE)),
]


@pytest.mark.parametrize("key, value, others, needs", IDLE, ids=[f"{row[0]}-{i}" for i, row in enumerate(IDLE)])
def test_a_key_that_decides_nothing_is_refused_with_what_it_needs(key, value, others, needs):
    config = base()
    for name, given in (others | {key: value}).items():
        group, _, leaf = name.partition(".")
        with config[group].ignore_type():
            config[group][leaf] = given
    with pytest.raises(ConfigError, match=needs) as error:
        resolve(config, overridden=[key])
    assert str(error.value).startswith(f"config.{key}=") and len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("option", ["name", "in_channels", "num_classes", "rank", "seed", "abstract"])
def test_what_other_keys_decide_is_no_option_of_a_network(option):
    config = base()
    config.model.options = {option: 3}
    with pytest.raises(ConfigError, match=f"config.model.options=.*'{option}' cannot be set here; remove it"):
        resolve(config)


@pytest.mark.parametrize(
    "mode, key, others, needs",
    [
        ("train", "search.trials", {}, "--mode=search"),
        ("plan", "train.epochs", {}, "--mode=train"),
        ("compare", "report.before", {}, "--mode=report"),
        ("evaluate", "infer.probabilities", {}, "--mode=predict"),
        ("predict", "eval.split", {}, "--mode=evaluate"),
        ("predict", "eval.empty", {}, "--mode=evaluate"),
        ("predict", "infer.overlap", {"infer.roi": "runs/roi"}, "infer.roi=''"),
        ("export", "infer.overlap", {"infer.roi": "runs/roi"}, "infer.roi=''"),
    ],
)
def test_a_key_that_a_mode_never_reads_is_refused_where_it_is_typed(mode, key, others, needs):
    config = base()
    config.update_from_flattened_dict(others)
    with pytest.raises(ConfigError, match=f"config.{key}=.*has no effect in --mode={mode}: it needs {needs}"):
        check_mode(config, mode, [key])
    check_mode(config, mode, [])
    for allowed in (key.partition(".")[0],) if key.startswith(("search.", "report.")) else ("search", "summary", "check"):
        check_mode(config, allowed, [key])


def test_a_mode_reads_the_keys_that_another_one_needs_it_for():
    config, keys = base(), flatten(base().to_dict())
    config.infer.statistics = True
    check_mode(config, "explain", ["report.megabytes"])  # of its page
    for table in NEEDS_OF_MODES.values():
        assert table.keys() <= keys.keys()
        for key, (_, needs) in table.items():
            check_mode(config, needs.removeprefix("--mode=") if needs.startswith("--mode=") else "predict", [key])


def test_every_rule_of_keys_that_decide_nothing_has_its_case():
    assert {row[0] for row in IDLE} == set(NEEDS) and set(UNUSED_IN_FILES) <= set(NEEDS) <= set(flatten(base().to_dict()))
