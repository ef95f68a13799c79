"""Flags that stand for keys of a config."""

import subprocess
import sys

import pytest

from jaxseg.cli import flags


@pytest.mark.parametrize(
    "typed, found",
    [
        (["--statistics"], ["--config.infer.statistics=True"]),
        (["--statistics=False", "--overwrite"], ["--config.infer.statistics=False", "--overwrite"]),
        (["--uncertainty", "--output=x"], ["--config.infer.uncertainty=entropy", "--output=x"]),
        (["--uncertainty", "variance"], ["--config.infer.uncertainty=variance"]),
        (["--uncertainty=entropy"], ["--config.infer.uncertainty=entropy"]),
    ],
)
def test_a_flag_becomes_its_key(typed, found):
    assert flags._found(typed) == found


def test_the_keys_of_flags_reach_the_config():
    """In a process of its own: a key is defined once, from the process's own command line."""
    code = (
        "import sys; from jaxseg.cli import flags; flags.parse(list(sys.argv)); "
        "c = flags.CONFIG.value.infer; print(c.statistics, c.uncertainty, sorted(flags.overridden()))"
    )
    words = ["--mode=predict", "--config=folder", "--uncertainty", "variance", "--statistics"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "True variance ['infer.statistics', 'infer.uncertainty']", done.stderr[-500:]
