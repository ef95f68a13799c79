"""The bench: what it computes from its measurements, and that one command measures a row of each suite."""

import csv
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jaxseg.bench import clock, machine, pair, table
from jaxseg.bench.__main__ import SUITES, parse
from jaxseg.bench.gpu import kernels
from jaxseg.bench.side import Options
from jaxseg.bench.suites import devices, models, ops, startup
from jaxseg.types import ConfigError

ROOT = Path(__file__).parents[2]


def test_a_power_law_has_its_exponent_as_slope():
    sizes = [8, 27, 64, 1000]
    assert clock.slope(sizes, [3.0 * s**1.5 for s in sizes]) == pytest.approx(1.5)
    with pytest.raises(ValueError, match="two or more sizes"):
        clock.slope([8, 8], [1.0, 2.0])


def test_competitors_run_in_turn_and_one_slow_moment_does_not_move_the_median():
    order, slow = [], iter([0, 0, 0, 900] + 96 * [0])

    def block(name, ms):
        def f(runs):
            order.append(name)
            return ms + next(slow)

        return f

    found = clock.interleaved({"a": block("a", 2600.0), "b": block("b", 100.0)}, seconds=0.0, least=5, pause=0.0)
    assert found == {"a": (2600.0, 3), "b": (100.0, 3)}  # three rounds, since a call of a takes longer than two seconds
    assert order == list("ab" * 4)  # the first round finds how many calls make a block


def test_a_block_begins_with_a_call_that_is_not_counted(monkeypatch):
    calls = []
    monkeypatch.setattr(clock.time, "perf_counter", lambda: sum(calls))
    assert clock.block(lambda: calls.append(0.25 if calls else 100.0), 3, lambda _: None) == 250.0
    assert calls == [100.0, 0.25, 0.25, 0.25]


def test_a_side_and_its_workers_stand_still_while_they_are_not_asked(tmp_path, monkeypatch):
    """The side answers with the process ids of itself and its worker; /proc says whether they are stopped."""
    (tmp_path / "interpreter").write_text(f"""#!{sys.executable}
import json, os, sys, time
worker = os.fork()
if worker:
    for line in sys.stdin:
        print(json.dumps([os.getpid(), worker]), flush=True)
while True:
    time.sleep(60)
""")
    (tmp_path / "interpreter").chmod(0o755)
    monkeypatch.setattr(pair.sys, "executable", str(tmp_path / "interpreter"))
    side = pair.Process("ops", "x", "peer", Options(""), time.monotonic() + 60, subprocess.DEVNULL)
    for _ in range(2):
        pids = side.ask(do="time")
        assert len(pids) == 2
        _until(lambda pids=pids: {_state(pid) for pid in pids} == {"T"})
    side.close()
    _until(lambda: not {_state(pid) for pid in pids} - {"gone", "Z"})


