"""The modes of the command line (`--mode=NAME`): one function each, called with the resolved config and the folders."""

import contextlib
import dataclasses
import functools
import time
from pathlib import Path

import jax

from jaxseg import checkpoint, described, planned, preflight, recorded
from jaxseg import config as configs
from jaxseg.calls import Call, takes
from jaxseg.checkpoint.claims import InUse
from jaxseg.data.check.examine import examine
from jaxseg.evaluate import scoring
from jaxseg.experiments import compare as comparisons
from jaxseg.experiments import costs, evaluation, measures, space, statistics
from jaxseg.experiments import search as searches
from jaxseg.experiments.insight import attention
from jaxseg.experiments.insight import explain as explanations
from jaxseg.exporting import card, dicom_seg
from jaxseg.exporting import export as exports
from jaxseg.infer import predict as prediction
from jaxseg.models import summary as summaries
from jaxseg.ops.precision import compute_dtype, describe
from jaxseg.reports import run as pages
from jaxseg.reports.names import name_style, without_paths
from jaxseg.reports.reading import EXPERIMENT
from jaxseg.train import cascades, extend, loop, patients, setup
from jaxseg.train import feed as feeds
from jaxseg.train import kept as kept_programs
from jaxseg.train.log import Log
from jaxseg.train.processes import agree, surroundings
from jaxseg.train.processes.interrupt import PREEMPTED, Preemption, Stopped, fault
from jaxseg.types import CheckpointError, ConfigError
from jaxseg.utils import code, files, output
from jaxseg.utils.turns import CaseShare

SAY = functools.partial(output.say, result=True)
HINTS = {
    "train.epochs": "--extend continues a run to a larger train.epochs",
    **dict.fromkeys(("eval.threshold", "eval.empty"), "--mode=evaluate scores the run with other values of eval"),
}


@takes("checkpoint", "extend")
def train(call: Call) -> int | None:
    """Train (or resume), then evaluate the best checkpoint. On SIGTERM, save the steps made so far and exit with code 42."""
    if call.checkpoint:
        raise ConfigError(
            f"--checkpoint={call.checkpoint}: can be given with --mode=evaluate and --mode=predict; to start training from its "
            "weights, give --config.model.init"
        )
    return _until_stopped(call)


def _until_stopped(call: Call, watch: loop.Watch | None = None) -> int | None:
    preemption = Preemption()
    try:
        with preemption, preemption.at_once():
            return _train(call, watch)
    except Stopped:
        output.say("stopped by SIGTERM before or after the training loop; run the same command again to resume", result=True)
        return PREEMPTED


def _train(call: Call, watch: loop.Watch | None) -> int | None:
    first = jax.process_index() == 0
    call, learnt, lines = _described(call)
    preflight.check(call.config, learnt=learnt)
    call = _settled(call)
    tree = configs.as_dict(call.config)
    agree.same("configuration", tree)
    claim = agree.on_first(lambda: _claim(call, tree))
    log = Log(call.workdir, quiet=not first)
    if agree.from_first(bool(claim and claim.finished and not claim.raised)):
        log.say(
            f"{call.workdir} holds a finished run of this config; give another --workdir to train again, or --extend and "
            "a larger --config.train.epochs to train it further"
        )
    else:
        difference = configs.difference(call.config)
        log.say(describe(call.config.train.dtype))
        for line in lines:
            log.say(line)
        log.say("experiment: " + ", ".join(f"{k}={b!r}" for k, (_, b) in difference.items()))
        hashed = call.config.report.names == "hash"
        log.config(without_paths(tree, hashed=hashed), without_paths(difference, hashed=hashed))
        kept = kept_programs.of_step(call.config).begin()
        data = setup.load_data(call.config, log, call.workdir)
        about = data.store.rows
        agree.same("data set", {"examples": len(about), "digest": data.store.digest})
        job = setup.build(call.config, call.workdir, data, log, kept)
        agree.on_first(lambda: patients.same_data(call.workdir, data.store, log, resumed=claim.resumed))
        agree.on_first(lambda: patients.keep(call.config, call.workdir, about, data.rows))
        agree.on_first(lambda: surroundings.compare(call.workdir, log, resumed=claim.resumed))
        record = setup.record_of(call.config, data, _count(job.state["params"]))
        if claim and claim.raised:
            log.say(extend.describe(call.config, claim.raised["train.epochs"][0], job))
        agree.on_first(lambda: claim.begin(record))
        agree.on_first(lambda: files.write_json(call.workdir / EXPERIMENT, difference))
        agree.on_first(lambda: cascades.keep_runs(call.config, call.workdir))
        agree.on_first(lambda: patients.keep_steps(call.config, record["labels"], call.workdir, log.say))
        log.event(
            "start", workdir=call.workdir, model=call.config.model.name, epochs=job.epochs, steps_per_epoch=job.steps_per_epoch
        )
        begin = time.perf_counter()
        stopped = loop.run(job, log, watch)
        if stopped:
            return stopped
        log.say(f"trained in {time.perf_counter() - begin:.0f} s")
        if claim:
            claim.finish()
    tested = agree.from_first(
        bool(agree.on_first(lambda: checkpoint.read_record(call.workdir)["splits"][call.config.eval.split]))
    )
    if not tested:
        log.say(
            f"the data have no {call.config.eval.split} split, so the run is not evaluated; to evaluate it on another labelled "
            f"set, run --mode=evaluate --workdir={call.workdir} --input=FOLDER"
        )
    log.close()
    fault(0, "before_report")
    if not tested:
        agree.on_first(lambda: card.write(call.workdir))
        return None
    return evaluate(call._replace(extend=False))


