"""Both ends of a command: Ctrl-C, closed and full streams, other encodings, file permissions, exit codes."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jaxseg.types import StorageError
from jaxseg.utils import files

ROOT = Path(__file__).parent.parent.parent
HEAD = "import sys; from jaxseg.utils import command, files; command.begin()\n"


def script(body: str, *, run: bool = True) -> list[str]:
    """A command whose main is `body`."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    return [sys.executable, "-c", HEAD + (f"def main():\n{lines}command.run('x', main)\n" if run else body)]


def start(body: str, *, run: bool = True, environment: dict[str, str] | None = None, **options) -> subprocess.Popen:
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
    return subprocess.Popen(
        script(body, run=run), cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}, **options
    )


def ended(*arguments, **options) -> tuple[int, str, str]:
    process = start(*arguments, **options)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.parametrize(
    "body, code, line",
    [
        ("return None", 0, ""),
        ("return 42", 42, ""),
        ("from jaxseg.types import DataError\nraise DataError('bad')", 65, "x: bad\n"),
        (
            "raise OSError(28, 'No space left on device', 'a.npy')",
            74,
            "x: cannot write a.npy: No space left on device; free space or choose another folder\n",
        ),
        (
            "raise RuntimeError('RESOURCE_EXHAUSTED: Out of memory')",
            64,
            "x: memory is full (RESOURCE_EXHAUSTED: Out of memory); training: set train.remat=blocks, or halve "
            "train.batch_size and double optim.accumulate, or lower data.size; prediction: lower infer.batch_size or "
            "infer.windows\n",
        ),
        ("raise KeyboardInterrupt", 130, "x: interrupted after 0 s\n"),
    ],
)
def test_a_command_ends_with_its_code_and_one_line(body, code, line):
    assert ended(body) == (code, "", line)


def test_a_mistake_in_our_code_keeps_its_traceback():
    code, _, err = ended("raise TypeError('ours')")
    assert code == 1 and "Traceback" in err and "ours" in err


@pytest.mark.parametrize("place", ["destructor", "except", "callback"])
def test_an_interrupt_that_was_swallowed_still_ends_the_command(place):
    body = {
        "destructor": "class A:\n    def __del__(self): signal.raise_signal(signal.SIGINT)\nA()",
        "except": "try: signal.raise_signal(signal.SIGINT)\nexcept BaseException: pass",
        "callback": "import weakref\nclass A: pass\na = A()\n"
        "r = weakref.ref(a, lambda _: signal.raise_signal(signal.SIGINT))\ndel a",
    }[place]
    tail = "\nprint('went on', flush=True)\ncommand.check_interrupt()\nprint('lost')"
    code, out, err = ended("import signal\n" + body + tail)
    assert code == 130 and out == "went on\n" and "x: interrupted" in err
    code, _, err = ended("import signal\n" + body + "\nreturn 0")  # not asked on the way: asked at the end
    assert code == 130 and "x: interrupted" in err


def test_the_third_interrupt_ends_a_command_that_does_not_let_go():
    code, out, _ = ended(
        "import signal\nfor _ in range(5):\n    try: signal.raise_signal(signal.SIGINT)\n"
        "    except KeyboardInterrupt: print('kept', flush=True)"
    )
    assert code == 130 and out == "kept\n" * 2


def test_an_interrupt_while_modules_are_imported_is_one_line():
    process = start("print('up', flush=True)\nimport time; time.sleep(30)", run=False)
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[1] == "jaxseg: interrupted\n" and process.returncode == 130


def test_a_reader_that_leaves_stops_nothing(tmp_path):
    body = f"for i in range(20000):\n    print('line', i, flush=i % 100 == 0)\nopen({str(tmp_path / 'done')!r}, 'w').close()"
    process = start(body)
    assert process.stdout.readline() == "line 0\n"
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait(60) == 0 and (tmp_path / "done").exists()


@pytest.mark.parametrize("flush", [True, False])
def test_a_report_that_the_disk_has_no_room_for_is_code_74(flush):
    with open("/dev/full", "w") as full:
        code, _, err = ended(f"print('report', flush={flush})", stdout=full)
    assert code == 74 and err.count("\n") == 1 and "No space left" in err


def test_what_libraries_print_goes_to_the_error_stream_where_the_output_is_pythons_alone():
    body = "import os\ncommand.python_alone()\nos.write(1, b'[Gloo]\\n')\nos.system('echo a child')\nprint('{}')\nreturn 42"
    assert ended(body) == (42, "{}\n", "[Gloo]\na child\n")
    code, _, err = ended("command.python_alone()\nprint('{}')", stdout=open("/dev/full", "w"))
    assert code == 74 and "No space left" in err


@pytest.mark.parametrize("closed", [(1,), (2,), (0, 1, 2)])
def test_closed_streams_are_no_files_of_ours(tmp_path, closed):
    body = (
        f"with open({str(tmp_path / 'x')!r}, 'w') as file:\n    print('words'); print('more', file=sys.stderr)\n"
        "    assert file.fileno() > 2\n    file.write('ours')\nreturn 42"
    )
    shut = " ".join(f"{n}>&-" if n else "0<&-" for n in closed)
    done = subprocess.run(
        ["bash", "-c", f'"$@" {shut}', "bash", *script(body)],
        cwd=ROOT,
        timeout=60,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 42 and (tmp_path / "x").read_text() == "ours"


@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "C"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
    ],
    ids=str,
)
def test_any_name_can_be_printed_in_any_locale(environment):
    body = (
        "from jaxseg.types import DataError\nprint('caf\\u00e9 \\u65e5 \\udcff', flush=True)\nraise DataError('\\u65e5 \\udcff')"
    )
    process = start(body, environment=environment, text=False)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 65 and out.startswith(b"caf") and err.startswith(b"x: ") and err.count(b"\n") == 1


@pytest.mark.parametrize("mask, mode", [("077", 0o600), ("027", 0o640), ("", 0o644)])
@pytest.mark.fault("P12")
def test_files_follow_the_mask_that_is_asked_for(tmp_path, mask, mode):
    body = f"files.write_atomic({str(tmp_path / 'x')!r}, 'x'); open({str(tmp_path / 'y')!r}, 'w').close()"
    done = subprocess.run(
        ["bash", "-c", 'umask 022; exec "$@"', "bash", *script(body)],
        cwd=ROOT,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAXSEG_UMASK": mask},
    )
    assert done.returncode == 0
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in "xy"] == [mode] * 2


@pytest.mark.parametrize("mask", ["999", "private", "-77", "1777", "700"])
def test_a_mask_that_is_none_is_refused(mask):
    code, _, err = ended("return 0", environment={"JAXSEG_UMASK": mask})
    assert code == 64 and f"JAXSEG_UMASK={mask}" in err


def test_without_a_home_folder_the_cache_is_asked_for(monkeypatch):
    def homeless(self):
        raise RuntimeError("Could not determine home directory.")

    for name in ("JAXSEG_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "expanduser", homeless)
    with pytest.raises(StorageError, match="set JAXSEG_CACHE"):
        files.cache_root()


def test_these_commands_start_quickly():
    used = lambda: sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    begin = used()
    ended("return 0")
    assert used() - begin < 5  # seconds of a core; nothing heavy is imported before a stream is looked at
