"""What `--mode` can be: one function each, called with the resolved config and the folders."""

import time
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxseg import checkpoint, preflight
from jaxseg import config as configs
from jaxseg.data import check as checks
from jaxseg.data import datasets
from jaxseg.evaluate.volumes import write_roi_record
from jaxseg.experiments import search as searches
from jaxseg.infer import predict as prediction
from jaxseg.infer import predict_volumes as volume_prediction
from jaxseg.models import functional
from jaxseg.models import summary as summaries
from jaxseg.ops.precision import compute_dtype, describe
from jaxseg.train import feed as feeds
from jaxseg.train import loop, patients, setup
from jaxseg.train import mesh as meshes
from jaxseg.train.log import Log
from jaxseg.train.processes import agree, surroundings
from jaxseg.train.processes.interrupt import PREEMPTED, Preemption, Stopped, fault
from jaxseg.types import CheckpointError, ConfigError


class Call(NamedTuple):
    """One invocation: the resolved config (None for modes that need none), the run's folder, and the other flags."""

    config: Any
    workdir: Path
    checkpoint: str | None = None
    input: str | None = None
    output: str | None = None


def train(call: Call) -> int | None:
    """Train (or go on), then evaluate the best checkpoint. SIGTERM ends it with 42 at any time, saved where steps were made."""
    preemption = Preemption()
    try:
        with preemption, preemption.at_once():
            return _train(call)
    except Stopped:
        print("stopped by SIGTERM outside of the training's steps; the same command goes on", flush=True)
        return PREEMPTED


def _train(call: Call) -> int | None:
    first = jax.process_index() == 0
    preflight.check(call.config)
    call = _settled(call)
    tree = configs.as_dict(call.config)
    agree.same("configuration", tree)
    claim = agree.on_first(lambda: checkpoint.claim(call.workdir, tree, ignored=configs.NEUTRAL,
                                                      defaults=configs.defaults(call.config)))
    log = Log(call.workdir, quiet=not first)
    if agree.told(bool(claim and claim.finished)):
        log.say(f"{call.workdir} holds a finished run of this config; delete it or give another --workdir to train again")
    else:
        difference = configs.difference(call.config)
        log.say(describe(call.config.train.dtype))
        log.say("experiment: " + ", ".join(f"{k}={b!r}" for k, (_, b) in difference.items()))
        log.config(tree, difference)
        data = setup.load_data(call.config, log, call.workdir)
        about = data.store.rows
        agree.same("data set", {"examples": len(about), "digest": data.store.digest})
        job = setup.build(call.config, call.workdir, data, log)
        agree.on_first(lambda: patients.same_data(call.workdir, data.store, log, resumed=claim.resumed))
        agree.on_first(lambda: patients.keep(call.config, call.workdir, about, data.rows))
        agree.on_first(lambda: surroundings.compare(call.workdir, log, resumed=claim.resumed))
        record = setup.record_of(call.config, data, _count(job.state["params"]))
        agree.on_first(lambda: checkpoint.write_record(call.workdir, record))
        agree.on_first(lambda: setup.keep_maker(call.config, call.workdir))
        begin = time.perf_counter()
        code = loop.run(job, log)
        if code:
            return code
        log.say(f"trained in {time.perf_counter() - begin:.0f} s")
        if claim:
            claim.finish()
    log.close()
    fault(0, "before_report")
    return evaluate(call)


def _settled(call: Call) -> Call:
    """With the dtype that the run began with, or that this machine's devices want, in place of train.dtype="auto"."""
    if call.config.train.dtype != "auto":
        return call
    recorded = agree.on_first(lambda: _recorded_dtype(call.workdir)) or ""
    known = {name: agree.told(recorded == name) for name in ("float32", "bfloat16")}
    config = call.config.copy_and_resolve_references().unlock()
    config.train.dtype = next((name for name, here in known.items() if here), compute_dtype("auto"))
    return call._replace(config=config.lock())


def _recorded_dtype(run: Path) -> str | None:
    try:
        return checkpoint.read_record(run)["config"]["train"]["dtype"]
    except CheckpointError:  # a new run; a damaged record is refused where the folder is claimed
        return None


