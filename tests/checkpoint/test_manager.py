"""Saving, keeping and restoring: bits come back as they were, or the program says why not."""

import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxseg.checkpoint import Checkpoints
from jaxseg.checkpoint import folder as listing
from jaxseg.checkpoint import step as steps
from jaxseg.types import CheckpointError, MismatchError, StorageError
from tests import fault_table

ROOT = Path(__file__).parents[2]


def tiny(value: float = 1.0) -> dict:
    return {"step": 3, "params": {"encoder.0.w": np.full((4, 3), value, np.float32), "encoder.10.w": np.arange(5.0)}}


def save(folder, *numbers, **options):
    with Checkpoints(folder, **options) as checkpoints:
        for number in numbers:
            checkpoints.save(number, tiny(number), {"at": number})


def bits(leaf):
    leaf = jax.random.key_data(leaf) if jnp.issubdtype(getattr(leaf, "dtype", int), jax.dtypes.prng_key) else leaf
    return np.asarray(leaf).tobytes()


def test_every_kind_of_leaf_comes_back_bitwise_and_as_itself(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, 64, np.uint8)
    tree = {
        "bf16": jnp.asarray(noise.view(ml_dtypes.bfloat16)),
        "f16": noise.view(np.float16),
        "f64": noise.view(np.float64),
        "f32": jnp.asarray(noise.view(np.float32)),
        "big endian": np.arange(3, dtype=">i4"),
        "u8": noise,
        "bool": np.asarray([True, False]),
        "nan": np.float32("nan"),
        "scalar": jnp.int32(7),
        "weak": jnp.asarray(1.0),
        "int": 2**60,
        "float": 0.1,
        "flag": True,
        "empty": np.zeros((0, 3), np.int8),
        "none": {},
        "key": jax.random.key(5),
        "keys": jax.random.wrap_key_data(np.arange(6, dtype=np.uint32).reshape(3, 2)),
        "opt": [(jnp.ones(2), None), {"b.c": jnp.zeros(1)}],
    }
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(5, tree, {"position": 40, "best": [0.5, None]})
        checkpoints.wait()
        back, info, step = checkpoints.restore(tree)
    assert (step, info) == (5, {"position": 40, "best": [0.5, None]})
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    for (path, new), old in zip(jax.tree_util.tree_leaves_with_path(back), jax.tree.leaves(tree)):
        old = np.arange(3, dtype=np.int32) if "big endian" in str(path) else old
        assert type(new) is type(old) and bits(new) == bits(old), path
        if not isinstance(old, (bool, int, float)):
            assert new.dtype == old.dtype and new.shape == old.shape, path
    assert back["weak"].weak_type and not back["scalar"].weak_type, "promotion must not change with a restart"


def test_sharded_arrays_come_back_with_the_sharding_that_is_asked_for(tmp_path):
    mesh = Mesh(np.array(jax.devices()), ("data",))
    array = np.arange(64, dtype=np.float32).reshape(8, 8)
    rows, replicated = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    key = jax.device_put(jax.random.key(1), replicated)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"a": jax.device_put(array, rows), "key": key}, {})
        target = {
            "a": jax.ShapeDtypeStruct((8, 8), np.float32, sharding=NamedSharding(mesh, P(None, "data"))),
            "key": jax.ShapeDtypeStruct((), key.dtype, sharding=replicated),
        }
        back, _, _ = checkpoints.restore(target)
    assert len(jax.devices()) == 8 and back["a"].sharding == target["a"].sharding and back["key"].sharding == replicated
    assert bits(back["a"]) == array.tobytes() and bits(back["key"]) == bits(key)