def _claim(call: Call, tree: dict) -> checkpoint.Claim:
    claim = checkpoint.claim(
        call.workdir,
        tree,
        ignored=configs.neutral(call.config),
        defaults=configs.defaults(call.config),
        raising=("train.epochs",) if call.extend else (),
        hints=HINTS,
    )
    if call.extend and not claim.resumed:
        claim.release()
        raise ConfigError(f"--extend: {call.workdir} holds no run; leave --extend out, or give the --workdir of a finished run")
    return claim


def _described(call: Call) -> tuple[Call, preflight.Learnt | None, tuple[str, ...]]:
    """Fill in from the user's own data what the config leaves open; return the call, the classes to learn, and log lines."""
    preflight.check(call.config)  # what shows without the data
    filled = described.fill(call.config)
    learnt = preflight.Learnt(filled.dataset.labels, filled.dataset.regions) if filled.dataset else None
    return call._replace(config=filled.config), learnt, filled.lines


def _settled(call: Call) -> Call:
    """Replace train.dtype="auto" by the dtype in the run's record, or for a new run by the one that suits this machine."""
    if call.config.train.dtype != "auto":
        return call
    recorded = agree.on_first(lambda: _recorded_dtype(call.workdir)) or ""
    known = {name: agree.from_first(recorded == name) for name in ("float32", "bfloat16")}
    config = call.config.copy_and_resolve_references().unlock()
    config.train.dtype = next((name for name, here in known.items() if here), compute_dtype("auto"))
    return call._replace(config=config.lock())


def _recorded_dtype(run: Path) -> str | None:
    try:
        return checkpoint.read_record(run)["config"]["train"]["dtype"]
    except CheckpointError:  # a new run; a damaged record is refused where the folder is claimed
        return None


@takes("checkpoint", "input", "name", "overwrite")
def evaluate(call: Call) -> int | None:
    """Score a checkpoint on config.eval.split, or on another labelled set; everything else comes from the run's record."""
    with code.recorded_alone():
        if _source(call).exists():
            code.check(_recorded(call)["code"], _source(call))
        if call.config is not None:
            if typed := call.config.eval.metrics:
                for path in set(typed) - set(_recorded(call)["config"]["eval"]["metrics"]):
                    code.trust(path)
            preflight.check(call.config)
        return _evaluate(call, _source(call), _recorded(call))


def _evaluate(call: Call, source: Path, record: dict) -> None:
    config = recorded.settled(call.config, record, source, reads_data=True)
    log = Log(checkpoint.run_folder(source), quiet=jax.process_index() > 0)
    evaluation.evaluate(
        config,
        source,
        log,
        whose="--checkpoint" if call.checkpoint else "--workdir",
        name=call.name,
        external=Path(call.input) if call.input else None,
        overwrite=call.overwrite,
    )
    if jax.process_index() == 0:
        card.write(source)
    log.close()