def evaluate(call: Call) -> int | None:
    """Score a checkpoint on config.eval.split, beside the two baselines."""
    preflight.check(call.config)
    call = _settled(call)
    source = Path(call.checkpoint) if call.checkpoint else call.workdir
    params, net_state, info = checkpoint.load_weights(source)
    log = Log(call.workdir, quiet=jax.process_index() > 0)
    data = setup.load_data(call.config, log, source)
    patients.check_unseen(source, data, call.config.eval.split, whose="--checkpoint" if call.checkpoint else "--workdir", log=log)
    outputs = feeds.outputs_of(call.config, data.recipe.labels, data.dataset.regions)
    model = setup.build_model(call.config, outputs.num_classes, abstract=True)
    network, _, _ = functional.split(model)
    network.check(params, net_state)
    mesh = meshes.make(call.config.mesh.data)
    if call.config.data.rank == 2:  # volumes are scored one after another
        meshes.check_batch(call.config.eval.batch_size, mesh, "eval.batch_size")
    text = data.report(call.config, network, setup.build_loss(call.config), outputs, mesh, (params, net_state),
                       summary=summaries.summarize(model, setup.input_shape(call.config)), model=call.config.model.name,
                       epochs=_epochs(info), folder=call.workdir if jax.process_index() == 0 else None)
    if call.config.data.whole and jax.process_index() == 0:
        write_roi_record(call.workdir, configs.as_dict(call.config), info.get("rows") or [], source.absolute())
    for line in text.splitlines():
        log.say(line)
    if data.store.left_out.bad:
        log.say(f"{data.store.left_out}: {', '.join(data.store.left_out.cases)}")
    log.close()
    return None


def predict(call: Call) -> int | None:
    """Segment files with nothing but a run folder and the input."""
    if not call.input or not call.output:
        raise ConfigError("--mode=predict needs --input=FILE_or_DIR and --output=DIR")
    source = Path(call.checkpoint) if call.checkpoint else call.workdir
    if not source.exists():
        raise CheckpointError(f"no run folder {str(source)!r}: give --workdir or --checkpoint")
    record = checkpoint.find_record(source)
    given = record["config"]["infer"] if call.config is None else call.config.infer
    say = lambda text: print(text, flush=True)
    if record["model"]["rank"] == 3:
        return volume_prediction.predict(source, Path(call.input), Path(call.output), settings=dict(given), say=say)
    options = {k: given[k] for k in ("batch_size", "probabilities", "overlay")}
    return prediction.predict(source, Path(call.input), Path(call.output), **options, say=say)


def summary(call: Call) -> None:
    """Parameters and multiply-accumulates of the config's network, at its size."""
    outputs = preflight.check(call.config, network=True)
    model = setup.build_model(call.config, outputs.num_classes, abstract=True)
    print(summaries.summarize(model, setup.input_shape(call.config)))


def search(call: Call) -> int | None:
    """Bayesian optimisation of cross-entropy's class weights: whole runs below the run folder."""
    if jax.process_count() > 1:
        raise ConfigError("--mode=search takes one process; its trials share one study")
    folder, objective = call.workdir / "search", call.config.search.objective
    searches.weights_of(call.config)
    preflight.check(call.config)
    return searches.search(call.config, folder, lambda config, place: train(call._replace(config=config, workdir=place)),
                           lambda place: searches.score_of(place, objective), searches.balanced(call.config, folder))


def check(call: Call) -> None:
    """Read every case and report everything that is wrong with the data set."""
    preflight.check(call.config, network=True)
    log = Log(call.workdir, quiet=True)
    dataset = setup.load_dataset(call.config, log)
    print(checks.check(dataset, setup.recipe_of(call.config, dataset), patches=not call.config.data.whole))
    for line in datasets.contradictions(dataset):
        print(f"warning  {line}")


def _epochs(info: dict) -> int | None:
    """Epochs behind a checkpoint: the last row of its own record."""
    rows = info.get("rows") or []
    return rows[-1]["epoch"] if rows else None


def _count(params: dict) -> int:
    return sum(p.size for p in params.values())


MODES = {"train": train, "evaluate": evaluate, "predict": predict, "summary": summary, "check": check, "search": search}
WITHOUT_CONFIG = ("predict",)
