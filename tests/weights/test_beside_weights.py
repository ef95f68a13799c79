"""Objects of training scripts beside the weights of a file are passed over, without running anything."""

import argparse
import collections
import datetime
import types
from pathlib import Path

import numpy as np
import pytest

from jaxseg.weights import torch_files


@pytest.mark.parametrize("options", [{}, {"pickle_protocol": 4}, {"_use_new_zipfile_serialization": False}], ids=str)
def test_what_training_scripts_keep_beside_the_weights_is_passed_over(tmp_path, options):
    torch = pytest.importorskip("torch", reason="parity needs the extra [parity]")
    beside = {
        "args": argparse.Namespace(lr=1e-3, path=Path("a/b"), names=["x"]),
        "seen": {1, 2},
        "frozen": frozenset({"a"}),
        "counts": collections.Counter("aab"),
        "lists": collections.defaultdict(list, {"k": [1]}),
        "recent": collections.deque([1.0], maxlen=5),
        "time": datetime.datetime(2026, 1, 1),
        "space": types.SimpleNamespace(a=1),
    }
    weights = {"weight": torch.arange(6.0).reshape(2, 3)}
    torch.save({"state_dict": weights, **beside}, tmp_path / "w.pth", **options)
    read = torch_files.read(tmp_path / "w.pth")
    assert list(read) == ["state_dict.weight"]
    np.testing.assert_array_equal(read["state_dict.weight"], weights["weight"].numpy())
