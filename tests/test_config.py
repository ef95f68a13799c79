"""Laws of the configuration: typos fail, rules name key, value and remedy, command line wins over embedded values."""

import importlib
import sys
from pathlib import Path

import pytest
from absl import flags
from ml_collections import config_flags

from configs._base import base
from configs._brats2d import ROWS
from configs._lungs import STAGES
from jaxseg.cli.flags import OrNone, Words
from jaxseg.config import EXTRA, EXTRA_BY_A_RUN, NEUTRAL, as_dict, difference, flatten, resolve
from jaxseg.config.keys import CHOICES
from jaxseg.data.prepare import canvas, channels
from jaxseg.data.stream import patches
from jaxseg.infer.channel_run import TARGET_OF
from jaxseg.models import functional
from jaxseg.train import setup
from jaxseg.types import ConfigError

VOLUMES = {"data.rank": 3, "data.fit": "patches", "data.size": (16, 16, 16), "data.window": (), "data.intensity": "brain"}
CONFIGS = sorted(p.stem for p in (Path(__file__).parent.parent / "configs").glob("[a-z]*.py"))


def load(name: str, arguments: str = ""):
    return importlib.import_module(f"configs.{name}").get_config(arguments)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_resolves_plain_and_quick_and_is_short(name):
    for arguments in ("", "quick"):
        config = resolve(load(name, arguments), name=name)
        assert config.name == name and difference(config)
    lines = (Path(__file__).parent.parent / "configs" / f"{name}.py").read_text().splitlines()
    assert len(lines) <= 75 and f"--config=configs/{name}.py" in "\n".join(lines[:20])


@pytest.mark.parametrize(
    "name, arguments, positions",
    [
        ("brats_unet3d", "", "centre_clipped"),
        ("brats_cascade", "quick", "centre_clipped"),
        ("brats_unet3d", "nnunet", "uniform"),
        ("brats_roi", "", "uniform"),
        ("organs_ct3d", "", "uniform"),
    ],
)
def test_the_brats_project_alone_moves_patches_inside(name, arguments, positions):
    assert resolve(load(name, arguments)).data.positions == positions


def test_unknown_key_in_a_file_is_an_error():
    with pytest.raises(AttributeError, match="Did you mean .epochs"):
        base().train.epoch = 3


def test_unknown_argument_lists_neighbours():
    with pytest.raises(ConfigError, match="quik.*did you mean quick"):
        load("ich_segnext", "quik")


def test_arguments_that_exclude_each_other_are_refused():
    for name, arguments in (
        ("kvasir_effisegnet", "rev1,rev2"),
        ("ich_segnext", "t,s"),
        ("lungs_pspnet", "mirror,final"),
        ("brats2d", "ell02,wcce"),
        ("brats2d", "edges,autoencoder"),
        ("folder", "patches,volumes"),
    ):
        with pytest.raises(ConfigError, match="exclude each other"):
            load(name, arguments)


@pytest.mark.parametrize(
    "key, value, words",
    [
        ("train.epochs", 0, "at least 1"),
        ("optim.lr", -1.0, "above 0"),
        ("optim.lr", float("nan"), "finite"),
        ("optim.name", "adma", "did you mean adam"),
        ("schedule.name", "cosin", "did you mean cosine"),
        ("train.dtype", "float16", "float32"),
        ("data.size", (640,), "height, width"),
        ("data.fractions", (0.5, 0.1, 0.1), "sum to 1"),
        ("data.window", (40.0, 0.0), "width"),
        ("eval.threshold", 1.0, "between"),
        ("data.split", "patients", "did you mean patient"),
        ("train.best", "val_dise", "val_dice"),
        ("loss.terms", (), "at least one"),
        ("loss.terms", (("dice", "x"),), "name, number"),
        ("loss.terms", ("dice", 1.0), "name, number"),
        ("data.window", ("a", "b"), "finite numbers"),
        ("data.fractions", ("a", 0.5, 0.5), "finite numbers"),
        ("eval.thresholds", ("0.5",), "finite numbers"),
        ("data.workers", 1000, "at most 256"),
        ("data.blur", 1e9, "at most 1000"),
        ("data.size", (1000000, 1000000), "at most 268435456 pixels"),
        ("train.epochs", 10**20, "at most"),
        ("loss.aux_terms", (("dice", 1.0),), "both or neither"),
        ("optim.lr", 1e39, "finite"),
        ("optim.options", {5: 1}, "'option': value"),
    ],
)
@pytest.mark.fault("P10")
def test_a_bad_value_is_refused_by_name(key, value, words):
    config = base()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(ConfigError, match=words) as error:
        resolve(config)
    assert f"config.{key}" in str(error.value)