def test_what_is_saved_is_the_state_at_the_call_even_if_its_buffers_are_donated_next(tmp_path):
    step = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    tree = {"a": jnp.zeros((256, 256)), "b": np.zeros(4)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(0, tree, {})
        tree["b"] += 1
        tree = {"a": step({"a": tree["a"]})["a"].block_until_ready(), "b": tree["b"]}
        back, _, _ = checkpoints.restore(tree)
        assert not np.asarray(back["a"]).any() and not back["b"].any()
        moved = step({"a": back["a"]})  # restored arrays can be donated too
        assert np.asarray(moved["a"]).min() == 1 and checkpoints.latest(verify=True) == 0


def test_keep_leaves_the_newest_and_the_best_and_the_earliest_of_equals_is_best(tmp_path):
    metrics = {1: 0.5, 2: 0.2, 3: float("nan"), 4: 0.2, 5: 0.9, 6: None}
    for mode, best, left in (("min", 2, [2, 5, 6]), ("max", 5, [5, 6]), ("last", 6, [5, 6])):
        with Checkpoints(tmp_path / mode, keep=2, best_mode=mode) as checkpoints:
            for step, metric in metrics.items():
                checkpoints.save(step, tiny(step), {}, metric=metric)
            checkpoints.wait()
            assert (checkpoints.best_step(), checkpoints.steps(), checkpoints.latest()) == (best, left, 6)
            assert checkpoints.restore(tiny(), "best")[0]["params"]["encoder.0.w"][0, 0] == best
            assert sorted(os.listdir(tmp_path / mode)) == [str(n) for n in left]


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda t: t["params"].update({"encoder.10.w": np.zeros(5, np.float32)}),
            "dtype of params/encoder.10.w: expected float32, found float64",
        ),
        (
            lambda t: t["params"].update({"encoder.0.w": np.zeros((3, 4), np.float32)}),
            r"shape of params/encoder.0.w: expected \(3, 4\), found \(4, 3\)",
        ),
        (lambda t: t["params"].update({"head": np.zeros(1)}), "missing params/head"),
        (lambda t: t["params"].pop("encoder.0.w"), "unexpected params/encoder.0.w"),
        (lambda t: t.update(step=np.int64(3)), "dtype of step: expected int64, found python int"),
    ],
)
@pytest.mark.fault("P9")
def test_a_target_of_other_names_shapes_or_dtypes_is_refused_by_name_and_nothing_is_renamed(tmp_path, change, message):
    save(tmp_path, 1)
    target = tiny()
    change(target)
    with pytest.raises(MismatchError, match=message) as caught:
        Checkpoints(tmp_path).restore(target)
    assert caught.value.exit_code == 78 and os.listdir(tmp_path) == ["1"]


def test_a_mismatch_lists_at_most_twenty_leaves(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {f"a{i}": np.zeros(1) for i in range(30)}, {})
        with pytest.raises(MismatchError, match="30 leaves differ") as caught:
            checkpoints.restore({f"a{i}": np.zeros(2) for i in range(30)})
    assert str(caught.value).count("shape of") == 20 and "10 more" in str(caught.value)


def flip(path, bit):
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


@pytest.mark.fault("F12")
def test_no_flipped_bit_of_any_file_loads(tmp_path, record_property):
    """8 bits of every file, 300 of the manifest, which alone vouches for the others: all are named as damage, none loads."""
    save(tmp_path, 1)
    folder = tmp_path / "1"
    rng, tried = np.random.default_rng(0), 0
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        whole = path.read_bytes()
        for bit in rng.choice(len(whole) * 8, 300 if path.name == steps.MANIFEST else 8, replace=False):
            flip(path, int(bit))
            with pytest.raises(steps.Damaged):
                steps.read(folder, steps.read_manifest(folder))
            path.write_bytes(whole)
            tried += 1
    steps.read(folder, steps.read_manifest(folder))
    assert tried >= 300 + 8 * 10
    record_property("flipped bits in files of a checkpoint", f"{tried}; none was loaded")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # futures of reads that Orbax gave up
@pytest.mark.fault("F12")
def test_leaf_digests_alone_let_no_altered_value_pass(tmp_path, monkeypatch):
    """The second net without the first: with file sums off, a flipped bit is refused or had no effect on the values.

    The leaf is large enough to lie outside Orbax's index, which has a checksum; its bytes have none.
    """
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"a": np.random.default_rng(0).random(2000), "b": np.zeros(3)}, {})
    folder = tmp_path / "1"
    manifest = steps.read_manifest(folder)
    good, _ = steps.read(folder, manifest)
    monkeypatch.setattr(steps, "check_files", lambda folder, manifest: None)
    rng, refused = np.random.default_rng(1), []
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and ("/d/" in str(p) or p.name == "manifest.ocdbt")):
        whole = path.read_bytes()
        for bit in rng.choice(len(whole) * 8, 8, replace=False):
            flip(path, int(bit))
            try:
                found, _ = steps.read(folder, manifest)
                assert {n: v.tobytes() for n, v in found.items()} == {n: v.tobytes() for n, v in good.items()}
            except steps.Damaged as error:
                refused.append(str(error))
            path.write_bytes(whole)
    assert any("leaf a does not match" in text for text in refused), "some flips pass Orbax: here the digests caught them"


