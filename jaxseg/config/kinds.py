"""The type of every key of a config tree, to check trees that are read from a file (a run's record).

The tree is `configs/_base.py`; a test keeps this table in step with it.
"""

from typing import Any

_OF: dict[Any, str] = {
    str: "name variant data.bad_cases data.dataset data.extra_run data.filter data.fit data.intensity data.orientation "
    "data.previous_labels "
    "data.positions data.root data.split data.split_file data.target model.name model.init optim.name schedule.name train.best "
    "train.dtype eval.empty eval.lesions eval.split infer.accumulator infer.blend infer.positions infer.roi "
    "infer.uncertainty search.objective data.store_engine data.store_dtype data.store_address "
    "data.plane report.before report.names explain.layer explain.region "
    "plan.rules "
    "infer.merge infer.sums",
    int: "seed data.channels data.fold data.folds data.max_samples data.per_volume data.rank data.split_seed data.workers "
    "data.prepare_workers mesh.heartbeat mesh.join "
    "optim.accumulate schedule.warmup train.alarm_after train.batch_size train.bn_warmup train.epochs train.eval_every "
    "train.keep train.log_every train.save_every train.stop_nonfinite eval.batch_size infer.batch_size infer.windows "
    "search.trials mesh.data mesh.space compare.folds eval.keep infer.max_instances infer.min_size",
    float: "data.bad_share data.blur data.foreground optim.clip_norm optim.ema optim.lr optim.weight_decay "
    "schedule.warmup_ratio eval.threshold infer.overlap report.megabytes search.high search.low",
    bool: "data.coordinates data.nonzero data.whole model.softmax mesh.shard_state eval.postprocess eval.surface infer.overlay "
    "infer.postprocess infer.probabilities infer.statistics infer.whole compare.measure report.pictures "
    "search.prune",
    tuple[float, ...]: "data.crop data.fractions data.mean data.size data.spacing data.std data.window loss.aux_weights "
    "eval.thresholds infer.mirror",
    tuple[str | tuple[str, tuple[int | str, ...]], ...]: "data.regions",
    tuple[str, ...]: "data.extra data.previous eval.metrics eval.tables infer.ensemble compare.models train.remat",
    tuple[int, ...]: "data.axes compare.fold compare.seeds",
    tuple[tuple[str, tuple[tuple[str, Any], ...]], ...]: "compare.vary compare.published",
    tuple[tuple[float, ...], ...]: "data.statistics",
    tuple[str | float, ...]: "data.above",
    tuple[tuple[Any, ...], ...]: "search.space",
    tuple[tuple[str, float], ...]: "loss.aux_terms loss.learnable loss.terms",
    tuple[tuple[str, dict[str, Any]], ...]: "optim.groups data.transforms",
    tuple[tuple[str, str], ...]: "data.readers",
    tuple[tuple[str, float, dict[str, Any]], ...]: "train.augment",
    dict[str, Any]: "model.options loss.options optim.options schedule.options",
    str | None: "data.ignore data.missing_masks data.naming data.normalise data.patient data.phantom data.protocol data.release",
    int | None: "data.min_area data.sample_seed train.watchdog",
    float | None: "data.sample plan.memory_gb plan.minutes",
    tuple[str, ...] | None: "data.modalities data.structures data.suffixes",
    tuple[tuple[int | str, int], ...] | None: "data.mask_values",
}
KINDS: dict[str, Any] = {key: kind for kind, keys in _OF.items() for key in keys.split()}
