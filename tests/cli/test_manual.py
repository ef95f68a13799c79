"""--help lists every flag and every key, with the defaults that the tree has."""

import ast

import jaxseg
from configs._base import base
from jaxseg import calls, modes
from jaxseg.cli import commands, manual, recipes
from jaxseg.config import flatten


def test_every_key_of_the_tree_is_there_with_its_default_and_a_comment():
    listed = {
        f"{group}.{key}" if group else key: value for group, keys in manual.keys_by_group().items() for key, value in keys.items()
    }
    tree = flatten(base().to_dict())
    tree.pop("defaults"), tree.pop("embedded")
    assert listed.keys() == tree.keys()
    for key, (default, _) in listed.items():
        value = ast.literal_eval(default) if "/" not in default else eval(default, {"__builtins__": {}})
        assert value == (tree[key] if tree[key] is not None else None), key
    silent = [key for key, (_, comment) in listed.items() if not comment]
    assert silent == ["train.epochs", "eval.batch_size", "infer.batch_size"]


def test_the_text_names_flags_keys_and_configs():
    text = manual.of_modes()
    assert all(word in text for word in ("--workdir", "--num_processes", "optim.clip_norm = 0.0", "exit codes", "infer.mirror"))
    overview = manual.overview()
    assert all(name in overview for name in (*commands.MODES, *commands.TOOLS))
    assert all(f"\n  {name} " in overview for name in recipes.names())
    assert "\n  folder             Your own pictures or volumes" in overview


def test_only_asked_for():
    assert manual.asked(["jaxseg", "--version"]) == f"jaxseg {jaxseg.__version__}"
    assert manual.asked(["jaxseg", "-h"]) == manual.of_modes()
    assert manual.asked(["jaxseg", "--config=x.py", "--input=-h"]) == ""


def test_every_mode_says_which_flags_it_takes():
    """A mode without `takes` would ignore the flags of others."""
    assert set(calls.TAKEN) == set(commands.MODES) and all(hasattr(modes, name) for name in commands.MODES)