@takes("checkpoint", "input", "output", "dicom_seg")
def predict(call: Call) -> int | None:
    """Segment files; a run folder, an input and an output are all it needs."""
    if not call.input or not call.output:
        raise ConfigError("--mode=predict needs --input=FILE_or_DIR and --output=DIR")
    source, record = _source(call), _recorded(call)
    config = recorded.settled(call.config, record, source)
    if len(record["labels"]) > 1 and not record["regions"]:
        preflight.check_softmax(config, record["model"]["num_classes"])
    with code.recorded_alone():
        code.check(record["code"], source)
        series = dicom_seg.series_of(source, Path(call.input)) if call.dicom_seg else []
        ended = prediction.predict(
            source,
            Path(call.input),
            Path(call.output),
            settings=dict(config.infer),
            threshold=config.eval.threshold,
            space=config.mesh.space,
            say=output.say,
            conclude=SAY,
            share=scoring.share(),
            show=name_style(config.report.names, record["data"]["digest"]),
        )
        dicom_seg.write_all(source, series, Path(call.output), output.say)
        return ended


def _source(call: Call) -> Path:
    """Return the run or checkpoint folder that a call names."""
    return Path(call.checkpoint) if call.checkpoint else call.workdir


def _recorded(call: Call) -> dict:
    """Read the record (run.json) of the run that a call names."""
    if not _source(call).exists():
        raise CheckpointError(f"no run folder {str(_source(call))!r}: give --workdir or --checkpoint")
    return checkpoint.find_record(_source(call))


@takes("checkpoint", "input", "output")
def explain(call: Call) -> int | None:
    """Write Seg-Grad-CAM maps of what a run predicts on files."""
    if not call.input or not call.output:
        raise ConfigError("--mode=explain needs --input=FILE_or_DIR and --output=DIR")
    if jax.process_count() > 1:
        raise ConfigError(f"--mode=explain: got {jax.process_count()} processes, must be one; leave out --num_processes")
    source, record = _source(call), _recorded(call)
    config = recorded.settled(call.config, record, source)
    with code.recorded_alone():
        code.check(record["code"], source)
        return explanations.explain(
            source,
            Path(call.input),
            Path(call.output),
            settings=dict(config.infer),
            layer=config.explain.layer,
            region=config.explain.region,
            threshold=config.eval.threshold,
            say=SAY,
            show=name_style(config.report.names, record["data"]["digest"]),
            megabytes=config.report.megabytes,
        )


@takes("checkpoint", "input", "output", "format", "licence")
def export(call: Call) -> None:
    """Write a run as a file that other programs read."""
    if not call.output:
        raise ConfigError("--mode=export needs --output=FILE, for instance --output=model.jaxseg")
    source, record = _source(call), _recorded(call)
    config = recorded.settled(call.config, record, source)
    with code.recorded_alone():
        code.check(record["code"], source)
        how = {"format": call.format, "licence": call.licence, "like": Path(call.input) if call.input else None}
        exports.export(source, Path(call.output), settings=dict(config.infer), threshold=config.eval.threshold, say=SAY, **how)


@takes()
def summary(call: Call) -> None:
    """Print the numbers of parameters and of multiply-accumulates of the config's network, at the config's image size."""
    call, learnt, _ = _described(call)
    outputs = preflight.check(call.config, network=True, learnt=learnt)
    model = setup.build_model(call.config, outputs.num_classes, abstract=True)
    found = summaries.summarize(model, setup.input_shape(call.config))
    SAY(str(found))
    output.event("summary", network=found._asdict() | {"parts": [part._asdict() for part in found.parts]})


@takes()
def search(call: Call) -> int | None:
    """Search values of config.search.space by Bayesian optimisation; each trial is a run below the run folder."""
    if jax.process_count() > 1:
        raise ConfigError(f"--mode=search: got {jax.process_count()} processes, must be one; leave out --num_processes")
    folder, objective = call.workdir / "search", call.config.search.objective
    space.space_of(call.config)
    full, learnt, lines = _described(call)
    for line in lines:
        output.say(line)
    preflight.check(full.config, learnt=learnt)
    return searches.search(
        call.config,
        folder,
        lambda config, place, watch: _until_stopped(call._replace(config=config, workdir=place), watch),
        lambda place: searches.score_of(place, objective),
        searches.balanced(full.config, folder),
        SAY,
    )