@pytest.mark.parametrize(
    "key, value, others, words",
    [
        ("data.intensity", "zscor", {}, "did you mean zscore"),
        ("data.intensity", "zscore+none", {}, "for each channel"),
        ("data.intensity", "brain+zscore", {"data.channels": 2}, "must be one rule or"),
        ("data.window", (40.0, 80.0), {"data.intensity": "zscore"}, "uses no window"),
        ("data.statistics", (), {"data.intensity": "ct_zscore"}, "for each channel"),
        ("data.statistics", ((0.0, 1.0, 0.5),), {"data.intensity": "ct_zscore"}, "for each channel"),
        ("data.statistics", ((0.0, 1.0, 0.5, 0.1),), {}, "data.intensity='ct_zscore'"),
        ("data.axes", (0, 0, 1), {}, "a permutation of"),
        ("data.orientation", "LPS", {}, "did you mean lps|known: file"),
        ("data.size", (0, 16, 16), {}, r"at least 1 \(1 across"),
        ("data.spacing", (-1.0, 1.0, 1.0), {}, "0 keeps an axis"),
        ("data.nonzero", True, {"data.rank": 2, "data.size": (16, 16), "data.intensity": "zscore"}, "needs data.rank=3"),
        ("data.filter", "monai", {"data.rank": 2, "data.size": (16, 16)}, "needs data.rank=3"),
        ("data.intensity", "zscore_nonzero", {"data.rank": 2, "data.size": (16, 16)}, "needs data.rank=3"),
    ],
)
def test_a_bad_preparation_of_volumes_is_refused_by_name(key, value, others, words):
    config = base()
    config.update_from_flattened_dict({**VOLUMES, **others, key: value})
    with pytest.raises(ConfigError, match=words) as error:
        resolve(config)
    assert f"config.{key}" in str(error.value)


def test_an_optional_key_can_be_unset_on_the_command_line():
    config = base()
    config.update_from_flattened_dict({"data.protocol": "None", "data.structures": None})
    assert (resolve(config).data.protocol, resolve(config).data.structures) == (None, None)
    for inner in (flags.IntegerParser(), flags.FloatParser(), flags.BooleanParser()):
        parser = OrNone(inner)
        assert parser.parse("None") is None and parser.parse("1") == 1 and parser.flag_type() == inner.flag_type()
        with pytest.raises(ValueError, match="none of it"):
            parser.parse("none of it")


@pytest.mark.parametrize(
    "key, typed, words",
    [
        ("data.structures", "liver,spleen", ("liver", "spleen")),
        ("data.structures", "liver, left kidney", ("liver", "left kidney")),
        ("data.structures", "('a','b')", ("a", "b")),
        ("data.structures", "liver", ("liver",)),
        ("data.structures", "None", None),
        ("eval.tables", "ich,classes", ("ich", "classes")),
        ("data.extra", "kmeans,painted_edge", ("kmeans", "painted_edge")),
        ("data.size", "64,48", (64, 48)),
        ("data.size", "[64, 48]", (64, 48)),
        ("loss.terms", "('dice', 1.0),", (("dice", 1.0),)),
    ],
)
def test_words_typed_with_commas_are_a_list(monkeypatch, key, typed, words):
    monkeypatch.setattr(sys, "argv", ["program", f"--config.{key}={typed}"])  # where ml_collections looks
    values, config = flags.FlagValues(), base()
    config.data.channels, config.data.extra_run = 3, "run" if "edge" in typed else ""
    config_flags.DEFINE_config_dict("config", config, flag_values=values)
    values(sys.argv)
    group, leaf = key.split(".")
    found = resolve(values.config, overridden=list(config_flags.get_override_values(values["config"])))[group][leaf]
    assert found == words


