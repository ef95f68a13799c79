"""What a run makes of its config, as values that can be compared: each facet is a function of a resolved config.

No network is compiled: the step is lowered alone, evaluation and prediction run operation by operation.
"""

import dataclasses
import hashlib
import json
import types
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny_volumes as tiny

from jaxseg import modes, preflight
from jaxseg.data.store import per_case, stacked
from jaxseg.data.store.base import read_files
from jaxseg.data.stream import pipeline
from jaxseg.infer import network, postprocess
from jaxseg.models.base import Outputs
from jaxseg.train import loop, mesh, setup
from jaxseg.train.log import Log
from jaxseg.train.processes import connect
from jaxseg.types import NonFiniteError
from tests.config.mode_facets import beside, compared, explained, measured, planned, reported, runs, search
from tests.config.world import RANK, World


class Deep(tiny.Tiny):
    """With an auxiliary output, and an option."""

    def __init__(self, *, shrink: float = 0.5, **kwargs):
        super().__init__(**kwargs)
        self.shrink = shrink

    def forward(self, image, context):
        logits = super().forward(image, context).logits
        return Outputs(logits, (logits * self.shrink,) if context.train else ())


def darker(example, index, seed):
    """A host transform."""
    return {
        "image": example["image"] // 2 if example["image"].dtype.kind == "u" else example["image"] / 2,
        "mask": example["mask"],
    }


def area(prediction, truth, spacing):
    """A score."""
    return float(prediction.sum())


def _digest(*values) -> str:
    found = hashlib.sha256()
    for value in values:
        array = np.asarray(value)
        found.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return found.hexdigest()


def _data(world: World, tree):
    preflight.check(tree)
    log = Log(world.top, quiet=True)
    return setup.load_data(tree, log, world.top / "none")


def _job(world: World, tree, workdir: Path | None = None):
    return setup.build(tree, workdir or world.top / "job", _data(world, tree), Log(world.top, quiet=True))


def _files(dataset) -> str:
    images, mask = read_files(dataset, dataset.cases[0])
    return _digest(*(image.array for image in images), mask.array)


def cases(world, base, tree):
    """What the data set lists, and which of three masks it keeps as examples."""
    preflight.check(tree)
    found = setup.load_dataset(tree, Log(world.top, quiet=True))
    masks = [np.pad(np.ones((n, n), np.uint8), (0, 64 - n)) for n in (0, 4, 40)]
    kept = [[found.keep_slice(case, i, mask) for mask in masks for i in range(8)] for case in found.cases[:8]]
    about = [(case.id, len(case.images), case.meta.get("release")) for case in found.cases]
    plain = (found.name, found.labels, found.modalities, found.regions, found.values, found.normalised)
    return json.dumps([about, plain, kept, _files(found)])


def prepared(world, base, tree):
    """The first example of the store, image and mask."""
    store = _data(world, tree).store
    image, mask = (store.images[0], store.masks[0]) if tree.data.rank == 2 else (store.image(0), store.mask(0))
    return _digest(image, mask), len(store.rows)


def rows(world, base, tree):
    """The rows of each split."""
    return {name: [int(i) for i in part] for name, part in _data(world, tree).rows.items()}


def stream(world, base, tree):
    """The first batch, and how many there are in an epoch."""
    data = _data(world, tree)
    images = tree.train.batch_size * tree.optim.accumulate
    with data.stream(tree, images, 0) as batches:
        batch = next(batches)
    return {name: _digest(value) for name, value in batch.items()}, data.steps_per_epoch(tree, images)