@takes("output")
def check(call: Call) -> None:
    """Read every case (each process its share), report all that is wrong, and end with the error that training would raise."""
    share = scoring.share()
    config, dataset, recipe, place = share.together(lambda: _listed(call, share))
    agree.same("cases", [case.id for case in dataset.cases])
    learn = cascades.target_of(tuple(config.data.size)) if config.data.whole else None
    how = {"bad_share": feeds.bad_share_of(config), "learn": learn, "sheet": place, "share": share}
    found = share.together(lambda: examine(dataset, recipe, **how))
    agree.on_first(lambda: preflight.conclude(config, recipe, found))


def _listed(call: Call, share: CaseShare) -> tuple:
    """Return the config with what the data decide, the data set, how its images are prepared, and the folder for pictures."""
    call, learnt, lines = _described(call)
    for line in lines if not share.index else ():
        output.say(line)
    preflight.check(call.config, network=True, learnt=learnt)
    dataset = setup.load_dataset(call.config, Log(call.workdir, quiet=True))
    name = f"{files.plain_name(dataset.name)}-{files.digest(str(dataset.root.absolute()))[:16]}"
    place = Path(call.output) if call.output else files.cache_root() / "check" / name
    files.make_folder(place, f"--output={place}")
    recipe = dataclasses.replace(setup.recipe_of(call.config, dataset), stage=0)  # no network segments the cases
    return call.config, dataset, recipe, place


@takes("name", "output")
def report(call: Call) -> None:
    """Write report.html of a run, from its folder alone."""
    if jax.process_count() > 1:
        raise ConfigError(f"--mode=report: got {jax.process_count()} processes, must be one; leave out --num_processes")
    settings = recorded.settled(call.config, _recorded(call), call.workdir).report
    page = Path(call.output or call.workdir / "report.html")
    SAY(pages.write(call.workdir, page, name=call.name, test=statistics.of_two, **settings))


@takes("output")
def plan(call: Call) -> None:
    """Measure the training cases, choose spacing, patch and network by nnU-Net's rules, and write the config to train with."""
    if jax.process_count() > 1:
        raise ConfigError(f"--mode=plan: got {jax.process_count()} processes, must be one; leave out --num_processes")
    if not call.output or not call.config.data.root:
        raise ConfigError("--mode=plan needs --config.data.root=FOLDER and --output=FILE.py")

    def look(config) -> None:
        described_call, learnt, _ = _described(call._replace(config=config))
        preflight.check(described_call.config, learnt=learnt)

    planned.write(call.config, Path(call.output), look, measures.device(call.config))


@takes()
def compare(call: Call) -> int | None:
    """Train and evaluate every combination of config.compare, each in its own folder below the run folder, and compare them."""
    if jax.process_count() > 1:
        raise ConfigError(
            f"--mode=compare: got {jax.process_count()} processes for one run, must be one; leave out --num_processes and start "
            "the same command several times: each process then trains other runs"
        )

    def look(config) -> None:
        described, learnt, _ = _described(call._replace(config=config))
        preflight.check(described.config, learnt=learnt)

    def same(config, place: Path) -> None:
        run = _settled(_described(call._replace(config=config, workdir=place))[0])
        with contextlib.suppress(InUse):  # who holds it has looked
            _claim(run, configs.as_dict(run.config)).release()

    def summarise_attention(model: str, config, place: Path) -> list[str]:
        show = name_style(config.report.names, checkpoint.read_record(place)["data"]["digest"])
        return attention.write(call.workdir, model, place, _described(call._replace(config=config))[0].config, show)

    return comparisons.compare(
        call.config,
        call.workdir,
        lambda config, place: train(call._replace(config=config, workdir=place)),
        look,
        costs.of_run,
        same,
        SAY,
        summarise_attention,
    )


def _count(params: dict) -> int:
    return sum(p.size for p in params.values())