PATCHES = {"data.fit": "patches"}
FITS = [  # keys, what the refusal says, the remedy that it names
    ({"data.spacing": (1.0, 1.0)}, "data.spacing.*to 'centre' or 'patches', or data.spacing to", {"data.fit": "centre"}),
    ({"data.spacing": (1.0, 1.0)}, "data.spacing.*to 'centre' or 'patches', or data.spacing to", {"data.fit": "patches"}),
    ({"data.fit": "centre"}, "data.fit='centre': needs data.spacing", {"data.spacing": (1.0, 1.0)}),
    ({"data.fit": "centre"}, "use 'stretch' or 'patches'", {"data.fit": "patches"}),
    (VOLUMES | {"data.fit": "stretch"}, "data.fit='stretch'.*set data.fit to 'patches'", {"data.fit": "patches"}),
    (VOLUMES | {"data.fit": "centre"}, "data.fit='centre'.*set data.fit to 'patches'", {"data.fit": "patches"}),
    (VOLUMES | {"data.whole": True}, "data.fit='patches'.*set data.fit to 'stretch'", {"data.fit": "stretch"}),
    (PATCHES | {"data.target": "edges"}, "data.target='edges'.*to 'stretch' or 'centre'", {"data.fit": "stretch"}),
    (PATCHES | {"data.extra": ("kmeans",), "data.channels": 2}, "data.extra.*one size", {"data.fit": "stretch"}),
    ({"data.fit": "patch"}, "did you mean patches", {"data.fit": "patches"}),
]


@pytest.mark.parametrize("keys, words, remedy", FITS, ids=[str(i) for i in range(len(FITS))])
def test_a_fit_that_does_not_go_with_the_other_keys_is_refused_with_a_remedy_that_works(keys, words, remedy):
    def tree(given):
        config = base()
        for name, value in given.items():
            group, _, leaf = name.partition(".")
            config[group][leaf] = value
        return resolve(config)

    with pytest.raises(ConfigError, match=words) as error:
        tree(keys)
    assert len(str(error.value).splitlines()) == 1
    tree(keys | remedy)


@pytest.mark.parametrize(
    "name, arguments, fit",
    [
        ("organs_ct", "", "centre"),
        ("organs_ct", "quick", "centre"),
        ("organs_ct3d", "", "patches"),
        ("brats_unet3d", "", "patches"),
        ("brats_unet3d", "slices", "stretch"),
        ("brats_roi", "", "stretch"),
        ("ich_segnext", "", "stretch"),
        ("folder", "", "stretch"),
        ("folder", "volumes", "patches"),
        ("folder", "patches", "patches"),
    ],
)
def test_every_config_says_how_images_come_to_the_size_of_the_network(name, arguments, fit):
    assert resolve(load(name, arguments)).data.fit == fit


@pytest.mark.parametrize("typed, words", [("(1, 2", "not a Python tuple"), ("'a,b", "not a Python tuple")])
def test_half_a_tuple_is_refused(typed, words):
    with pytest.raises(ValueError, match=words):
        Words().parse(typed)


def test_a_key_that_is_not_optional_cannot_be_unset():
    config = base()
    config.train.epochs = None
    with pytest.raises(ConfigError, match="config.train.epochs=None: this key cannot be None.*100"):
        resolve(config)


@pytest.mark.parametrize("key", ["embedded", "defaults", "defaults.data"])
def test_what_the_config_file_writes_is_no_key_for_the_command_line(key):
    with pytest.raises(ConfigError, match="can only be set in a config file"):
        resolve(base(), overridden=[key])


def test_an_optimiser_and_a_schedule_may_be_paths():
    config = base()
    config.optim.name, config.schedule.name = "optax:lion", "my_module:factory"
    assert resolve(config).optim.name == "optax:lion"


def test_plateau_needs_a_criterion():
    config = base()
    config.schedule.name, config.train.best = "plateau", "last"
    with pytest.raises(ConfigError, match="plateau"):
        resolve(config)


def test_embedded_values_apply_only_without_data_and_below_the_command_line():
    embedded = resolve(load("ich_segnext"))
    assert tuple(embedded.data.size) == (128, 128) and embedded.optim.name == "adamw"
    real = load("ich_segnext")
    real.data.root = "/data"
    real = resolve(real)
    assert tuple(real.data.size) == (640, 640) and real.optim.name == "adam" and real.schedule.name == "plateau"
    given = load("ich_segnext")
    given.train.epochs = 3
    assert resolve(given, overridden=["train.epochs"]).train.epochs == 3


