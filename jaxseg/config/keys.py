"""Allowed values of the keys of a config tree, as tables for `resolve` and its rules."""

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxseg.config.kinds import KINDS

CHOICES = {
    "data.fit": ("stretch", "centre", "patches"),
    "data.split": ("patient", "fold", "file", "fixed", "slice_level", "auto"),
    "data.orientation": ("lps", "ras", "file"),
    "data.filter": ("linear", "lanczos", "nnunet", "monai", "monai_last"),
    "data.plane": ("", "axial", "coronal", "sagittal"),
    "data.bad_cases": ("stop", "skip"),
    "data.missing_masks": ("skip", "empty"),
    "data.positions": ("uniform", "centre_clipped"),
    "data.store_dtype": ("float32", "float16"),
    "data.store_engine": ("memmap", "zarr3"),
    "data.target": ("labels", "edges", "composite"),
    "optim.name": ("adam", "adamw", "adagrad", "sgd"),
    "schedule.name": ("constant", "poly", "cosine", "step", "plateau"),
    "train.dtype": ("auto", "float32", "bfloat16"),
    "train.best": ("val_loss", "val_dice", "val_recall", "last"),
    "eval.empty": ("one", "zero", "nan"),
    "eval.split": ("train", "val", "test"),
    "search.objective": ("val_dice", "val_recall"),
    "plan.rules": ("device", "nnunet"),
    "explain.region": ("predicted", "all"),
    "report.names": ("plain", "hash"),
    "infer.merge": ("max", "probability"),
    "infer.blend": ("constant", "gaussian", "gaussian_nnunet", "cosine", "half_cosine"),
    "infer.positions": ("monai", "nnunet"),
    "infer.sums": ("float32", "float16"),
    "infer.accumulator": ("auto", "device", "host", "memmap"),
    "infer.uncertainty": ("", "entropy", "variance"),
}
INTENSITIES = (
    *("grey", "brain", "ct", "zscore", "zscore_nonzero", "zscore_own_nonzero", "ct_zscore", "rescale_to_01", "rgb_to_01", "none"),
    *("percentiles", "percentiles_unclipped", "auto"),
)
VOLUMES_ONLY = (
    "data.coordinates",
    "data.previous",
    "data.previous_labels",
    "data.whole",
    "data.orientation",
    "data.axes",
    "data.nonzero",
    "data.above",
    "data.statistics",
    "eval.surface",
    "eval.lesions",
    "infer.roi",
)
PATCHES_ONLY = (
    "data.store_address",
    "data.store_dtype",
    "data.per_volume",
    "data.foreground",
    "data.positions",
    "infer.overlap",
    "infer.blend",
    "infer.positions",
    "infer.sums",
    "infer.accumulator",
    "infer.whole",
)
SLICES_ONLY = (
    "data.plane",
    "data.crop",
    "data.blur",
    "data.extra",
    "data.extra_run",
    "data.target",
    "data.min_area",
    "data.sample",
    "data.sample_seed",
)
EXTRA = {"kmeans": 1, "edge": 1, "painted_edge": 0, "autoencoder": 1}  # number of channels that each name in data.extra adds
EXTRA_BY_A_RUN = {
    "edge": "edges",
    "painted_edge": "edges",
    "autoencoder": "composite",
}  # data.target of the run in data.extra_run
# Keys that may change between two starts of one run, because they do not affect the training.
NEUTRAL = (
    "variant",
    "data.workers",
    "data.store_engine",
    "data.store_address",
    "data.prepare_workers",
    "eval.batch_size",
    "eval.thresholds",
    "eval.threshold",
    "eval.empty",
    "eval.split",
    "eval.tables",
    "eval.metrics",
    "eval.surface",
    "eval.lesions",
    "eval.postprocess",
    "eval.keep",
    "infer.batch_size",
    "infer.probabilities",
    "infer.overlay",
    "infer.statistics",
    "infer.uncertainty",
    "infer.roi",
    "infer.max_instances",
    "infer.min_size",
    "infer.merge",
    "infer.ensemble",
    "infer.postprocess",
    "infer.windows",
    "infer.accumulator",
    "train.log_every",
    "train.watchdog",
    "train.remat",
    "mesh.shard_state",
    "mesh.space",
    "mesh.join",
    "mesh.heartbeat",
    "train.keep",
    "explain.layer",
    "explain.region",
    "plan.memory_gb",
    "plan.minutes",
    "plan.rules",
    "report.before",
    "report.names",
    "report.pictures",
    "report.megabytes",
    "search.space",
    "search.trials",
    "search.objective",
    "search.prune",
    "search.low",
    "search.high",
    "compare.models",
    "compare.seeds",
    "compare.folds",
    "compare.fold",
    "compare.vary",
    "compare.published",
    "compare.measure",
)
POSITIVE = (
    "data.channels",
    "data.per_volume",
    "train.epochs",
    "train.batch_size",
    "train.eval_every",
    "train.save_every",
    "train.keep",
    "train.log_every",
    "eval.batch_size",
    "infer.batch_size",
    "infer.windows",
    "infer.max_instances",
    "optim.accumulate",
    "search.trials",
    "mesh.space",
    "mesh.heartbeat",
)
AT_MOST = {
    "data.workers": 256,
    "data.prepare_workers": 1024,
    "mesh.join": 86400,
    "mesh.heartbeat": 86400,
    "data.blur": 1000,
    "data.per_volume": 10**5,
    "train.epochs": 10**7,
}  # a larger value is a typing mistake
NUMBERS = (
    "data.size",
    "data.window",
    "data.spacing",
    "data.mean",
    "data.std",
    "data.crop",
    "data.fractions",
    "loss.aux_weights",
    "eval.thresholds",
    "infer.mirror",
)
PAIRS = ("loss.terms", "loss.aux_terms", "loss.learnable")  # ((name, number), ...)
OF_THE_TREE = {  # options of a model that are set by other keys
    "name": "model.name",
    "in_channels": "data.channels",
    "num_classes": "data.structures",
    "rank": "data.rank",
    "seed": "seed",
}
OVERLAPPING = ("infer.overlap", "infer.blend", "infer.positions", "infer.windows")  # keys that several windows need
WINDOWS = (*OVERLAPPING, "infer.sums", "infer.accumulator", "infer.whole")  # keys of the sliding window
OPTIONS = ("model.options", "loss.options", "optim.options", "schedule.options")
BY_PATH = ("optim.name", "schedule.name")  # these also take "module:factory", which is imported when it is built
_SAME_SIZE = "data.rank=2 with data.fit='stretch' or 'centre'"


