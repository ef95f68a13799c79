"""Facets of the modes besides training, evaluation and prediction: comparisons, searches, plans, maps and pages."""

import contextlib
from pathlib import Path

import jax
import pytest

from jaxseg import checkpoint, modes, recorded
from jaxseg import planned as planned_mode
from jaxseg.experiments import compare, measures, plan
from jaxseg.experiments import search as searches
from jaxseg.experiments import space as spaces
from jaxseg.planning.budget import Cost
from jaxseg.train.log import Log
from jaxseg.types import DataError, JaxsegError
from tests.config.world import RANK


def beside(run: Path, tree):
    """The run's own config with the keys of eval and infer of another."""
    return recorded.settled(tree, checkpoint.find_record(run), run)


def runs(world, base, tree):
    """The runs of a comparison: their models, seeds and folds, and the keys in which they differ from the config."""
    facts = lambda run: (run.model, run.seed, run.fold, run.config.optim.lr, run.config.data.split)
    return [facts(run) for run in plan.runs(tree, world.top)]


def measured(world, base, tree):
    """How often a comparison, whose runs are finished at once and fail in being read, measures what a network costs."""
    costs: list[str] = []
    cost = lambda folder: costs.append(folder.name) or {}
    folder = world.top / f"compared{len(list(world.top.iterdir()))}"
    with contextlib.suppress(JaxsegError):
        compare.compare(
            tree, folder, lambda _, place: place.mkdir(parents=True), lambda _: None, cost, lambda *_: None, lambda _: None
        )
    return costs


def compared(world, base, tree):
    """The page of a comparison all of whose runs fail."""
    folder = world.top / f"compared{len(list(world.top.iterdir()))}"

    def fail(config, place):
        raise DataError("no data", "DATA_X")

    compare.compare(tree, folder, fail, lambda _: None, lambda *_: {}, lambda *_: None, lambda _: None)
    return (folder / "report.html").read_text()


def search(world, base, tree):
    """The trials of a search, each with a score that its weights decide."""
    folder, tried = world.top / f"search{len(list(world.top.iterdir()))}", []

    def run(config, place, watch):
        tried.append((*(round(w, 6) for w in spaces.weights_of(config)), config.optim.lr))
        watch([{"epoch": tree.train.epochs, "val_dice": -len(tried)}])  # worse with every trial

    searches.search(tree, folder, run, lambda place: -tried[-1][1], say=lambda text: None)
    table = (folder / "trials.csv").read_text()
    return tried, table.splitlines()[0], table.count("pruned")


def planned(world, base, tree):
    """The config that is planned, without its docstring, which names the memory."""
    output = world.top / f"plan{len(list(world.top.iterdir()))}.py"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planned_mode, "_check", lambda *arguments: None)
        patch.setattr(measures, "training_step", lambda *arguments, **limit: Cost(1.0, 0.1, 10**9))
        modes.plan(modes.Call(tree, world.top, output=str(output)))
    return output.read_text().rpartition('"""')[2]


def explained(world, base, tree):
    """The figures of the maps of a run."""
    run, output = world.run(base), world.top / f"maps{len(list(world.top.iterdir()))}"
    image = next((world.sets[RANK[base]] / "images").glob("0.*"))
    with pytest.MonkeyPatch.context() as patch, jax.disable_jit():
        patch.setattr(modes, "SAY", lambda text: None)
        modes.explain(modes.Call(beside(run, tree), run, input=str(image), output=str(output)))
    return (output / "explanations.csv").read_text()


def reported(world, base, tree):
    """The page of a run that was evaluated with pictures."""
    run, output = world.run(base), world.top / f"page{len(list(world.top.iterdir()))}.html"
    for place in (run, *(Path(other) for other in [tree.report.before] if other)):
        if not list((place / "evaluations").glob("page@*")):
            with pytest.MonkeyPatch.context() as patch, jax.disable_jit():
                patch.setattr(modes, "Log", lambda folder, quiet: Log(folder, quiet=True))
                modes.evaluate(modes.Call(None, place, name="page"))
    modes.report(modes.Call(beside(run, tree), run, name="page", output=str(output)))
    return output.read_text()
