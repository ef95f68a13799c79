"""A validation of volumes by two real processes over gloo is that of one, row by row."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from launch.local import free_port
from tests.evaluate import two_processes

ROOT = Path(__file__).parents[2]


def test_three_volumes_are_scored_by_two_processes_as_by_one(tmp_path):
    store = two_processes.make_store(tmp_path / "store")
    port = free_port()
    processes = [
        subprocess.Popen(
            [sys.executable, str(Path(two_processes.__file__)), str(tmp_path), str(port), str(i)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
            stderr=subprocess.STDOUT,
        )
        for i in range(2)
    ]
    try:
        one = two_processes.evaluate(store, tmp_path / "one")
        for process in processes:
            output, _ = process.communicate(timeout=120)
            assert process.returncode == 0, output[-3000:]
    finally:
        for process in processes:
            process.kill()
    two = [json.loads((tmp_path / f"{i}.json").read_text()) for i in range(2)]
    assert one["voxels"] == [3 * 10**9] and [t.pop("voxels") for t in two] == [[6 * 10**9]] * 2
    for name, expected in json.loads(json.dumps({k: one[k] for k in ("three", "one")})).items():
        for found in two:
            cases = list(dict.fromkeys(row["case"] for row in found[name]["cases"]))
            assert cases == (["c0", "c1", "c2"] if name == "three" else ["c1"])
            for what in ("cases", "lesions", "confusion"):
                assert json.dumps(found[name][what]) == json.dumps(expected[what]), what  # NaN is NaN there
            assert found[name]["figures"].pop("positive") == expected["figures"]["positive"]
            scores = expected["figures"].keys() - {"positive"}
            assert found[name]["figures"].keys() == scores
            for score in scores:
                np.testing.assert_allclose(found[name]["figures"][score], expected["figures"][score], rtol=1e-6)
        for table in ("cases.csv", "lesions.csv", "confusion.csv", "evaluation.json"):
            texts = [(tmp_path / n / name / table).read_text() for n in ("one", "two")]
            assert texts[0] == texts[1], table
