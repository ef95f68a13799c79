"""What a config alone shows cannot work is refused before a case is read, by training, summary and check alike."""

from contextlib import nullcontext

import pytest

from configs import brats2d, brats_unet3d, folder, ich_segnext, kvasir_effisegnet, lungs_pspnet, scoliosis
from configs._base import base
from jaxseg import modes, preflight
from jaxseg.config import resolve
from jaxseg.data import datasets
from jaxseg.types import ConfigError


def tree(name="ct_ich", /, **changes):
    """A small resolved config; `loss__terms=...` sets config.loss.terms."""
    config = base()
    config.data.dataset, config.data.size, config.model.name = name, (32, 32), "unet_test"
    for key, value in changes.items():
        group, leaf = key.split("__")
        with config[group].ignore_type():
            config[group][leaf] = value
    return resolve(config, name="test")


VOLUMES = dict(
    data__rank=3,
    data__fit="patches",
    data__size=(16, 16, 16),
    data__window=(),
    data__intensity="brain",
    data__channels=4,
    eval__tables=("ich",),
    model__name="unet3d_test",
)
WRONG = [
    (dict(loss__terms=(("dise", 1.0),)), "dise.*dice"),
    (dict(loss__terms=(("cross_entropy", 1.0),)), "one output channel"),
    (dict(loss__options={"focal": {"gamma": 2.0}}), "focal"),
    (dict(loss__learnable=(("bce", 1.0),)), "every term needs exactly one weight"),
    (dict(loss__aux_weights=(0.5,)), "this network has none"),
    (dict(train__augment=(("hflipp", 0.5, {}),)), "hflipp.*hflip"),
    (dict(train__augment=(("rotate", 0.5, {"degree": 3.0}),)), "degree.*degrees"),
    (dict(train__augment=(("colour_jitter", 0.5, {"hue": 0.1}),)), "1 channel"),
    (dict(optim__options={"beta": 0.9}), "beta"),
    (dict(schedule__options={"powr": 1.0}), "powr"),
    (dict(schedule__name="plateau", schedule__options={"fctor": 0.5}), "fctor"),
    (dict(model__name="unet_tset"), "unet_tset"),
    (dict(model__options={"widht": 3}), "widht"),
    (dict(data__size=(33, 32)), "data.size"),
    (
        (dict(VOLUMES, model__name="nnunet_plain_test", train__bn_warmup=2), "brats"),
        "train.bn_warmup=2.*no BatchNorm.*set it to 0",
    ),
    (dict(data__regions=("dataset",)), "defines no regions"),
    (dict(eval__tables=("left_right",)), "2 classes"),
    (dict(data__structures=("a", "b")), "takes no option 'structures'"),
    ((dict(eval__threshold=0.7, data__structures=("a", "b"), eval__tables=()), "folder"), "eval.threshold=0.7.*largest"),
    ((dict(eval__thresholds=(0.3,), data__structures=("a", "b"), eval__tables=()), "folder"), "eval.thresholds.*leave it out"),
    ((dict(model__softmax=True, data__structures=("a", "b"), eval__tables=()), "folder"), "model.softmax=True.*3 classes"),
    ((dict(VOLUMES, eval__thresholds=(0.3,)), "brats"), "eval.thresholds.*leave it out"),
    ((dict(VOLUMES, data__regions=("dataset",), model__softmax=True), "brats"), "model.softmax=True.*regions"),
]


@pytest.mark.parametrize("changes, words", WRONG, ids=[str(i) for i in range(len(WRONG))])
@pytest.mark.parametrize("mode", ["train", "summary", "check", "evaluate"])
def test_a_config_that_cannot_work_is_refused_before_any_data_is_asked_for(tmp_path, monkeypatch, mode, changes, words):
    changes, name = changes if isinstance(changes, tuple) else (changes, "ct_ich")
    monkeypatch.setattr(datasets, "phantom", lambda *args: pytest.fail("data were asked for"))
    if mode == "train" and "loss__aux_weights" in changes:
        pytest.skip("the step says so, before it is compiled: tests/train/test_step.py")
    if mode == "evaluate" and changes.keys() & {"loss__aux_weights", "loss__learnable"}:
        pytest.skip("training alone reads them")
    monkeypatch.setattr(modes, "_recorded", lambda call: (tmp_path, {"code": {}}))  # the run that is evaluated
    with pytest.raises(ConfigError, match=words) as refusal:
        getattr(modes, mode)(modes.Call(tree(name, **changes), tmp_path / "run"))
    assert len(str(refusal.value).splitlines()) == 1 and not (tmp_path / "run").exists()


def test_volumes_have_no_score_of_zero_for_empty_masks():
    with pytest.raises(ConfigError, match="eval.empty='zero'.*'one' or 'nan'"):
        tree("brats", **VOLUMES, eval__empty="zero")


@pytest.mark.parametrize(
    "changes, classes",
    [
        (dict(model__softmax=True), 2),
        (dict(eval__threshold=0.7), 1),
        (dict(model__softmax=True, eval__threshold=0.7, eval__thresholds=(0.2,)), 2),
    ],
)
def test_a_single_class_takes_thresholds_with_one_logit_or_two(changes, classes):
    assert preflight.check(tree(**changes)).num_classes == classes


@pytest.mark.parametrize(
    "module", [brats2d, brats_unet3d, folder, ich_segnext, kvasir_effisegnet, lungs_pspnet, scoliosis], ids=lambda m: m.__name__
)
def test_configs_of_the_projects_pass(module):
    for arguments in ("", "quick"):
        preflight.check(resolve(module.get_config(arguments), name="test"))


@pytest.mark.parametrize("typed, refused", [(0.7, True), (0.5, False)])
def test_prediction_takes_no_threshold_where_the_largest_class_counts(typed, refused):
    config = tree("folder", data__structures=("a", "b"), eval__tables=(), eval__threshold=0.5).copy_and_resolve_references()
    with config.unlocked():
        config.eval.threshold = typed
    with pytest.raises(ConfigError, match="eval.threshold=0.7.*softmax of 3.*leave it at 0.5") if refused else nullcontext():
        preflight.check_softmax(config, 3)
