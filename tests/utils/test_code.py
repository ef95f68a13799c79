"""Modules that are imported by path: which files they are, found without running them, and when they are refused."""

import hashlib
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from jaxseg.types import MismatchError
from jaxseg.utils import code
from jaxseg.utils.lookup import import_object


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A module and a package of one's own, which end the test if somebody runs them unasked."""
    (tmp_path / "own_net.py").write_text("Net = 1\n")
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "__init__.py").write_text("raise SystemExit('run')\n")
    (tmp_path / "own_package" / "net.py").write_text("Net = 2\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(code, "_imported", {})
    monkeypatch.setattr(code, "_allowed", False)
    yield tmp_path
    for name in ("own_net", "own_package", "own_package.net"):
        sys.modules.pop(name, None)


def sha(*contents: bytes) -> str:
    return hashlib.sha256(b"".join(hashlib.sha256(content).digest() for content in contents)).hexdigest()


def test_the_digest_is_of_the_module_and_of_its_packages_and_runs_neither(folder):
    assert code.digest_of("own_net") == sha(b"Net = 1\n")
    assert code.digest_of("own_package.net") == sha(b"raise SystemExit('run')\n", b"Net = 2\n")
    assert code.digest_of("own_nothing") == code.digest_of("own_net.below") == code.digest_of("time") == ""
    assert "own_package" not in sys.modules and "own_net" not in sys.modules


def test_what_was_imported_by_a_path_that_the_tree_names_is_recorded_as_it_was_then(folder):
    assert import_object("own_net:Net") == 1 and import_object("optax:adam")
    (folder / "own_net.py").write_text("Net = 3\n")
    tree = {"model": {"name": "own_net:Net"}, "optim": {"name": "optax:adam"}}
    assert code.named(tree) == {"own_net": sha(b"Net = 1\n")}
    assert code.named({"model": {"name": "own_nets:Net"}}) == {}
    code.check(code.named(tree), folder)  # the process goes on with what it has imported


def test_beside_a_record_the_same_file_is_imported_and_another_or_an_unnamed_one_is_not(folder):
    with code.recorded_alone():
        with pytest.raises(MismatchError, match="the module 'own_net' but has no digest of it.*own_net.py.*--allow_code"):
            import_object("own_net:Net")
        with pytest.raises(MismatchError, match="'own_net' that differs from .*own_net.py; .*--allow_code"):
            code.check({"own_net": "0" * 64}, folder)
        assert "own_net" not in sys.modules
        code.check({"own_net": sha(b"Net = 1\n")}, folder)
        assert import_object("own_net:Net") == 1 and import_object("optax:adam")
    code.allow()
    with code.recorded_alone():
        code.check({"own_package.net": "0" * 64}, folder)
        with pytest.raises(SystemExit, match="run"):
            import_object("own_package.net:Net")


def test_blocks_that_overlap_in_two_threads_leave_nothing_behind(folder):
    """A opens, B opens, A ends, B ends: afterwards everything may be imported again, and B was held to its own check."""
    opened, ended = threading.Event(), threading.Event()

    def first():
        with code.recorded_alone():
            opened.set()
            assert ended.wait(20)

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(first)
        assert opened.wait(20)
        with code.recorded_alone():
            ended.set()
            other.result()
            with pytest.raises(MismatchError, match="own_net"):
                import_object("own_net:Net")
            code.check({"own_net": sha(b"Net = 1\n")}, folder)
            assert import_object("own_net:Net") == 1
    code.about_to_import("own_package.net")
