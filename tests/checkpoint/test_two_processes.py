"""Two real processes over gloo: one writes, both restore the same step, both get the error of a failed save."""

import subprocess
import sys
from pathlib import Path

import pytest

from launch.local import free_port

ROOT = Path(__file__).parents[2]
SCRIPT = """
import os, sys
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=1"
import jax, numpy as np
from pathlib import Path
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from jaxseg.checkpoint import Checkpoints
from jaxseg.checkpoint import step as steps
from jaxseg.types import CheckpointError, MismatchError, StorageError

folder, port, me = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
jax.distributed.initialize(f"127.0.0.1:{port}", 2, me, initialization_timeout=60)
mesh = Mesh(np.array(jax.devices()), ("data",))
rows, everywhere = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
values = np.arange(8, dtype=np.float32).reshape(2, 4)
make = lambda sharding, add: jax.make_array_from_callback((2, 4), sharding, lambda i: values[i] + add)
tree = lambda add: {"scattered": make(rows, add), "same": make(everywhere, add), "step": 7}

with Checkpoints(folder) as c:
    assert not c.has_any()
    for step in (1, 2, 3):
        c.save(step, tree(step), {"at": step}, metric=step)
    c.wait()
    if me == 0:
        (data,) = [p for p in (folder / "3/state/ocdbt.process_0").glob("manifest.ocdbt")]
        data.write_bytes(data.read_bytes()[:-1])
    back, info, step = c.restore(tree(0))                    # both leave the damaged step 3
    assert (step, info) == (2, {"at": 2}) and c.has_any(), (step, info)
    for name in ("scattered", "same"):
        assert back[name].sharding == tree(0)[name].sharding
        for shard in back[name].addressable_shards:
            assert np.array_equal(shard.data, values[shard.index] + 2)
    assert c.restore(tree(0), "best")[2] == 1
    try:
        c.restore({"scattered": tree(0)["scattered"]})
        raise SystemExit("a mismatch passed")
    except MismatchError:
        pass
    c.restore(tree(0), 2)
    def full(path, content):
        raise OSError(28, "No space left on device")
    steps.write_atomic = full                                # fails in process 0, which alone writes
    c.save(4, tree(4), {})
    try:
        c.wait()
        raise SystemExit("a failed save passed")
    except StorageError as error:
        assert ("process 0 could not" in str(error)) == bool(me), error
    c.wait()
    only = folder if me == 0 else folder / "elsewhere"       # process 1 does not see the folder
    c.folder = only
    try:
        c.restore(tree(0), 2)
        raise SystemExit("disagreement passed")
    except CheckpointError as error:
        assert "processes [1] cannot use step 2" in str(error), error
print("done", flush=True)
"""


@pytest.mark.fault("F12", "F15")
def test_two_processes_save_restore_and_fail_together(tmp_path):
    port = free_port()
    run = lambda i: subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "run"), str(port), str(i)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    processes = [run(0), run(1)]
    try:
        for process in processes:
            output, _ = process.communicate(timeout=90)
            assert process.returncode == 0 and output.endswith("done\n"), output[-3000:]
    finally:
        for process in processes:
            process.kill()
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["1", "2", "3.corrupt"]