def _until(holds, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "gone"


def test_the_ratio_is_ours_over_the_peers_and_a_wrong_result_has_none():
    row = table.Row("ops", "x", "call", ours=2.0, peer_value=4.0, error=1e-6)
    assert row.with_ratio(1e-5).ratio == 0.5
    assert row.with_ratio(1e-7).ratio == "FAILED"
    row.parameters = 10
    assert row.with_ratio(1e-5, 11).ratio == "FAILED" and row.with_ratio(1e-5, 10).ratio == 0.5
    row.error = float("nan")
    assert row.with_ratio(1e-5).ratio == "FAILED"
    assert table.Row("ops", "x", "call", ours=2.0).with_ratio(1e-5).ratio is None


def test_results_differ_by_their_largest_error_over_the_spread(tmp_path):
    assert pair.difference(tmp_path, "call") is None
    b = np.arange(100.0)
    a = b.copy()
    a[3] += 1
    np.save(tmp_path / "call.ours.npy", a)
    np.save(tmp_path / "call.peer.npy", b)
    assert pair.difference(tmp_path, "call") == pytest.approx(1 / b.std())
    np.save(tmp_path / "call.peer.npy", b[:50])
    assert pair.difference(tmp_path, "call") == float("inf")


def test_the_table_leaves_out_columns_that_no_row_fills_and_ends_with_the_ratio():
    row = table.Row("ops", "x", "call", ours=2.0, peer_value=4.0, peer="scipy").with_ratio()
    rows = [row, table.Row("ops", "y", "call", ours=1e7)]
    text = table.markdown(rows, {"machine": "m", "cores": "2"})
    assert "| work | unit | ours | peer | which | ratio |" in text and "machine m, cores 2" in text
    assert "| x call | ms | 2 | 4 | scipy | 0.5 |" in text and "| y call | ms | 1.0e+07 | - |  | - |" in text


def test_runs_into_one_folder_add_up_and_the_newest_row_of_a_work_counts(tmp_path):
    here, there = ({"date": "d", "machine": m, "cores": "2"} for m in "ab")
    first = table.Row("ops", "x", "call", ours=2.0, runs=5, error=float("inf"), note="n").with_ratio(1e-3)
    table.ResultsFile(tmp_path / "bench.csv", here).add(first)
    table.ResultsFile(tmp_path / "bench.csv", there).add(table.Row("ops", "x", "call", ours=9.0))
    results = table.ResultsFile(tmp_path / "bench.csv", here)
    assert results.latest() == [first] and first.ratio == "FAILED"
    results.add(table.Row("ops", "y", "call", ours=4.0))
    results.add(table.Row("ops", "x", "call", ours=3.0))
    assert [(r.name, r.ours) for r in results.latest()] == [("x", 3.0), ("y", 4.0)]
    with pytest.raises(ConfigError, match="other columns"):
        table.ResultsFile(tmp_path / "bench.csv", {**here, "disk": "c"})


def test_a_peak_is_what_memory_grew_by():
    """In a process of its own: elsewhere other threads take and give memory meanwhile."""
    code = """
import numpy as np
from jaxseg.bench import machine
peak = machine.Peak(gpu=False)
peak.reset()
block = np.ones(8 << 20)  # 64 MiB
assert 60 <= peak.read() <= 100 and block[0] == 1, peak.read()
del block
peak.reset()
assert peak.read() < 32, peak.read()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-1000:]


def test_unknown_suites_and_modes_are_refused():
    assert parse([]).suite == SUITES
    with pytest.raises(ConfigError, match="--suite=model; must be one of models, infer"):
        parse(["--suite=model"])
    with pytest.raises(ConfigError, match="--modes=fast"):
        parse(["--modes=fast"])


def test_the_rows_of_the_plan_are_there():
    wanted = {
        "segnext_t",
        "segnext_b",
        "segformer_b0",
        "segformer_b2",
        "effisegnet_b0",
        "effisegnet_b4",
        "unet_base",
        "unet3d_s",
        "dualbranch_04_unet_s",
        "unetr",
        "swin_unetr",
        "nnunet_plain",
        "unet2d",
        "attention_unet2d",
        "mobile_unetr",
        "pspnet_r50",
        "unet3d_xs",
    }
    assert wanted == set(models.CASES)
    on_gpu = Options("", gpu=True)
    for name in wanted:
        from jaxseg.models import create_model

        model = create_model(name, abstract=True, **models.case_options(name, on_gpu))
        model.check(models.CASES[name].shape(on_gpu))


@pytest.mark.parametrize("name", ["unet3d_s", "dualbranch_04_unet_s", "nnunet_plain"])
def test_ports_of_networks_have_our_parameter_names(name):
    """Their weights are read without a key mapping; a renamed attribute would cost the row, minutes into a bench."""
    torch = pytest.importorskip("torch")
    from jaxseg.bench import peers
    from jaxseg.models import create_model, functional

    options = models.case_options(name, Options(""))
    with torch.device("meta"):
        module, _ = peers.network(name, models.CASES[name].shape(Options(""))[1:-1], options)
    network, _, _ = functional.split(create_model(name, abstract=True, **options))
    theirs = {key for key in module.state_dict() if not key.endswith("num_batches_tracked")}
    assert theirs == set(network.names)


@pytest.mark.parametrize("name", sorted(set(models.CASES) - {"mobile_unetr", "swin_unetr"}))  # these two read values
def test_a_peer_trains_at_the_sizes_of_its_row(name):
    """PyTorch refuses a BatchNorm of one value a channel, which would cost the row."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    pytest.importorskip("monai")
    from jaxseg.bench import peers

    for options in (Options(""), Options("", quick=True), Options("", gpu=True)):
        b, *size, channels = models.CASES[name].shape(options)
        with torch.device("meta"):
            module, _ = peers.network(name, tuple(size), models.case_options(name, options))
            module.train()(torch.zeros(b, channels, *size))


def test_the_suite_ops_has_every_row_for_a_gpu_once_and_none_on_a_cpu():
    found = [f"{name} {work}" for name in ops.KERNELS for work in ops.works(name, Options("", gpu=True))]
    assert found == [row.name for row in kernels.gpu_rows()]
    assert not any(ops.works(name, Options("")) for name in ops.KERNELS)


def test_a_kernel_is_compared_with_its_reference_and_with_the_bandwidth_of_a_copy(tmp_path, monkeypatch):
    """As `pair` runs it on a GPU, with both sides in this process and a kernel that any device has."""
    doubled = lambda f: lambda: kernels._ready(f, (4096,))
    row = kernels.GpuRow("depthwise tiny", doubled(lambda x: x + x), doubled(lambda x: 2 * x), 4 * 4096, 4096)
    monkeypatch.setattr(kernels, "gpu_rows", lambda: [row])
    options = Options(str(tmp_path), quick=True, peers=True)
    calls = {which: getattr(ops, which)("depthwise", options)["tiny"]() for which in ("ours", "peer")}

    class Side:
        def __init__(self, call):
            self.call = call

        def ask(self, do, call, runs):
            return {"ms": clock.block(self.call.run, runs, self.call.finish)}

    about = {"tolerance": 0.2, "bytes": row.bytes}
    found = pair._measured(
        {w: Side(c) for w, c in calls.items()},
        {w: c.facts for w, c in calls.items()},
        table.Row("ops", "depthwise", "tiny"),
        [],
        about,
        0.0,
        tmp_path,
    )
    assert found.error == 0 and found.ratio > 0 and found.mfu > 0 and found.compile_s > 0 and found.peer == "reference, XLA"
    assert found.note.endswith("% of a copy's bandwidth")


def test_commands_that_fail_keep_the_figures_before_them(monkeypatch):
    def commands(folder, edge, options, until, log):
        yield from (("first step, cold", seconds) for seconds in (3.0, 1.0, 2.0))
        yield "first step, kept", 0.5
        raise ValueError(f"predict in {folder}/run: code 66")

    monkeypatch.setattr(startup, "_commands", commands)
    rows = list(startup.rows(startup.COMMANDS, Options("", quick=True), limit=1, log=None))
    assert [(row.ours, row.runs) for row in rows] == [(2.0, 3), (0.5, 1), (None, 0), (None, 0)]
    assert all(row.note == "predict in /run: code 66" for row in rows)


@pytest.mark.full
def test_eight_devices_that_share_the_rows_of_an_image_need_at_most_a_sixth_of_the_memory_each():
    one, each = devices.rows("rows of unet3d_xs", Options("", quick=True), limit=600, log=None)
    assert (one.work, each.work) == ("prediction, 1 device: scratch of each", "prediction, 8 devices: scratch of each")
    assert each.ours <= one.ours / 6 and "collective-permute" in each.note and not one.note, (one, each)


def test_one_command_measures_a_row_of_each_suite(tmp_path):
    chosen = "models/unet_base|infer/1x1x1|ops/distance_tr|data/images|startup|scaling/distance"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "jaxseg.bench",
            "--quick",
            f"--only={chosen}",
            f"--output={tmp_path}",
            "--suite=models,infer,ops,data,scaling",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "XLA_FLAGS": "", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
    )
    log = (tmp_path / "bench.log").read_text()
    assert done.returncode == 0, done.stderr + log
    with open(tmp_path / "bench.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [*machine.describe(), *table.FIELDS]
    assert {(r["suite"], r["work"]) for r in rows} == {
        ("models", "forward"),
        ("models", "train step"),
        ("infer", "whole"),
        ("ops", "call"),
        ("data", "augmented"),
        ("scaling", "32^3"),
        ("scaling", "64^3"),
        ("scaling", "slope of time"),
        ("scaling", "slope of memory"),
    }
    assert all(float(r["ours"]) > 0 for r in rows) and rows[0]["machine"] and rows[0]["jax"]
    assert done.stdout == (tmp_path / "bench.md").read_text() + "\n"