@pytest.mark.fault("F12")
def test_truncated_deleted_or_garbage_files_are_damage(tmp_path):
    save(tmp_path, 1)
    folder = tmp_path / "1"
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        whole = path.read_bytes()
        for content in (b"", whole[: len(whole) // 2], whole + b"x", b"\xff\xfe{garbage", None):
            path.unlink() if content is None else path.write_bytes(content)
            with pytest.raises(steps.Damaged):
                steps.read(folder, steps.read_manifest(folder))
            path.write_bytes(whole)
    for garbage in (b"[]", b"null", b'{"format": 99}', b'{"format": "1"}', b"[" * 100_000):
        (folder / steps.MANIFEST).write_bytes(garbage)
        with pytest.raises(steps.Damaged):
            steps.read_manifest(folder)


@pytest.mark.fault("F12")
def test_damaged_newest_steps_are_renamed_loudly_and_the_next_older_is_restored(tmp_path, caplog):
    save(tmp_path, 1, 2, 3, 4, keep=4)
    flip(next(p for p in (tmp_path / "4/state").rglob("*") if p.parent.name == "d"), 100)
    (tmp_path / "3" / steps.MANIFEST).write_bytes(b"{}")
    with Checkpoints(tmp_path, keep=4) as checkpoints, caplog.at_level(logging.ERROR):
        assert checkpoints.latest() == 4 and checkpoints.latest(verify=True) == 2
        with pytest.raises(CheckpointError, match="step 4 .* is damaged"):
            checkpoints.restore(tiny(), 4)
        caplog.clear()
        tree, info, step = checkpoints.restore(tiny())
        assert (step, info, tree["params"]["encoder.0.w"][0, 0]) == (2, {"at": 2}, 2)
        assert [r.getMessage().split(":")[0] for r in caplog.records] == ["CHECKPOINT DAMAGED"] * 2
        assert all("\n" not in r.getMessage() for r in caplog.records)
        assert sorted(os.listdir(tmp_path)) == ["1", "2", "3.corrupt", "4.corrupt"]
        checkpoints.save(3, tiny(30), {})  # training continues past the damage
        checkpoints.save(4, tiny(40), {})
        assert checkpoints.restore(tiny())[2] == 4


@pytest.mark.fault("F13")
def test_when_no_step_is_usable_it_says_what_was_found_and_never_looks_empty(tmp_path):
    empty = Checkpoints(tmp_path / "none")
    assert not empty.has_any() and empty.latest() is None and empty.best_step() is None
    with pytest.raises(CheckpointError, match="it holds no step"):
        empty.restore(tiny())
    assert not (tmp_path / "none").exists(), "looking makes no folder"
    save(tmp_path, 1, 2)
    for number in "12":
        flip(tmp_path / number / "info" / "metadata", 3)
    with pytest.raises(CheckpointError, match="step 2: file info/metadata has CRC-32 .*; step 1: .*2.corrupt") as caught:
        Checkpoints(tmp_path).restore(tiny())
    assert caught.value.exit_code == 66
    again = Checkpoints(tmp_path)
    assert again.has_any(), "damaged steps must not lead to a silent fresh start"
    with pytest.raises(CheckpointError, match="damaged and renamed: 1.corrupt, 2.corrupt"):
        again.restore(tiny())
    with pytest.raises(CheckpointError, match="no step 7"):
        again.restore(tiny(), 7)


@pytest.mark.fault("F15")
def test_a_failed_background_save_is_raised_once_by_poll_and_later_saves_work(tmp_path, monkeypatch):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, tiny(1), {})
        checkpoints.wait()
        real = steps.write_atomic

        def fail(path, content):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(steps, "write_atomic", fail)
        checkpoints.save(2, tiny(2), {})
        with pytest.raises(StorageError, match="checkpoint 2 was not written .*No space left"):
            for _ in range(1000):
                checkpoints.poll()
                time.sleep(0.01)
        checkpoints.poll()
        assert checkpoints.latest() == 1 and os.listdir(tmp_path) == ["1"]
        monkeypatch.setattr(steps, "write_atomic", real)
        checkpoints.save(3, tiny(3), {})
        checkpoints.wait()
        assert checkpoints.latest(verify=True) == 3


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("mounting a tmpfs needs root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.fault("F14")
def test_a_full_disk_costs_one_checkpoint_and_leaves_no_debris(small_disk, caplog):
    noise = lambda: {"a": np.random.default_rng(0).standard_normal(200_000)}  # 1.6 MB, barely compressible
    with Checkpoints(small_disk / "run", keep=1) as checkpoints:
        checkpoints.save(1, noise(), {})
        checkpoints.wait()
        checkpoints.save(2, noise(), {})
        with pytest.raises(StorageError, match="checkpoint 2 was not written") as caught:
            checkpoints.wait()
        assert caught.value.exit_code == 74 and "MB free" in caplog.text
        assert os.listdir(small_disk / "run") == ["1"] and checkpoints.latest(verify=True) == 1
        subprocess.run(["mount", "-o", "remount,size=20m", small_disk], check=True)
        checkpoints.save(3, noise(), {})
        checkpoints.wait()
        assert checkpoints.steps() == [3]


def test_a_rollback_replaces_the_abandoned_steps_once_the_new_one_is_complete(tmp_path, caplog):
    save(tmp_path, 1, 2, 3, keep=5)
    with Checkpoints(tmp_path, keep=5) as checkpoints:
        with pytest.raises(CheckpointError, match="holds step 3"):
            checkpoints.save(2, tiny(20), {})  # nothing was restored: this would bury somebody's run
        checkpoints.restore(tiny(), 1)
        checkpoints.save(2, tiny(20), {}, metric=1.0)
        checkpoints.wait()
        assert checkpoints.steps() == [1, 2] and "replaces the steps 3" in caplog.text
        checkpoints.save(2, tiny(21), {}, metric=0.5)  # the same step again, now with its validation
        assert checkpoints.restore(tiny())[0]["params"]["encoder.0.w"][0, 0] == 21
        assert sorted(os.listdir(tmp_path)) == ["1", "2"]


@pytest.mark.fault("F2")
def test_a_kill_between_setting_aside_and_publishing_loses_nothing(tmp_path):
    save(tmp_path, 1, 2, 3, keep=5)
    for number in (2, 3):
        (tmp_path / str(number)).rename(tmp_path / f".{number}.aside-for-2")
    (tmp_path / ".2.saving").mkdir()
    (tmp_path / ".0.deleting").mkdir()
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.has_any() and checkpoints.restore(tiny())[2] == 3
    assert sorted(os.listdir(tmp_path)) == ["1", "2", "3"]
    (tmp_path / "3").rename(tmp_path / ".3.aside-for-2")  # killed after publishing 2: step 3 is abandoned
    listing.tidy(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["1", "2"]


KILLED = """
import sys, numpy as np
from jaxseg.checkpoint import Checkpoints
with Checkpoints(sys.argv[1], keep=3) as c:
    for step in range(1, 1000):
        c.save(step, {"a": np.full(300_000, step, np.float32), "b": np.random.default_rng(step).random(200_000)}, {"at": step})
        print(step, flush=True)
"""


@pytest.mark.fault("F1")
def test_sigkill_during_a_save_leaves_an_older_step_that_is_whole(tmp_path):
    delays = random.Random(0)
    for i in range(fault_table.count(4, 30)):
        folder = tmp_path / str(i)
        command = [sys.executable, "-c", KILLED, str(folder)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            while int(process.stdout.readline()) < 3:
                pass
            time.sleep(delays.uniform(0, 0.04))
            process.send_signal(signal.SIGKILL)
            process.wait()
        checkpoints = Checkpoints(folder)
        target = {"a": jax.ShapeDtypeStruct((300_000,), np.float32), "b": np.zeros(200_000)}
        tree, info, step = checkpoints.restore(target)
        assert step >= 2 and info == {"at": step} and np.all(np.asarray(tree["a"]) == step)
        assert not list(folder.glob("*.corrupt*")) and not list(folder.glob(".*"))


def test_what_cannot_be_stored_is_refused_at_the_call(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for tree, info, message in [
        ({"a": "text"}, {}, "leaf 'a' is a str"),
        ({}, {}, "without leaves"),
        ({"a/b": 1, "a": {"b": 2}}, {}, "two leaves"),
        ({"a": 1}, {"f": object()}, "JSON-able"),
    ]:
        with pytest.raises(ValueError, match=message):
            checkpoints.save(0, tree, info)
    with pytest.raises(ValueError, match="keep=0"):
        Checkpoints(tmp_path, keep=0)
    with pytest.raises(ValueError, match="best_mode='low'"):
        Checkpoints(tmp_path, best_mode="low")


def test_the_manifest_states_every_leaf_and_the_cost(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(np.int64(1), tiny(), {}, metric=np.float32(0.25))
        checkpoints.wait()
        assert checkpoints.restore(tiny(), np.int64(1))[2] == 1
        with pytest.raises(ValueError, match="step='newest'"):
            checkpoints.restore(tiny(), "newest")
        assert checkpoints.last_save.keys() == {"copy", "digest", "write", "bytes"}
    content = json.loads((tmp_path / "1" / steps.MANIFEST).read_text())
    assert content["leaves"]["params/encoder.0.w"][:2] == ["float32", [4, 3]] and content["metric"] == 0.25