def readers(world, base, tree):
    """The processes that read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.Batches, "_open", lambda self: iter(()))
        patch.setattr(pipeline, "flags", types.SimpleNamespace(FLAGS=types.SimpleNamespace(is_parsed=lambda: True)))
        return _data(world, tree).stream(tree, tree.train.batch_size, 0)._workers


def files_of_the_store(world, base, tree):
    """The names of the store's files."""
    folder = _data(world, tree).store.folder
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def preparers(world, base, tree):
    """The processes that prepare."""
    asked = []
    with pytest.MonkeyPatch.context() as patch:
        for layout in (per_case, stacked):
            build = layout.open_or_build
            note = lambda *a, build=build, **options: (asked.append(options["workers"]), build(*a, **options))[1]
            patch.setattr(layout, "open_or_build", note)
        _data(world, tree)
    return asked


def joining(world, base, tree):
    """How long processes wait for each other."""
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connect, "_join", lambda *a, **options: found.append(options))
        connect.connect("127.0.0.1:1234", 2, 1, join=tree.mesh.join, heartbeat=tree.mesh.heartbeat)
    return found


def step(world, base, tree):
    """The step's program."""
    job = _job(world, tree)
    with job.stream(0) as batches:
        return job.step.lower(job.storage.join(job.state), next(batches)).program.as_text()


def rates(world, base, tree):
    """The learning rate of the first steps."""
    schedule, _ = setup.build_schedule(tree, steps_per_epoch=2)
    with jax.disable_jit():
        return [tree.optim.lr * float(schedule(np.int32(n))) for n in range(5)]


def weights(world, base, tree):
    """The values that training starts from."""
    return {name: _digest(value) for name, value in _job(world, tree).state["params"].items()}


def record(world, base, tree):
    """What run.json says, beside the config itself."""
    found = setup.record_of(tree, _data(world, tree), 1)
    return json.dumps({**found, "config": {key: found["config"][key] for key in ("name", "variant")}}, default=str)


def outputs(world, base, tree):
    """What the logits mean."""
    found = preflight.check(tree)
    return found.num_classes, found.order


def devices(world, base, tree):
    """The devices of a step."""
    return dict(mesh.make(tree.mesh.data, tree.mesh.space).shape)


class _Step:
    """A step that does nothing but have a gradient that is not finite, from the second one on."""

    def lower(self, *_, whole=True):
        return self

    def compile(self):
        return self

    def memory_analysis(self):
        return None

    def __call__(self, state, batch):
        number = int(np.asarray(state["step"]).reshape(-1)[0])
        state = {**state, "step": state["step"] + 1}
        return state, {"loss": 1.0, "lr": float(np.asarray(state["lr_scale"])), "bad_steps": number}


def training(world, base, tree):
    """What the loop says, writes and keeps of a training whose network finds nothing."""
    said, scores, limits = [], iter((0.5, 0.3, 0.4, 0.2)), []
    folder = Path(world.top / f"loop{len(list(world.top.iterdir()))}")
    job = _job(world, tree, folder)
    log = Log(folder, quiet=True)

    def validate(*_):
        value = next(scores)
        return {"val_loss": value, "val_dice": value, "val_recall": 1 - value, "positive": {"a": 0}}

    class Watchdog(loop.Watchdog):
        def __init__(self, seconds, *arguments, **options):
            limits.append(seconds)
            super().__init__(0, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log, "say", lambda text: said.append(text.split(", ")[0].split(" s after")[0].split("compiled")[0]))
        patch.setattr(log, "epochs", lambda rows: said.append(json.dumps(rows)))
        patch.setattr(loop, "Watchdog", Watchdog)
        job = dataclasses.replace(job, step=_Step(), warm=lambda state, batch, number: state, validate=validate)
        try:
            with jax.disable_jit():
                loop.run(job, log)
        except NonFiniteError:
            said.append("not finite")
    said = [line for line in said if "first step" not in line and "compilations" not in line]
    return said, sorted(map(int, job.checkpoints.steps())), job.checkpoints.best_step(), limits


def _passes(patch, seen: list) -> None:
    """Note the shapes of what the network is given."""
    forward = tiny.Tiny.forward
    patch.setattr(tiny.Tiny, "forward", lambda self, image, context: seen.append(image.shape) or forward(self, image, context))


