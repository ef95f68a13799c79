"""Every key of the config changes what a run does, or is refused with what it needs: no key is accepted and ignored.

ROWS say of each key, for a run of slices and one of volumes (of keys of `infer` also for networks of whole volumes and for the
cascade), to which value it is changed and which function of facets.py then gives another result, or which words refuse it. A key
that the data set decides on (setup.DATASET_OPTIONS) needs one row, under the data set that takes it.
"""

import tempfile

import pytest

from configs._base import base
from jaxseg import preflight
from jaxseg.config import check_mode, flatten
from jaxseg.train import setup
from jaxseg.types import JaxsegError
from tests.config import facets
from tests.config.world import World

KEYS = tuple(key for key in flatten(base().to_dict()) if key not in ("embedded", "defaults"))  # these two the config file writes


def row(value, what, also=None, by=None, **given):
    """The key becomes `value` and the facet `what` another.

    Args:
      what: a facet, or (words,) of the message that refuses the value.
      also: keys that change with it.
      by: the facet that meets the refusal; None: the config alone is enough.
      given: keys that have another value before and after ("data__split").
    """
    return value, what, {key.replace("__", "."): v for key, v in given.items()}, also or {}, by


def both(*args, **given):
    return dict.fromkeys(("slices", "volumes"), row(*args, **given))


def alike(*args, **given):
    """A key that the step, the loop or the search reads, which do not know the rank."""
    return {"slices": row(*args, **given)}


def slices(value, *args, volumes=None, **given):
    """A key of rank 2."""
    refusal = row(value if volumes is None else volumes, ("needs data.rank=2",))
    return {"slices": row(value, *args, **given), "volumes": refusal}


def volumes(value, *args, **given):
    """A key of rank 3."""
    return {"slices": row(value, ("needs data.rank=3|needs data.fit='patches'",)), "volumes": row(value, *args, **given)}


def of(dataset, value, what="cases", by=None, **given):
    """A key of a data set, on its phantom."""
    return {"slices": row(value, what, by=by, **PHANTOM | {"data__dataset": dataset, "eval__tables": ()} | given)}


PHANTOM = {"data__root": "", "data__phantom": "quick", "data__structures": None, "eval__thresholds": base().eval.thresholds}


