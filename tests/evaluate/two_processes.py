"""Three volumes evaluated by one process, or by this script started twice: `two_processes.py FOLDER PORT INDEX`."""

import json
import os
import sys
from pathlib import Path

import numpy as np

LABELS, REGIONS = ("NCR", "ED", "ET"), (("WT", (1, 2, 3)), ("TC", (1, 3)), ("ET", (3,)))


def make_store(folder: Path):
    """Three volumes of two shapes, one of them without a tumour, in `folder`."""
    from jaxseg.data.records import Recipe
    from jaxseg.data.store import per_case

    if not folder.exists():

        def items():
            for i in range(3):
                random = np.random.default_rng(i)
                mask = np.zeros((10 + i % 2, 9, 8), np.uint8)
                if i < 2:
                    mask[2:7, 2:6, 1:6] = random.integers(0, 4, (5, 4, 5))
                image = random.normal(size=(*mask.shape, 2)).astype(np.float32)
                yield image, mask, {"case": f"c{i}", "patient": f"p{i}", "stratum": "", "spacing": [1.0, 1.0, 2.0]}

        recipe = Recipe((8, 8, 8), None, None, 2, LABELS, intensity="brain", fit="patches")
        folder.mkdir(parents=True)
        per_case.write(folder, items(), recipe, count=3, name="toy", synthetic=True, regions=REGIONS, log=lambda line: None)
    return per_case.open_store(folder)


def evaluate(store, folder: Path) -> dict:
    """What every process ends with; process 0 writes the tables into `folder`."""
    import jax
    from flax import nnx

    from jaxseg.evaluate import report, scoring, validation, volumes
    from jaxseg.infer.network import Forward, Windows
    from jaxseg.losses import compose
    from jaxseg.models import functional
    from jaxseg.train import mesh as meshes
    from tests.train.tiny_volumes import Tiny

    network, params, state = functional.split(Tiny(in_channels=2, num_classes=4, rank=3, rngs=nnx.Rngs(0)))
    sharing = meshes.replicated(meshes.make(0 if jax.process_count() > 1 else 1))
    weights = [
        {k: jax.make_array_from_process_local_data(sharing, np.asarray(v)) for k, v in part.items()} for part in (params, state)
    ]  # as the train state has them: on the devices of all processes
    windows = Windows(Forward(network, num_classes=4, batch=1), (8, 8, 8), blend="gaussian")
    rules = scoring.Rules(LABELS, REGIONS, scoring.policy_of("toy", empty="nan", lesions="GLI"), True, "GLI")
    scorer = volumes.VolumeScorer(windows, compose.build((("dice", 1.0),), {}, (), ()), rules)
    found = {}
    for name, rows in (("three", np.arange(3)), ("one", np.array([1]))):  # one volume: nothing is left for process 1
        scored = scorer.run(*weights, store, rows)
        found[name] = {
            "cases": scored.rows,
            "lesions": scored.lesions,
            "confusion": scored.confusion.tolist(),
            "figures": validation.figures(scored, rules, rank=3),
        }
        if jax.process_index() == 0:
            (folder / name).mkdir(parents=True)
            table = report.table_of(scored._replace(loss=round(scored.loss, 5), seconds=0.0), rules, "the prepared grid")
            report.report(None, table, head=(), details=(), facts={"model": "tiny"}, folder=folder / name)
    found["voxels"] = scoring.summed(np.array([3 * 10**9])).tolist()  # 340 BraTS cases have as many
    return found


if __name__ == "__main__":
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=1"
    import jax

    root, port, me = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, me, initialization_timeout=60)
    (root / f"{me}.json").write_text(json.dumps(evaluate(make_store(root / "store"), root / "two")))
