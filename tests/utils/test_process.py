"""The new start with huge pages."""

import os
import subprocess
import sys

import pytest

from jaxseg.utils import process

CODE = """
from jaxseg.utils.process import start_with_huge_pages
start_with_huge_pages()
import os, sys
print(os.environ.get("GLIBC_TUNABLES"), os.getpid(), *sys.argv[1:])
"""


def _start(**variables):
    env = {k: v for k, v in os.environ.items() if k not in ("GLIBC_TUNABLES", "JAXSEG_HUGE_PAGES")} | variables
    process = subprocess.Popen([sys.executable, "-c", CODE, "a b", "--flag"], env=env, stdout=subprocess.PIPE, text=True)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return out.strip().split(" ", 2), process.pid


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's setting")
def test_starts_once_more_with_the_same_arguments_and_process_number():
    (tunable, number, arguments), pid = _start()
    assert (tunable, int(number), arguments) == (process.TUNABLE, pid, "a b --flag")


@pytest.mark.parametrize("variables,found", [({"JAXSEG_HUGE_PAGES": "0"}, "None"), ({"GLIBC_TUNABLES": "x=1"}, "x=1")])
def test_leaves_a_setting_and_a_refusal_alone(variables, found):
    assert _start(**variables)[0][0] == found