def test_the_difference_describes_the_experiment():
    config = base()
    config.train.epochs, config.data.workers, config.name = 7, 2, "x"
    assert difference(resolve(config)).keys() == {"train.epochs", "data.workers"}
    assert "defaults" not in as_dict(resolve(config))


def test_neutral_keys_exist():
    assert set(NEUTRAL) <= flatten(base().to_dict()).keys()


@pytest.fixture(scope="module")
def networks():
    return {}  # (name, channels, options) -> numbers of its tensors: rows share networks


@pytest.mark.parametrize("title", ROWS)
def test_every_row_of_the_brats_2d_table_resolves_to_the_network_of_its_total(title, networks):
    row = ROWS[title]
    tree = load("brats2d", row.arguments)
    tree.data.root = "/data"
    config = resolve(tree)
    key = (config.model.name, setup.input_channels(config), str(config.model.options))
    if key not in networks:
        model = setup.build_model(config, 4, abstract=True)
        model.check(setup.input_shape(config))
        params, state = functional.split(model)[1:]
        networks[key] = sum(a.size for a in (*params.values(), *state.values()))
    assert networks[key] == row.count
    assert config.loss.terms and setup.build_loss(config)
    assert difference(resolve(load("brats2d", row.arguments)))  # and on the phantom


def test_one_total_of_the_brats_2d_table_is_not_derived_and_two_stand_on_each_others_rows():
    assert sorted((r.printed, r.count) for r in ROWS.values() if r.printed != r.count) == [
        (12046212, 15911684),
        (15911684, 12046212),
        (18127940, 22118532),
    ]


def test_the_lungs_stages_form_chains_that_begin_with_given_weights():
    for name, stage in STAGES.items():
        tree = load("lungs_pspnet", f"r101,{name}")
        tree.data.root = "/data"
        config = resolve(tree)
        assert config.model.init == (f"runs/lungs_pspnet-r101-{stage.after}" if stage.after else "")
        assert not stage.after or stage.after in STAGES
        assert resolve(load("lungs_pspnet", name)).model.init == ""  # the phantom's runs stand alone


def test_the_lists_of_fits_and_of_positions_agree():
    assert CHOICES["data.fit"] == canvas.FITS and CHOICES["data.positions"] == patches.POSITIONS


def test_the_lists_of_extra_channels_agree():
    assert {name: (n, name in EXTRA_BY_A_RUN) for name, n in EXTRA.items()} == channels.EXTRA
    assert EXTRA_BY_A_RUN == TARGET_OF and set(EXTRA_BY_A_RUN.values()) < set(channels.TARGETS)


@pytest.mark.parametrize(
    "given, words",
    [
        ({"data.extra": ("kmean",)}, "did you mean kmeans"),
        ({"data.extra": ("kmeans", "kmeans")}, "once"),
        ({"data.extra": ("kmeans",)}, "config.data.channels=1.*image channels \\+ 1"),
        ({"data.extra": ("edge",), "data.channels": 2}, "data.extra_run.*data.target='edges'"),
        ({"data.extra": ("edge", "autoencoder"), "data.channels": 3, "data.extra_run": "runs/x"}, "at most one"),
        ({"data.extra_run": "runs/x"}, "leave this key empty"),
        ({"data.crop": (4, 4)}, "at least 8"),
        ({"data.blur": -1.0}, "0 or more"),
        ({"data.target": "edge"}, "did you mean edges"),
        ({"data.target": "composite", "train.augment": (("hflip", 0.5, {}),)}, "would not be transformed"),
        ({"data.target": "edges", "data.regions": ("dataset",)}, "regions need data.target"),
        ({"data.rank": 3, "data.fit": "patches", "data.size": (32, 32, 32), "data.blur": 1.0}, "data.rank=2"),
        ({"search.low": 50.0}, "search.high"),
    ],
)
def test_extra_channels_and_targets_that_cannot_be_are_refused(given, words):
    config = base()
    config.update_from_flattened_dict(given)
    with pytest.raises(ConfigError, match=words):
        resolve(config)
