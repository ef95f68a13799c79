"""Config files by path, or by name from anywhere."""

import importlib.util
from pathlib import Path

import pytest

from jaxseg.cli import recipes
from jaxseg.types import ConfigError

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("given", ["folder", "folder.py", "configs/folder.py", "configs/folder"])
def test_a_name_means_the_config_that_comes_with_the_library_from_any_folder(tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    assert recipes.find(given).resolve() == (CONFIGS / "folder.py").resolve()


def test_a_file_that_is_there_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.py").write_text("")
    assert recipes.find("folder.py") == Path("folder.py")


@pytest.mark.parametrize("given", ["nope.py", "other/folder.py", "folder.txt", "_base", ""])
def test_what_is_neither_is_refused_with_names(tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="no file and no config has this name"):
        recipes.find(given)


def test_a_copy_can_be_edited_and_loaded_where_it_lies(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written = recipes.copy("ich_segnext", tmp_path)
    recipes.importable()
    spec = importlib.util.spec_from_file_location("copied", written)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (module.get_config("quick").variant, module.get_config("quick").model.name) == ("quick", "segnext_test_ich")
    with pytest.raises(ConfigError, match="exists; give another name with --output"):
        recipes.copy("ich_segnext", tmp_path)
    assert recipes.copy("ich_segnext", tmp_path / "mine.py").read_bytes() == written.read_bytes()
