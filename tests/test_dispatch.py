"""`jaxseg COMMAND NAME` is `python -m jaxseg.main --mode=COMMAND`, and answers quickly what needs no computing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxseg import dispatch

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    "name, words, flags",
    [
        ("train", ["folder:quick", "--workdir=w"], ["--mode=train", "--config=folder:quick", "--workdir=w"]),
        ("predict", ["runs/a", "--input=i"], ["--mode=predict", "--workdir=runs/a", "--input=i"]),
        ("evaluate", ["--workdir=runs/a"], ["--mode=evaluate", "--workdir=runs/a"]),
        ("check", [], ["--mode=check"]),
    ],
)
def test_the_first_word_is_a_config_or_a_run(name, words, flags):
    assert dispatch.as_mode(name, words) == ["jaxseg", *flags]


LIGHT = [
    (["--help"], 0, "jaxseg COMMAND"),
    (["--version"], 0, "jaxseg "),
    (["train", "--help"], 0, "--config.KEY=VALUE"),
    (["zoo"], 0, "segformer_b0"),
    (["zoo", "no_such_network"], 64, "unknown network"),
    (["doctor", "--nonsense"], 64, "unrecognized arguments"),
    (["evaluat"], 64, "did you mean evaluate"),
    (["train"], 64, "needs --config=FILE"),
    (["train", "nope", "--config.train.epochs=2"], 64, "no file and no config has this name"),
    (["train", "folder", "--config.train.epoch=2"], 64, "Did you mean 'epochs'"),
    (["train", "folder", "--config.loss.terms=(('dise', 1.0),)"], 64, "did you mean dice"),
    (["train", "folder", "--config.model.name=segnex_t"], 64, "did you mean segnext_t"),
    (["train", "folder", "--config.train.augment=(('flop', 0.5, {}),)"], 64, "unknown transform 'flop'"),
    (["check", "folder", "--config.data.dataset=foldr"], 64, "did you mean folder"),
    (["evaluate", "no_such_run"], 66, "not a run folder"),
    (["predict"], 64, "need a run"),
]


def test_answers_that_need_no_computing_do_not_import_jax(tmp_path):
    """All in one process, each forked from it before anything was imported."""
    code = f"""
import os, sys, contextlib, io
for words, expected, text in {LIGHT!r}:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(write, 1); os.dup2(write, 2); os.close(read)
        from jaxseg import dispatch
        try:
            dispatch.run(["jaxseg", *words])
        except SystemExit as end:
            sys.stdout.flush(); sys.stderr.flush()
            os._exit(99 if "jax" in sys.modules else int(end.code or 0))
    os.close(write)
    with os.fdopen(read) as file:
        said = file.read()
    found = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert found == expected and text in said and "Traceback" not in said, (words, found, said[-500:])
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, timeout=120, env=_environment())


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}