TWO = (("dice", 1.0), ("bce", 1.0))
DEEP = {"model__name": "tests.config.facets:Deep", "loss__aux_weights": (0.5,)}
BRATS = {"data__channels": 4, "data__intensity": "brain", "data__window": ()}
PLATEAU = {"schedule__name": "plateau", "train__best": "val_dice", "train__epochs": 4}
WINDOWS = {"infer__overlap": 0.6}
SEARCH = {
    "loss__terms": (("cross_entropy", 1.0),),
    "loss__options": {"cross_entropy": {"class_weights": (1.0, 2.0)}},
    "model__softmax": True,
    "search__trials": 3,
}
STORE = f"file://{tempfile.gettempdir()}/jaxseg-tests-store"
IDLE = ("has no effect",)
ROWS = {
    "name": alike("other", "record"),
    "seed": both(1, "stream"),
    "variant": alike("all", "record"),
    "data.dataset": {"slices": row("kvasir", "cases", eval__tables=(), **PHANTOM), "volumes": row("brats", "cases", **PHANTOM)},
    "data.root": {"slices": row("<more2>", "prepared"), "volumes": row("<more3>", "prepared")},
    "data.rank": {"slices": row(3, ("must be .x, y, z.",)), "volumes": row(2, ("must be .height, width.",))},
    "data.fit": {
        "slices": row("patches", "stream", eval__tables=base().eval.tables, eval__thresholds=base().eval.thresholds),
        "volumes": row("stretch", ("data.fit='stretch'",)),
    },
    "data.mask_values": of("folder", ((0, 1), (1, 0)), data__mask_values=((0, 0), (1, 1))),
    "data.size": {"slices": row((24, 24), "prepared"), "volumes": row((8, 8, 12), "stream")},
    "data.channels": {"slices": row(3, "prepared"), "volumes": row(2, "prepared")},
    "data.intensity": both("brain", "prepared", also={"data.window": ()}),
    "data.window": both((30.0, 60.0), "prepared"),
    "data.spacing": {
        "slices": row(
            (2.0, 2.0),
            "prepared",
            data__dataset="ct_ich",
            data__fit="centre",
            data__spacing=(1.0, 1.0),
            eval__tables=(),
            **PHANTOM,
        ),
        "volumes": row((2.0, 2.0, 2.0), "prepared"),
    },
    "data.mean": both((0.5,), "step", data__mean=(0.1,), data__std=(0.3,)),
    "data.std": both((0.5,), "step", data__mean=(0.1,), data__std=(0.3,)),
    "data.filter": both("lanczos", "prepared"),
    "data.orientation": volumes("file", "prepared"),
    "data.axes": volumes((2, 1, 0), "prepared"),
    "data.statistics": volumes(
        ((0.0, 40.0, 20.0, 5.0),),
        "prepared",
        data__window=(),
        data__intensity="ct_zscore",
        data__statistics=((0.0, 40.0, 20.0, 10.0),),
    ),
    "data.nonzero": volumes(
        True,
        "prepared",
        data__dataset="brats",
        data__channels=4,
        data__intensity="zscore",
        data__window=(),
        data__modalities=("t1", "t1ce", "t2", "flair"),
        **PHANTOM,
    ),
    "data.above": volumes(("scan", 30.0, 1), "prepared"),
    "data.plane": slices("coronal", ("a picture has no coronal plane",), by="prepared"),
    "data.crop": slices((16, 16), "prepared"),
    "data.blur": slices(1.0, "prepared"),
    "data.extra": slices(("kmeans",), "prepared", also={"data.channels": 2}),
    "data.extra_run": slices(
        "no_run", ("config.data.extra_run.*no_run",), by="prepared", data__extra=("edge",), data__channels=2
    ),
    "data.target": slices("edges", "prepared"),
    "data.min_area": of("brats", 20, **BRATS),
    "data.sample": of("brats", 0.5, **BRATS),
    "data.sample_seed": of("brats", 3, data__sample=0.5, **BRATS),
    "data.normalise": of("brats_arrays", "given", data__root="<arrays>", data__phantom=None, data__normalise="brain", **BRATS),
    "data.protocol": of("ct_ich", "all", data__protocol="only"),
    "data.structures": of("lungs", ("right lung", "left lung"), data__structures=("left lung", "right lung")),
    "data.patient": of("folder", "(", ("not a regular expression",), by="cases"),
    "data.suffixes": of("folder", ("_t1",), ("another ending",), by="cases"),
    "data.ignore": of("folder", "background", ("takes no option 'ignore'",), by="cases"),
    "data.naming": of("lungs", "image", data__naming="patient"),
    "data.missing_masks": of("scoliosis", "empty", data__root="<boxes>", data__phantom=None),
    "data.modalities": of("brats", ("t1ce", "flair"), **BRATS),
    "data.release": of("brats", "2024", ("the names decide",), by="cases", **BRATS),
    "data.regions": {
        "slices": row(("dataset",), ("defines no regions",), by="cases", eval__thresholds=base().eval.thresholds),
        "volumes": row(("dataset",), "outputs", data__dataset="brats", data__structures=None, **BRATS),
    },
    "data.coordinates": volumes(True, "stream"),
    "data.previous": volumes(("elsewhere",), ("config.data.previous: elsewhere is not a run folder",), by="prepared"),
    "data.previous_labels": volumes("elsewhere", ("needs data.previous",)),
    "data.whole": volumes(True, "stream", also={"data.fit": "stretch"}),
    "data.per_volume": volumes(4, "stream"),
    "data.foreground": volumes(1.0, "stream", data__foreground=0.0),
    "data.positions": volumes("centre_clipped", "stream", data__foreground=0.0),
    "data.phantom": {
        "slices": row("default", "cases", data__root="", data__phantom="quick"),
        "volumes": row("quick", ("together with config.data.root",), by="cases"),
    },
    "data.bad_cases": {
        rank: row("skip", "prepared", also={"data.bad_share": 0.2}, data__root=f"<bad{n}>")
        for rank, n in (("slices", 2), ("volumes", 3))
    },
    "data.bad_share": {
        rank: row(0.02, ("of 8 cases",), by="prepared", data__root=f"<bad{n}>", data__bad_cases="skip", data__bad_share=0.2)
        for rank, n in (("slices", 2), ("volumes", 3))
    },
    "data.split": both("fold", "rows"),
    "data.split_file": both("<b.json>", "rows", data__split="file", data__split_file="<a.json>"),
    "data.folds": both(3, "rows", data__split="fold"),
    "data.fold": both(1, "rows", data__split="fold"),
    "data.split_seed": both(3, "rows"),
    "data.fractions": both((0.5, 0.25, 0.25), "rows"),
    "data.max_samples": both(2, "stream", train__batch_size=1),
    "data.workers": both(2, "readers"),
    "data.prepare_workers": both(2, "preparers"),
    "data.store_engine": both("zarr3", "files_of_the_store"),
    "data.store_address": {
        "slices": row(STORE, ("needs data.rank=3|needs data.fit='patches'",), data__store_engine="zarr3"),
        "volumes": row(STORE, "files_of_the_store", data__store_engine="zarr3"),
    },
    "data.store_dtype": volumes("float16", "stream"),
    "data.readers": both(((".png", "tests.config.facets:area"),), ("already reads files",), by="cases"),
    "data.transforms": both((("tests.config.facets:darker", {}),), "stream"),
    "model.name": {"slices": row("unet_test", "weights"), "volumes": row("unet3d_test", "weights")},
    "model.options": both({"shrink": 0.25}, "step", **DEEP),
    "model.softmax": both(True, "step"),
    "model.init": {"slices": row("<run other slices>", "weights"), "volumes": row("<run other volumes>", "weights")},
    "loss.terms": alike(TWO, "step"),
    "loss.options": alike({"bce": {"positive_weight": 3.0}}, "step"),
    "loss.aux_weights": alike((0.25,), "step", **DEEP),
    "loss.learnable": alike((("dice", 0.0), ("bce", 0.0)), "step", loss__terms=TWO),
    "loss.aux_terms": alike((("bce", 1.0),), "step", loss__terms=TWO, **DEEP),
    "optim.name": alike("sgd", "step"),
    "optim.lr": alike(0.5, "rates"),
    "optim.options": alike({"b1": 0.8}, "step"),
    "optim.weight_decay": alike(0.5, "step"),
    "optim.groups": alike((("bias$", {"lr": 0.5}),), "step"),
    "optim.clip_norm": alike(0.5, "step"),
    "optim.accumulate": both(2, "stream", train__batch_size=1),
    "optim.ema": alike(0.9, "step"),
    "schedule.name": alike("poly", "rates", schedule__name="constant", schedule__options={}),
    "schedule.warmup": alike(2, "rates"),
    "schedule.warmup_ratio": alike(0.5, "rates", schedule__warmup=2),
    "schedule.options": alike({"power": 2.0}, "rates", schedule__name="poly"),
    "train.epochs": alike(3, "training"),
    "train.batch_size": both(1, "stream"),
    "train.dtype": alike("bfloat16", "step"),
    "train.augment": both((("hflip", 0.5, {}),), "step", train__augment=()),
    "train.remat": alike(("first",), "step"),
    "train.bn_warmup": alike(2, "training"),
    "train.eval_every": alike(2, "training"),
    "train.best": alike("val_recall", "training", train__best="val_dice"),
    "train.save_every": alike(2, "training"),
    "train.keep": alike(3, "training"),
    "train.log_every": alike(1, "training"),
    "train.alarm_after": alike(2, "training"),
    "train.stop_nonfinite": alike(2, "training"),
    "train.watchdog": alike(7, "training"),
    "eval.batch_size": slices(2, "evaluated_batches"),
    "eval.thresholds": {"slices": row((0.3,), "scores"), "volumes": row((0.3,), ("leave (it|this key) out",))},
    "eval.threshold": both(0.45, "scores"),
    "eval.tables": slices(("ich",), "scores"),
    "eval.metrics": both(("tests.config.facets:area",), "scores"),
    "eval.empty": both("nan", "scores"),
    "eval.split": both("val", "scores"),
    "eval.surface": {"slices": row(False, ("needs data.rank=3",)), "volumes": row(True, "scores")},
    "eval.lesions": volumes("GLI", ("defines no regions",), by="scores"),
    "eval.postprocess": both(True, "scores"),
    "eval.keep": both(1, "scores"),
    "infer.batch_size": slices(9, "batches"),
    "infer.probabilities": both(True, "files"),
    "infer.overlay": both(False, "files"),
    "infer.statistics": both(True, "files"),
    "infer.uncertainty": both("entropy", "files"),
    "infer.roi": volumes("<run whole>", "files"),
    "infer.max_instances": both(2, IDLE),
    "infer.min_size": both(9, IDLE),
    "infer.merge": both("probability", IDLE),
    "infer.ensemble": {"slices": row(("<run other slices>",), "files"), "volumes": row(("<run other volumes>",), "files")},
    "infer.postprocess": both(True, "files"),
    "infer.overlap": volumes(0.6, "files"),
    "infer.blend": volumes("constant", "files", **WINDOWS),
    "infer.positions": volumes("nnunet", "files", **WINDOWS),
    "infer.sums": volumes("float16", "files", infer__probabilities=True, **WINDOWS),
    "infer.windows": volumes(9, "batches"),
    "infer.whole": volumes(True, "files"),
    "infer.mirror": both((0,), "files"),
    "infer.accumulator": volumes("host", "batches"),
    "compare.models": alike(("unet_test", "segnext_test"), "runs"),
    "compare.seeds": alike((1, 2), "runs"),
    "compare.folds": alike(4, "runs"),
    "compare.fold": alike((1,), "runs", compare__folds=4),
    "compare.vary": alike((("large", (("optim.lr", 0.5),)),), "runs"),
    "compare.published": alike((("theirs", (("Dice", 0.9),)),), "compared"),
    "compare.measure": alike(True, "measured"),
    "explain.layer": alike("first", "explained"),
    "explain.region": alike("all", "explained", explain__layer="first"),
    "plan.memory_gb": alike(0.005, "planned"),
    "plan.minutes": alike(3.0, "planned"),
    "plan.rules": alike("nnunet", "planned"),
    "report.before": {"slices": row("<run other slices>", "reported"), "volumes": row("<run other volumes>", "reported")},
    "report.names": alike("hash", "reported"),
    "report.pictures": alike(False, "reported"),
    "report.megabytes": alike(0.001, "reported"),
    "search.space": alike((("optim.lr", "log", 1e-5, 1e-2),), "search", **SEARCH),
    "search.prune": alike(False, "search", **SEARCH | {"search__trials": 7}),
    "search.trials": alike(4, "search", **SEARCH),
    "search.objective": alike("val_recall", "search", **SEARCH),
    "search.low": alike(0.9, "search", **SEARCH),
    "search.high": alike(1.5, "search", **SEARCH),
    "mesh.data": alike(2, "devices"),
    "mesh.space": alike(2, "devices", model__name="segnext_test"),
    "mesh.join": alike(7, "joining"),
    "mesh.heartbeat": alike(7, "joining"),
    "mesh.shard_state": alike(True, "training"),
}
SHRUNK = {  # keys of infer, of a network of whole volumes
    "infer.probabilities": row(True, "files"),
    "infer.overlay": row(False, "files"),
    "infer.statistics": row(True, "files"),
    "infer.uncertainty": row("entropy", "files"),
    "infer.roi": row("<run whole>", ("leave (it|this key) out",)),
    "infer.max_instances": row(2, IDLE),
    "infer.min_size": row(9, IDLE),
    "infer.merge": row("probability", IDLE),
    "infer.ensemble": row(("<run other whole>",), "files"),
    "infer.postprocess": row(True, "files"),
    "infer.overlap": row(0.5, IDLE),
    "infer.blend": row("constant", IDLE),
    "infer.positions": row("nnunet", IDLE),
    "infer.sums": row("float16", IDLE),
    "infer.windows": row(3, IDLE),
    "infer.whole": row(True, IDLE),
    "infer.mirror": row((0,), "files"),
    "infer.accumulator": row("host", IDLE),
    "infer.batch_size": row(2, IDLE),
}
CASCADE = {
    "infer.probabilities": row(True, "files"),
    "infer.overlay": row(False, "files"),
    "infer.statistics": row(True, "files"),
    "infer.uncertainty": row("entropy", "files"),
    "infer.roi": row("", "files"),
    "infer.max_instances": row(2, "batches"),
    "infer.min_size": row(9, "batches"),
    "infer.merge": row("probability", "batches"),
    "infer.ensemble": row(("<run other volumes>",), "files"),
    "infer.postprocess": row(True, "files"),
    "infer.overlap": row(0.5, IDLE),
    "infer.blend": row("constant", IDLE),
    "infer.positions": row("nnunet", IDLE),
    "infer.sums": row("float16", ("needs infer.roi='': a cascade's crops",)),
    "infer.windows": row(3, IDLE),
    "infer.whole": row(True, IDLE),
    "infer.mirror": row((0,), IDLE),
    "infer.accumulator": row("host", IDLE),
    "infer.batch_size": row(2, IDLE),
}
ALIKE = (
    "name",
    "variant",
    "loss",
    "optim",
    "schedule",
    "train",
    "search",
    "compare",
    "explain",
    "plan",
    "report",
    "mesh",
)  # groups that do not know the rank
ALL = [(key, kind) for key, kinds in ROWS.items() for kind in kinds]
ALL += [(key, kind) for kind, rows in (("whole", SHRUNK), ("cascade", CASCADE)) for key in rows]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        top = tmp_path_factory.mktemp("keys")
        patch.setenv("JAXSEG_CACHE", str(top / "cache"))
        yield World(top, facets.FACETS)


