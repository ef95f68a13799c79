"""Factors of modalities and gates of channels are those that the layers compute, and their files have the project's columns."""

import csv
import types

import jax
import numpy as np
import pytest
from flax import nnx

from jaxseg.experiments.insight import attention
from jaxseg.layers.mobile import ChannelAttention
from jaxseg.models import create_model, functional
from jaxseg.models.base import Outputs, Segmenter
from jaxseg.models.dual_branch.network import ModalityAttention


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


class Branches(Segmenter):
    """Two channels, each a branch, weighed and added."""

    in_channels, num_classes, rank = 2, 1, 2

    def __init__(self):
        self.attention = ModalityAttention(2, 2, rngs=nnx.Rngs(0))

    def forward(self, image, context):
        a, b = self.attention([image, image[..., ::-1]])
        return Outputs((a + b).sum(-1, keepdims=True))


def test_factors_are_the_sigmoids_that_multiply_the_branches():
    network, params, state = functional.split(Branches())
    tapped = attention.layers(network, params, state)
    assert tapped == {"modality": ["attention.fc2"]}
    params |= {"attention.fc2.weight": 0 * params["attention.fc2.weight"], "attention.fc2.bias": np.array([-1, 2], np.float32)}
    forward = types.SimpleNamespace(network=network, mean=(), std=())
    run = types.SimpleNamespace(application=types.SimpleNamespace(forward=forward), weights=((params, state),))
    found = attention.gates(run, tapped, np.ones((4, 6, 2), np.float32))
    assert found["attention.fc2"] == pytest.approx(1 / (1 + np.exp([1, -2])), abs=1e-6)
    whole = functional.split(create_model("quadbranch_4modal_attention_unet_test", abstract=True))
    assert len(attention.layers(*whole)["modality"]) == 2


def test_the_files_have_the_columns_of_the_project(tmp_path, monkeypatch):
    monkeypatch.setattr(attention.paper, "available", lambda: False)
    by_case = {"a": {"m.fc2": np.array([0.1, 0.3])}, "b": {"m.fc2": np.array([0.3, 0.5])}}
    name = "modality_attention_net.csv"
    attention._write_modalities(tmp_path, "net", name, ["m.fc2"], by_case, ("t1ce", "flair"), lambda case: f"#{case}")
    assert rows(tmp_path / name) == [
        {"sample_id": "#a", "T1CE": "0.1", "FLAIR": "0.3"},
        {"sample_id": "#b", "T1CE": "0.3", "FLAIR": "0.5"},
    ]
    (first, _) = rows(tmp_path / "modality_attention_summary_net.csv")
    assert first["modality"] == "T1CE" and float(first["mean_contribution"]) == pytest.approx(0.2)
    assert float(first["std_contribution"]) == pytest.approx(np.std([0.1, 0.3], ddof=1))
    attention._write_channels(tmp_path, "channel_attention_summary_net", ["m.fc2"], by_case, "x", "net")
    assert list(rows(tmp_path / "channel_attention_summary_net.csv")[1]) == ["block_name", "channel", "mean_weight", "std_weight"]


def test_a_channels_gate_is_found_from_what_goes_in_and_out():
    layer = ChannelAttention(8, 2, rngs=nnx.Rngs(0))
    x = np.random.default_rng(0).normal(size=(1, 4, 5, 8)).astype(np.float32)
    with jax.disable_jit():
        out = np.asarray(layer(x))
    gate = (x * out).sum((1, 2))[0] / (x**2).sum((1, 2))[0]
    assert out == pytest.approx(x * gate, abs=1e-5) and ((gate > 0) & (gate < 1)).all()
