"""Laws of the configuration: typos fail, rules name key, value and remedy, command line wins over embedded values."""

import importlib
from pathlib import Path

import pytest

from configs._base import base
from jaxseg.config import NEUTRAL, as_dict, difference, flatten, resolve
from jaxseg.types import ConfigError

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


def test_unknown_key_in_a_file_is_an_error():
    with pytest.raises(AttributeError, match="Did you mean .epochs"):
        base().train.epoch = 3


def test_unknown_argument_lists_neighbours():
    with pytest.raises(ConfigError, match="quik.*did you mean quick"):
        load("ich_segnext", "quik")


@pytest.mark.parametrize("key, value, words", [
    ("train.epochs", 0, "at least 1"), ("optim.lr", -1.0, "above 0"), ("optim.lr", float("nan"), "finite"),
    ("optim.name", "adma", "did you mean adam"), ("train.dtype", "float16", "float32"),
    ("data.size", (640,), "height, width"),
    ("data.fractions", (0.5, 0.1, 0.1), "sum to 1"), ("data.window", (40.0, 0.0), "width"), ("eval.threshold", 1.0, "between"),
    ("data.split", "patients", "did you mean patient"), ("train.best", "val_dise", "val_dice"), 
    ("loss.terms", (), "at least one"),
])
def test_a_bad_value_is_refused_by_name(key, value, words):
    config = base()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(ConfigError, match=words) as error:
        resolve(config)
    assert f"config.{key}" in str(error.value)


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
