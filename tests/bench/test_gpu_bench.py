"""The command for minutes on a GPU: stages that fail or hang cost themselves alone, and a lane that measures stops the others."""

import os
import subprocess
import sys
import time

import pytest

from jaxseg.bench.__main__ import main
from jaxseg.bench.gpu import lanes, stages
from jaxseg.types import ConfigError

WRITE = "import sys, json; open(sys.argv[sys.argv.index('--results') + 1], 'a').write(json.dumps({'stage': '%s'}) + '\\n')"


def _stage(name: str, code: str, limit: float = 60.0) -> stages.TimedCommand:
    return stages.TimedCommand(name, ("-c", code), limit)


def test_a_stage_that_fails_or_hangs_costs_itself_alone_and_the_others_are_not_repeated(tmp_path, monkeypatch, capsys):
    three = (
        _stage("hangs", "import time; time.sleep(60)", 0.5),
        _stage("fails", "raise SystemExit(3)"),
        _stage("one", WRITE % "one"),
    )
    monkeypatch.setattr(stages, "STAGES", three)
    assert main(["--gpu", f"--output={tmp_path}", "--lanes=2"]) == 1
    assert "1 of 3 stages succeeded; failed: " in capsys.readouterr().out
    (tmp_path / "results.jsonl").open("a").write('{"stage": "cut of')  # a process was killed while it wrote
    lines = stages.read(tmp_path)
    assert {"stage": "one"} in lines
    assert {line["ended"]: line["code"] for line in lines if "ended" in line} == {"hangs": 124, "fails": 3, "one": 0}
    monkeypatch.setattr(stages, "STAGES", (_stage("fails", WRITE % "mended"), *three[2:]))
    assert main(["--gpu", f"--output={tmp_path}"]) == 0
    assert [line["stage"] for line in stages.read(tmp_path) if "stage" in line] == ["one", "mended"]


def test_what_the_minutes_do_not_hold_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(stages, "STAGES", (_stage("long", "import time; time.sleep(60)"), _stage("next", "pass")))
    assert main(["--gpu", f"--output={tmp_path}", "--lanes=1", "--minutes=0.01"]) == 1
    assert "0 of 2 stages succeeded; failed: long, next" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="--only=nothing; the stages are long, next"):
        main(["--gpu", f"--output={tmp_path / 'other'}", "--only=nothing"])


def test_a_lane_that_measures_stops_the_others(tmp_path, monkeypatch):
    monkeypatch.setenv(lanes.FOLDER, str(tmp_path))
    counter = tmp_path / "count"
    code = f"import time\nwhile True:\n  open({str(counter)!r}, 'a').write('x'); time.sleep(0.005)"
    other = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    mark = lanes.join(tmp_path, other.pid)
    size = lambda: counter.stat().st_size if counter.exists() else 0
    try:
        _until(lambda: size() > 0)
        with lanes.alone():
            before = size()
            assert _state(other.pid) == "T"
        _until(lambda: size() > before)
        lanes.join(tmp_path, 2**22 + 1)  # a lane that has ended meanwhile
        with lanes.alone():
            pass
    finally:
        other.kill()
        other.wait()
        mark.unlink()


def _until(holds, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def _state(pid: int) -> str:
    return open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0]


def test_without_lanes_nothing_is_stopped(monkeypatch):
    monkeypatch.delenv(lanes.FOLDER, raising=False)
    with lanes.alone():
        assert lanes.FOLDER not in os.environ
