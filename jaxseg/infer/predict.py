"""Segment files with a trained run: one loop for slices, photographs and volumes; needs only the run folder and the input.

<output>/<case>.nii.gz, .png           labels: class numbers, or the values that the run's data set states for its classes
<output>/<structure>/<case>...         instead of labels where structures overlap: one mask for each structure
<output>/probabilities/<case>...       one map for each class or region
<output>/overlays/<case>.png           slices with the labels in colour
<output>/uncertainty/<case>.nii.gz     entropy (bits) or variance; for regions one map each along the last axis
<output>/statistics/<case>.json        voxels, ml or mm2, and mean intensity of each structure; statistics.csv holds all cases
<output>/predictions.jsonl             one line for each finished case, with digests of its inputs; a rerun skips these cases
<output>/predictions.1.jsonl, ...      the same of further processes
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxseg.data.datasets import unread
from jaxseg.data.error_summary import ErrorSummary
from jaxseg.data.formats import photos, volumes
from jaxseg.data.formats.discover import has_suffix
from jaxseg.data.prepare import contrast
from jaxseg.infer import cases, postprocess
from jaxseg.infer.cases import Input
from jaxseg.infer.run import Run, open_run
from jaxseg.ops.precision import compute_dtype, describe
from jaxseg.types import ConfigError, DataError, JaxsegError, MismatchError, StorageError
from jaxseg.utils import files
from jaxseg.utils.command import check_interrupt
from jaxseg.utils.output import event, working_through
from jaxseg.utils.turns import ALONE, CaseShare

SHOWN = 12  # classes in the line of a case
SPEED = ("batch_size", "windows", "accumulator")  # settings that decide no voxel


def predict(
    run: Path,
    origin: Path,
    output: Path,
    *,
    settings: Mapping[str, Any],
    threshold: float | None = None,
    space: int = 1,
    say: Callable[[str], None] = print,
    conclude: Callable[[str], None] | None = None,
    share: CaseShare = ALONE,
    show: Callable[[str], str] = str,
) -> int:
    """Segment every case below `origin` into `output`.

    With several processes each segments its share of the cases, and process 0 prints the summary. The result of a scan is
    <case>.nii.gz with the shape, affine and header codes of the case's first file; that of a photograph is <case>.png. With
    several modalities, the files of a case are identified as in training. Cases that cannot be used are reported and skipped.

    Args:
      run: run folder, or a checkpoint folder inside one.
      origin: a file or folder; for several modalities a folder in the layout of the run's data set.
      output: folder for the results, created if it does not exist.
      settings: the config's infer group.
      threshold: config.eval.threshold; None: the value in the run's record.
      space: config.mesh.space, devices that compute each image together.
      say: called with one line of text for each case.
      conclude: called with the last lines, about all cases; None: `say`.
      share: the part of the cases that this process takes.
      show: converts names of cases for statistics.csv.
    Returns:
      0, or 65 if some cases could not be used, by any process.
    Raises:
      DataError: `origin` holds no input.
      ConfigError: `output` lies among the inputs, or holds other files that results would overwrite.
      MismatchError: processes do not find the same cases.
      StorageError: `output` cannot be written.
    """
    share.together(lambda: None if share.index else cases.open_output(output))
    opened = open_run(run, settings, threshold=threshold, space=space, keep=True)
    _check_measures(opened, settings)
    steps = postprocess.read_steps(run) if settings["postprocess"] else []
    found = cases.find_cases(origin, opened.recipe, opened.record)
    share.together(lambda: cases.check_apart(found, output, origin))
    if len(set(share.gather([files.digest(*(case.name for case in found))]))) > 1:
        raise MismatchError(f"--input={origin}: not all processes find the same cases there; give a folder that they share")
    done = output / (f"{Path(cases.DONE).stem}.{share.index}.jsonl" if share.index else cases.DONE)
    _append(done, "")  # marks the folder as one of results
    note = (lambda text: None) if share.index else say
    if opened.record["synthetic"]:
        note("note: these weights were trained on SYNTHETIC data; their results on patients are meaningless")
    trained = opened.record["config"]["train"]["dtype"]
    if compute_dtype("auto") != compute_dtype(trained):
        note(f"note: {describe(compute_dtype('auto'))}; the run was trained in {trained}")
    pictures = [case for case in found if has_suffix(case.paths[0], photos.SUFFIXES)]
    if pictures and opened.recipe.window is not None:
        note(
            f"note: {len(pictures)} of {len(found)} inputs are pictures; as in training, the window (level, width) = "
            f"{tuple(opened.recipe.window)} is applied to their pixel values"
        )
    rules = {key: list(value) if isinstance(value, tuple) else value for key, value in dict(settings).items() if key not in SPEED}
    rules |= {"threshold": opened.threshold, "steps": steps, "network": opened.digest}
    if origin.is_dir() and (line := unread.beside({path for case in found for path in case.paths}, origin)):
        note(f"note: {line}")
    own = share.together(lambda: _all(opened, share.of(found), output, done, rules, settings, say))
    failed, skipped = (sum(column) for column in zip(*share.gather([own])))
    if not share.index:
        table = cases.gather_statistics(output, [case.name for case in found], show) if settings["statistics"] else None
        conclude = conclude or say
        if table is not None:
            conclude(f"volumes, areas and mean intensities in {table}")
        there = {"written": len(found) - failed - skipped, "there": skipped, "failed": failed}
        event("predicted", output=output, cases=len(found), **there)
        conclude(
            f"{there['written']} of {len(found)} written to {output}"
            + (f"; {skipped} were finished before and skipped" if skipped else "")
            + (f"; {failed} failed" if failed else "")
        )
    return DataError.exit_code if failed else 0


def _all(
    run: Run, found: Sequence[Input], output: Path, done: Path, rules: dict, settings: Mapping[str, Any], say: Callable
) -> tuple[int, int]:
    """Segment cases, with a line in `done` for each; returns how many failed, and how many were finished before."""
    finished, failed, skipped = _finished(output), ErrorSummary(), 0
    for case in working_through(found, "predicting"):
        begin = time.perf_counter()
        check_interrupt()
        try:
            key = files.digest(json.dumps(rules, sort_keys=True, default=list), *cases.digests(case))
            before = finished.get(case.name)
            if before and before["key"] == key and all((output / name).is_file() for name in before["files"]):
                skipped += 1
                event("case", case=case.name, status="there", files=before["files"])
                continue
            written = _one(run, case, output, settings, rules["steps"])
        except (ConfigError, StorageError):
            raise  # the next case would meet it too
        except Exception as error:  # of any kind: the other cases may still work
            event("case", case=case.name, status="failed", error=str(error))
            if failed.add(case.name, error):
                kind = "" if isinstance(error, JaxsegError) else f"{type(error).__name__}: "
                say(f"FAILED {case.name}: {kind}{' '.join(str(error).split())[:400]}")
        else:
            _append(done, json.dumps({"case": case.name, "key": key, "files": written.files}) + "\n")
            seconds, values = time.perf_counter() - begin, cases.values_of(run.record)[1:]
            event("case", case=case.name, status="written", files=written.files, voxels=written.counts, seconds=seconds)
            text = _sizes(written, values)
            text += f", probabilities of {', '.join(cases.map_names(run.record))}" if settings["probabilities"] else ""
            say(f"{case.name}: {text}, {seconds:.1f} s")
            if written.doubt:
                say(f"WARNING {case.name}: {written.doubt}")
    for line in failed.rest():
        say(f"FAILED {line}")
    return failed.count, skipped


class Written(NamedTuple):
    """Results of a case: files below the output folder, size of each class in `unit`, what makes them doubtful or ""."""

    files: list[str]
    counts: dict[str, int]
    unit: str
    doubt: str


def _sizes(written: Written, values: Sequence[int]) -> str:
    """The size of each class as text; of many classes those that were found, the largest first."""
    sizes = [(count, f"{name} ({value}) {count} {written.unit}") for (name, count), value in zip(written.counts.items(), values)]
    if len(sizes) <= SHOWN:
        return ", ".join(text for _, text in sizes)
    found = sorted((size for size in sizes if size[0]), key=lambda size: -size[0])
    listed = ": " + ", ".join(text for _, text in found[:SHOWN]) if found else ""
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return f"{len(found)} of {len(sizes)} classes found{listed}{more}"


def _one(run: Run, case: Input, output: Path, settings: Mapping[str, Any], steps: list) -> Written:
    """Segment one case and write its results below `output`."""
    images = case.read()
    found = run.segment(images)
    orientation, values = found.examples.orientation, cases.values_of(run.record)
    labels = postprocess.apply(found.labels, steps, orientation.spacing)
    structures = cases.structures_of(run.record)
    if structures:
        written = cases.write_structures(output, case.name, orientation.restore(labels), structures, images[0])
    else:
        written = [cases.write_labels(output, case.name, orientation.restore(values[labels]), images[0])]
    if settings["probabilities"]:
        names = cases.map_names(run.record)
        maps = run.probabilities(found)
        maps = np.stack([orientation.restore(maps[..., k]) for k in range(maps.shape[-1])], -1)
        written += cases.write_maps(output, case.name, maps, names, images[0])
    if settings["uncertainty"]:
        maps = run.uncertainty(found, settings["uncertainty"])
        maps = np.stack([orientation.restore(maps[..., k]) for k in range(maps.shape[-1])], -1)
        written.append(cases.write_uncertainty(output, case.name, maps, images[0]))
    if settings["statistics"]:
        written.append(cases.write_statistics(output, case.name, orientation.restore(values[labels]), images, run.record))
    if settings["overlay"]:
        written.append(cases.write_overlay(output, case.name, run.preparation.overlay(found.examples, labels)))
    voxels = np.bincount(labels.ravel(), minlength=len(values))
    doubt = contrast.emptied([image.array for image in images], found.examples.inputs, run.recipe)
    counts = {label: int(voxels[k]) for k, label in enumerate(run.recipe.labels, 1)}
    return Written(written, counts, "pixels" if volumes.is_photo(images[0]) else "voxels", doubt)


def _check_measures(run: Run, settings: Mapping[str, Any]) -> None:
    """Refuse statistics and uncertainty for runs that do not support them.

    Raises:
      ConfigError.
    """
    learnt = run.record["config"]["data"]["target"]
    for key in ("statistics", "uncertainty"):
        if settings[key] and learnt != "labels":
            raise ConfigError(f"config.infer.{key}: is for labels, but this run was trained to predict {learnt!r}; leave it out")
    if settings["uncertainty"] == "variance" and len(run.weights) < 2:
        raise ConfigError(
            "config.infer.uncertainty='variance': needs an ensemble, but this is a single run; give more runs, "
            "--config.infer.ensemble=RUN_B,RUN_C, or set it to 'entropy'"
        )


def _finished(output: Path) -> dict[str, dict]:
    """Read predictions.jsonl, of all processes: case -> its latest line; incomplete or unknown lines are left out."""
    found = {}
    for path in sorted(output.glob(f"{Path(cases.DONE).stem}*.jsonl"), key=lambda path: path.stat().st_mtime):
        for line in path.read_text().splitlines():
            try:
                entry = json.loads(line)
                found[entry["case"]] = {"key": entry["key"], "files": list(entry["files"])}
            except (ValueError, KeyError, TypeError):
                continue
    return found


def _append(path: Path, text: str) -> None:
    try:
        with open(path, "a") as file:
            file.write(text)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}; free space or choose another folder") from error