def _by_windows(c: dict[str, Any]) -> bool:
    """Whether the network is applied to one image at a time (sliding window or downsampled) instead of to batches of one size."""
    return c["data.fit"] == "patches" or c["data.rank"] == 3


# key: (whether it has an effect in a given tree, the condition for that in words)
PICTURES = ("brats_arrays", "kvasir", "lungs", "scoliosis")  # data sets without volumes
NEEDS: dict[str, tuple[Callable[[dict[str, Any]], bool], str]] = {
    "data.fold": (lambda c: c["data.split"] == "fold", "data.split='fold'"),
    "data.folds": (lambda c: c["data.split"] == "fold", "data.split='fold'"),
    "data.fractions": (lambda c: c["data.split"] in ("patient", "auto"), "data.split='patient'"),
    "data.split_seed": (lambda c: c["data.split"] in ("patient", "fold", "auto"), "data.split='patient' or 'fold'"),
    "data.sample_seed": (lambda c: c["data.sample"] is not None, "data.sample"),
    "data.plane": (
        lambda c: c["data.dataset"] not in (*PICTURES, "ct_ich"),
        "a data set of volumes other than ct_ich, whose tables list axial slices",
    ),
    **{key: (lambda c: c["data.fit"] == "patches", "data.fit='patches'") for key in PATCHES_ONLY},
    **{
        key: (lambda c: c["data.fit"] == "patches" and not c["infer.whole"], "data.fit='patches' with infer.whole=False")
        for key in OVERLAPPING
    },
    "data.positions": (
        lambda c: c["data.fit"] == "patches" and c["data.foreground"] < 1 and c["data.ignore"] != "leave_out",
        "data.fit='patches', data.foreground below 1 and no data.ignore='leave_out', which centres patches on annotated voxels",
    ),
    "data.filter": (
        lambda c: c["data.rank"] == 2 and c["data.fit"] != "patches" or bool(c["data.spacing"]),
        "data.spacing, or data.rank=2 with data.fit='stretch' or 'centre'",
    ),
    "data.statistics": (
        lambda c: "ct_zscore" in c["data.intensity"] or "percentiles" in c["data.intensity"],
        "data.intensity='ct_zscore' or 'percentiles'",
    ),
    "data.previous_labels": (lambda c: bool(c["data.previous"]), "data.previous, the runs that make such labels at prediction"),
    "eval.batch_size": (lambda c: not _by_windows(c), _SAME_SIZE),
    "eval.tables": (lambda c: not _by_windows(c), _SAME_SIZE),
    "infer.batch_size": (lambda c: not _by_windows(c), f"{_SAME_SIZE} (use infer.windows for patches and volumes)"),
    "infer.windows": (
        lambda c: c["data.fit"] == "patches" and not c["infer.whole"],
        "data.fit='patches' with infer.whole=False (use infer.batch_size for images of one size; whole volumes are segmented one "
        "by one)",
    ),
    **dict.fromkeys(
        ("infer.max_instances", "infer.min_size", "infer.merge"),
        (lambda c: bool(c["infer.roi"]), "infer.roi, the run of the first network of a cascade"),
    ),
    "infer.mirror": (lambda c: not c["infer.roi"], "infer.roi='' (the cascade does not use mirroring)"),
    "schedule.warmup_ratio": (lambda c: c["schedule.warmup"] > 0, "schedule.warmup above 0"),
    **dict.fromkeys(
        ("search.low", "search.high"), (lambda c: not c["search.space"], "search.space=(), which searches class weights")
    ),
}
UNUSED_IN_FILES = (
    "data.fractions",
    "data.split_seed",
    "data.per_volume",
    "data.foreground",
    "data.positions",
    "schedule.warmup_ratio",
    *WINDOWS,
)
_OTHERS = {
    key: (lambda c: False, f"--mode={mode}")
    for mode in ("compare", "explain", "plan", "report", "search")
    for key in NEUTRAL
    if key.startswith(f"{mode}.")
}
PREDICTED = ("infer.probabilities", "infer.overlay", "infer.statistics", "infer.uncertainty")  # what predict writes
_OF_PREDICTION = {key: (lambda c: False, "--mode=predict") for key in PREDICTED}
_OF_EVALUATION = {
    key: (lambda c: False, "--mode=evaluate") for key in NEUTRAL if key.startswith("eval.") and key != "eval.threshold"
}
READ_BY_THE_PLANNER = (  # keys that define the cases and the meaning of their masks; all others are chosen by the plan
    "data.dataset",
    "data.root",
    "data.structures",
    "data.mask_values",
    "data.missing_masks",
    "data.suffixes",
    "data.patient",
    "data.ignore",
    "data.modalities",
    "data.regions",
    "data.release",
    "data.readers",
    "plan.memory_gb",
    "plan.minutes",
    "plan.rules",
)
_OTHERS_BUT_NAMES = {key: needs for key, needs in _OTHERS.items() if key != "report.names"}  # names are written by evaluations
_BY_WINDOWS = dict.fromkeys(
    WINDOWS, (lambda c: not c["infer.roi"], "infer.roi='' (the cascade uses one crop, no sliding window)")
)
# mode: {key: (whether it has an effect in that mode, the condition in words)}, for keys given on the command line
NEEDS_OF_MODES: dict[str, dict[str, tuple[Callable[[dict[str, Any]], bool], str]]] = {
    **dict.fromkeys(("summary", "check"), _OTHERS),
    "train": _OTHERS_BUT_NAMES,
    "compare": {
        **{key: needs for key, needs in _OTHERS.items() if not key.startswith(("compare.", "report."))},
        "report.before": (lambda c: False, "--mode=report"),
    },
    "search": {key: needs for key, needs in _OTHERS_BUT_NAMES.items() if not key.startswith("search.")},
    "report": {
        **{key: (lambda c: False, "--mode=train") for key in KINDS if not key.startswith("report.")},
        **{key: (lambda c: False, "--mode=evaluate") for key in KINDS if key.startswith(("eval.", "infer."))},
        **_OF_PREDICTION,
        **{key: needs for key, needs in _OTHERS.items() if not key.startswith("report.")},
    },
    "plan": {
        **{key: (lambda c: False, "--mode=train") for key in KINDS if key not in READ_BY_THE_PLANNER},
        **{key: needs for key, needs in _OTHERS.items() if not key.startswith("plan.")},
    },
    "evaluate": {**_OTHERS_BUT_NAMES, **_OF_PREDICTION},
    "export": {
        **_OTHERS,
        **_OF_PREDICTION,
        **_OF_EVALUATION,
        **_BY_WINDOWS,
        "infer.accumulator": (lambda c: False, "--mode=predict"),
        "mesh.space": (lambda c: False, "--mode=predict"),
        "mesh.shard_state": (lambda c: False, "--mode=train"),
    },
    "explain": {
        **{
            key: needs for key, needs in _OTHERS_BUT_NAMES.items() if not key.startswith("explain.") and key != "report.megabytes"
        },
        **_OF_EVALUATION,
        **_OF_PREDICTION,
        **{
            key: (lambda c: False, "--mode=predict")
            for key in ("infer.roi", "infer.ensemble", "infer.mirror", "infer.postprocess", "infer.whole")
        },
    },
    "predict": {
        **_OTHERS_BUT_NAMES,
        "report.names": (lambda c: c["infer.statistics"], "infer.statistics, whose table it is about"),
        **_OF_EVALUATION,
        **_BY_WINDOWS,
    },
}
OWN_DATA = ("auto", "decathlon", "nnunet_raw", "folder", "table")  # values of data.dataset for a user's own data
FROM_DATA = {"data.dataset": "auto", "data.channels": None, "data.intensity": "auto", "data.split": "auto"}  # for own data only
LARGEST = float(np.finfo(np.float32).max)
MAX_VOXELS = 2**28  # of the network's input (a slice or a patch)
NOT_NEGATIVE = (
    "data.max_samples",
    "data.workers",
    "data.prepare_workers",
    "mesh.join",
    "optim.weight_decay",
    "optim.clip_norm",
    "schedule.warmup",
    "train.bn_warmup",
    "train.alarm_after",
    "train.stop_nonfinite",
    "train.watchdog",
    "mesh.data",
    "eval.keep",
    "infer.min_size",
    "plan.minutes",
)