def scores(world, base, tree):
    """The files of an evaluation of the base's run, without the options that they repeat."""
    return _evaluated(world, base, tree)[0]


def evaluated_batches(world, base, tree):
    """The shapes of an evaluation's passes."""
    return _evaluated(world, base, tree)[1]


def _evaluated(world, base, tree):
    run, seen, name = world.run("volumes" if base == "cascade" else base), [], f"e{len(list((world.top).iterdir()))}"
    (world.top / name).mkdir()
    with pytest.MonkeyPatch.context() as patch, jax.disable_jit():
        _passes(patch, seen)
        patch.setattr(modes, "Log", lambda folder, quiet: Log(folder, quiet=True))  # TensorBoard's writer imports PyTorch
        before = (run / postprocess.FILE).read_text()
        modes.evaluate(modes.Call(beside(run, tree), run, name=name))
    chosen = (run / postprocess.FILE).read_text()
    (run / postprocess.FILE).write_text(before)
    (folder,) = (run / "evaluations").glob(f"{name}@*")
    text = lambda path: path.read_text() if path.suffix in (".csv", ".json") else ""
    files = {str(p.relative_to(folder)): text(p) for p in sorted(folder.rglob("*.*")) if p.name != "evaluation.json"}
    figures = json.loads((folder / "evaluation.json").read_text())
    for key in [key for key in figures if key == "options" or "seconds" in key]:
        del figures[key]
    return json.dumps([files, figures, chosen]), seen


def files(world, base, tree):
    """The files that prediction writes."""
    return _predicted(world, base, tree)[0]


def batches(world, base, tree):
    """The shapes of prediction's passes, and where its logits lie."""
    return _predicted(world, base, tree)[1:]


def _predicted(world, base, tree):
    run, seen, kinds = world.run("volumes" if base == "cascade" else base), [], []
    output = world.top / f"out{len(list(world.top.iterdir()))}"
    image = next((world.sets[RANK[base]] / "images").glob("0.*"))
    with pytest.MonkeyPatch.context() as patch, jax.disable_jit():
        _passes(patch, seen)
        options = lambda given: kinds.append([given[key] for key in ("max_instances", "min_size", "merge")])
        patch.setattr(network.cascade, "segment", lambda *a, **k: options(k) or _one_crop(*a, **k))
        window = network.sliding_window
        note = lambda logits: kinds.append(type(logits).__name__) or logits
        patch.setattr(network, "sliding_window", lambda *a, **k: note(window(*a, **k)))
        assert not modes.predict(modes.Call(beside(run, tree), run, input=str(image), output=str(output)))
    written = sorted(path for path in output.rglob("*") if path.is_file() and path.name != "predictions.jsonl")
    return {str(path.relative_to(output)): path.read_bytes() for path in written}, seen, kinds


def _one_crop(find, segment, volume, *, num_classes, roi_size, crop, **_):
    """A cascade whose one crop is the volume's first corner; tests/infer/test_cascade.py holds the real one."""
    shrunk = np.resize(volume, (1, *roi_size, volume.shape[-1]))
    padded = np.pad(volume, [*((0, n) for n in crop), (0, 0)])[tuple(slice(n) for n in crop)]
    found = np.full((*volume.shape[:3], num_classes), float(np.mean(find(shrunk))), np.float32)
    place = tuple(slice(min(n, m)) for n, m in zip(crop, volume.shape))
    found[place] += np.asarray(segment(padded[None]))[0][place]
    return types.SimpleNamespace(scores=found)


FACETS = {
    f.__name__: f
    for f in (
        cases,
        prepared,
        rows,
        stream,
        readers,
        preparers,
        files_of_the_store,
        joining,
        step,
        rates,
        weights,
        record,
        outputs,
        devices,
        training,
        scores,
        evaluated_batches,
        files,
        batches,
        runs,
        measured,
        compared,
        search,
        planned,
        explained,
        reported,
    )
}