@pytest.mark.parametrize("key, kind", ALL, ids=[f"{key}-{kind}" for key, kind in ALL])
def test_a_changed_key_changes_what_its_row_says_or_is_refused(world, key, kind):
    value, what, given, also, by = {"whole": SHRUNK, "cascade": CASCADE}.get(kind, {}).get(key) or ROWS[key][kind]
    if what == "search":
        pytest.importorskip("optuna")
    changed = {**given, **also, key: value}
    if isinstance(what, tuple):
        with pytest.raises(JaxsegError, match=what[0]) as refusal:
            if by is None:
                tree = world.config(kind, changed, (key,))
                check_mode(tree, "predict" if kind == "cascade" else "train", (key,))
                preflight.check(tree)
            else:
                raise world.facet(by, kind, changed, (key,))
        assert key.rpartition(".")[2] in str(refusal.value) and len(str(refusal.value).splitlines()) == 1
        return
    before, after = world.facet(what, kind, given), world.facet(what, kind, changed, (key,))
    assert not isinstance(after, JaxsegError), after
    assert before != after, (
        f"config.{key}={value!r} changes no {what}: it is ignored; make it count, or refuse it (config/keys.py)"
    )


def test_every_key_has_its_rows():
    """What a new key needs: see the message."""
    lacking = [
        f"{key} ({kind})"
        for key in KEYS
        for kind, rows in (("slices", ROWS), ("volumes", ROWS), ("whole", SHRUNK), ("cascade", CASCADE))
        if kind in ("slices", "volumes") or key.startswith("infer.")
        if not (
            ROWS.get(key)
            if key.removeprefix("data.") in setup.DATASET_OPTIONS or key.partition(".")[0] in ALIKE
            else (key in rows if rows is not ROWS else kind in rows.get(key, {}))
        )
    ]
    assert not lacking, (
        f"no row in ROWS for {', '.join(lacking)}: add 'key': both(another value, 'the facet of facets.py that it changes'), or "
        "slices(...), volumes(...), alike(...), of('the data set that takes it', value) where it is of these alone; a key that "
        "counts only beside others is refused without them by NEEDS of jaxseg/config/keys.py, and its row names these others"
    )
    assert set(ROWS) <= set(KEYS) and set(SHRUNK) | set(CASCADE) <= set(KEYS)
