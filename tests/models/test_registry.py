"""Networks by name: every mistake of a caller is answered with what would do."""

import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxseg.layers import Conv
from jaxseg.models import Outputs, Segmenter, create_model, functional, list_models
from jaxseg.models.registry import FAMILIES, family_of, variants
from jaxseg.types import ConfigError


def test_names_are_sorted_unique_and_filtered():
    names = list_models()
    assert names == sorted(set(names)) == sorted(variants())
    assert list_models("segnext_t") == [n for n in names if "segnext_t" in n]


def test_every_family_has_a_test_variant():
    for family in FAMILIES:
        assert any("_test" in n for n in variants() if family_of(n).__name__.endswith(f".{family}")), family


@pytest.mark.parametrize(
    "name,near", [("segnet_t_ich", "segnext_t_ich"), ("segnext_t_seed", "segnext_t_ich"), ("unet_bsae", "unet_base")]
)
def test_unknown_names_list_their_neighbours(name, near):
    with pytest.raises(ConfigError, match=f"unknown model '{name}': did you mean .*{near}"):
        create_model(name)


def test_unknown_options_and_ranks_are_refused():
    with pytest.raises(ConfigError, match="option of model 'segnext_test' 'drop_pth': did you mean drop_path"):
        create_model("segnext_test", drop_pth=0.1)
    with pytest.raises(ConfigError, match="rank=3 .*must be 2"):
        create_model("segnext_test", rank=3)


def test_sizes_and_options_reach_the_network():
    model = create_model("unet_test", in_channels=3, num_classes=4, widths=[2, 4])
    assert model(jnp.zeros((1, 4, 4, 3))).shape == (1, 4, 4, 4)


def test_the_seed_decides_the_initial_values():
    a, b, c = (functional.split(create_model("unet_test", seed=s))[1] for s in (0, 0, 1))
    assert all(np.array_equal(a[n], b[n]) for n in a)
    assert not all(np.array_equal(a[n], c[n]) for n in a)


class Mine(Segmenter):
    def __init__(self, *, in_channels, num_classes, rank, rngs, width=3):
        self.in_channels, self.num_classes, self.rank = in_channels, num_classes, rank
        self.a = Conv(in_channels, width, 3, rank=rank, rngs=rngs)
        self.b = Conv(width, num_classes, 1, rank=rank, rngs=rngs)

    def forward(self, image, context):
        return Outputs(self.b(self.a(image)))


class NoSegmenter(nnx.Module):
    def __init__(self, *, in_channels, num_classes, rank, rngs):
        pass


@pytest.fixture
def my_module(monkeypatch):
    module = types.ModuleType("my_nets")
    module.Mine, module.Other = Mine, NoSegmenter
    monkeypatch.setitem(sys.modules, "my_nets", module)


def test_a_network_of_ones_own_comes_by_module_and_name(my_module):
    model = create_model("my_nets:Mine", in_channels=2, num_classes=3, rank=3, width=5)
    assert model(jnp.zeros((1, 2, 3, 4, 2))).shape == (1, 2, 3, 4, 3)
    assert functional.split(model)[1]["a.weight"].shape == (3, 3, 3, 2, 5)


@pytest.mark.parametrize(
    "name,message",
    [
        ("my_nets:Mien", "no attribute 'Mien'"),
        ("nowhere_nets:Mine", "no module named 'nowhere_nets'"),
        ("my_nets:Other", "derive it from jaxseg.models.Segmenter"),
        (":Mine", "package.module:Name"),
        ("os:path", "derive it from jaxseg.models.Segmenter"),
        (3, "give its name"),
    ],
)
def test_a_wrong_path_to_a_network_says_what_is_wrong(my_module, name, message):
    with pytest.raises(ConfigError, match=message):
        create_model(name)


def test_an_option_that_a_network_of_ones_own_does_not_take_has_neighbours(my_module):
    with pytest.raises(ConfigError, match="option of model 'my_nets:Mine' 'widht': did you mean width"):
        create_model("my_nets:Mine", widht=5)


@pytest.mark.parametrize(
    "given,message",
    [
        ({"in_channels": 0}, "in_channels=0.*whole number of at least 1"),
        ({"num_classes": -1}, "num_classes=-1"),
        ({"rank": 0}, "rank=0"),
        ({"num_classes": 2.0}, "num_classes=2.0"),
        ({"in_channels": True}, "in_channels=True"),
        ({"seed": True}, "seed=True"),
        ({"seed": 1.5}, "seed=1.5.*whole number"),
        ({"widths": "wide"}, "cannot be built with widths='wide'"),
        ({"widths": ()}, "cannot be built with"),
    ],
)
def test_a_network_that_cannot_be_is_refused_with_what_was_asked_for(given, message):
    with pytest.raises(ConfigError, match=message):
        create_model("unet_test", abstract=True, **given)


def test_a_batch_of_no_image_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        create_model("unet_test", abstract=True).check((0, 32, 32, 1))
