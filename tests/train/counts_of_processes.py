"""Three steps on four devices that COUNT processes drive: `counts_of_processes.py FOLDER PORT COUNT INDEX`.

Each process writes FOLDER/COUNT.INDEX.json: for each case the digest of every array of the state.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np

DEVICES, BATCH = 4, 8
# (network, image size, micro-batches per update, whether the devices share the state, groups of devices that share images)
CASES = {
    "2-D": ("unet2d_test", (16, 16), 1, False, 1),
    "2-D, accumulated": ("unet2d_test", (16, 16), 2, False, 1),
    "2-D, shared state, accumulated": ("unet2d_test", (16, 16), 2, True, 1),
    "3-D": ("unet3d_test", (16, 16, 16), 1, False, 1),
    "3-D, shared state, accumulated": ("unet3d_test", (16, 16, 16), 2, True, 1),
    "3-D, shared rows": ("unet3d_test", (16, 16, 16), 1, False, 2),
}


def digests(name: str) -> dict[str, str]:
    """The digest of every array of the state after three steps."""
    import jax
    import jax.numpy as jnp
    from jax.experimental import multihost_utils

    from jaxseg.augment import compose as augmentations
    from jaxseg.checkpoint.leaves import named
    from jaxseg.losses import compose as losses
    from jaxseg.models import create_model, functional
    from jaxseg.optim import build as optimizers
    from jaxseg.train import mesh as meshes
    from jaxseg.train import state as states
    from jaxseg.train import step as steps
    from jaxseg.utils import files

    model, size, accumulate, shared, space = CASES[name]
    model = create_model(model, num_classes=2)
    network, params, net_state = functional.split(model)
    mesh = meshes.make(0, space)
    rule = optimizers.build(params, name="adamw", weight_decay=0.1, clip_norm=1.0, multiple=DEVICES if shared else 1)
    step = steps.build(
        network,
        losses.build((("dice", 1.0), ("cross_entropy", 1.0))),
        rule,
        lambda s: jnp.float32(1),
        augmentations.build((("hflip", 0.5, {}), ("noise", 0.5, {})), rank=len(size)),
        mesh,
        lr=1e-2,
        accumulate=accumulate,
        ema=0.9,
        shard_state=shared,
    )
    storage = states.storage(network, rule, mesh if shared else None)
    state = storage.place(states.create(params, net_state, rule, ema=True), mesh)
    rng = np.random.default_rng(0)
    me, processes = jax.process_index(), jax.process_count()
    share = BATCH * accumulate // processes
    for _ in range(3):
        image = rng.normal(size=(BATCH * accumulate, *size, model.in_channels)).astype(np.float32)
        batch = {"image": image, "mask": (image[..., 0] > 0).astype(np.uint8), "index": np.arange(BATCH * accumulate)}
        state, _ = step(state, meshes.put({k: v[me * share : (me + 1) * share] for k, v in batch.items()}, mesh))
    whole = lambda leaf: leaf if leaf.is_fully_replicated else multihost_utils.process_allgather(leaf, tiled=True)
    leaves = named(storage.part(jax.tree.map(whole, state)))[0]
    return {key: files.digest(np.asarray(leaf).tobytes()) for key, leaf in leaves.items()}


if __name__ == "__main__":
    folder, port, count, me = Path(sys.argv[1]), *map(int, sys.argv[2:5])
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={DEVICES // count}"
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    from jaxseg.train.processes import connect

    connect.connect(*((f"127.0.0.1:{port}", count, me) if count > 1 else (None,) * 3), join=600, same_sums=True)
    wanted = {name: digests(name) for name in sys.argv[5:] or CASES if CASES[name][-1] * count <= DEVICES}
    (folder / f"{count}.{me}.json").write_text(json.dumps(wanted))
