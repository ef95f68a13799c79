"""Read channels, labels and regions from a dataset.json, in nnU-Net's form or that of the Medical Segmentation Decathlon.

    {"channel_names": {"0": "T1", "1": "FLAIR"}, "labels": {"background": 0, "rim": 1, "core": 2}, "file_ending": ".nii.gz"}
    {"labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1, 2], ...}       regions of labels
    {"labels": {"background": 0, "lungs": [1, 2], "tumour": 3}, "regions_class_order": [1, 3], ...}     1 and 2 are one class
    {"labels": {"background": 0, "lesion": 1, "ignore": 2}, ...}                                        voxels left out
    {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "spleen"}, ...}                        Decathlon, nnU-Net 1

Source: MIC-DKFZ/nnUNet, documentation/dataset_format.md, region_based_training.md and ignore_label.md.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxseg.data.formats import volumes
from jaxseg.data.formats.refusal import refusal
from jaxseg.types import LEFT_OUT, ConfigError
from jaxseg.utils import guard
from jaxseg.utils.lookup import lookup

VERSION = 1  # of the rules below: raise it when they would read a file otherwise, so that stores are built anew

FILE = "dataset.json"
LEAVE_OUT, BACKGROUND = "leave_out", "background"  # values of data.ignore
Regions = tuple[tuple[str, tuple[int, ...]], ...]


class Description(NamedTuple):
    """The content of a dataset.json.

    Attributes:
      path: path of the file.
      channels: names of the channels, in their order; equal names are made distinct by a number.
      labels: names of the classes 1, 2, ...
      values: the values of these classes in the masks.
      regions: the declared regions, ((name, classes), ...).
      ignored: the value of unlabelled voxels; None if there is none.
      merged: (value, value of its class) of labels that lie in the same regions as another, so that no region tells them apart.
      content: the whole content as read.
    """

    path: Path
    channels: tuple[str, ...]
    labels: tuple[str, ...]
    values: tuple[int, ...]
    regions: Regions
    ignored: int | None
    content: Mapping[str, Any]
    merged: tuple[tuple[int, int], ...] = ()

    def bad(self, found: str, rule: str, remedy: str = "repair the file"):
        """Return the error for a part of the file that cannot be used."""
        return refusal("DATA_TABLE", self.path, found, rule, remedy)

    def count_notes(self, training: int) -> tuple[str, ...]:
        """Return the log line for a numTraining that is not the number of training cases that are there; () if it is."""
        said = self.content.get("numTraining")
        if said is None or said == training:
            return ()
        return (
            f"{self.path} says numTraining {guard.shown(said)}, but {training} training cases are there: files may be missing",
        )

    def mask_rule(self, ignore: str | None) -> Callable[[np.ndarray], np.ndarray]:
        """`DataSet.map_mask` of masks in these values.

        Args:
          ignore: config.data.ignore: "leave_out" (or None) to leave unlabelled voxels out of losses and scores, "background" to
            count them as background.
        Raises:
          ConfigError: `ignore` has another value, there are no such voxels, or too many classes beside them.
        """
        if ignore not in (None, LEAVE_OUT, BACKGROUND):
            raise ConfigError(f"got data.ignore={ignore!r}; unlabelled voxels are left out ('leave_out') or are 'background'")
        if self.ignored is None and ignore is not None:
            raise ConfigError(f"data.ignore={ignore!r}: {self.path} declares no ignore label; leave it out")
        if not self.leaves_out(ignore):
            return self._merging(functools.partial(map_mask, self.values, self.ignored))
        if len(self.values) >= LEFT_OUT:
            raise ConfigError(
                f"{self.path}: {len(self.values)} classes and an ignore label; unlabelled voxels can be left out beside at most "
                f"{LEFT_OUT - 1} classes: give --config.data.ignore=background"
            )
        return self._merging(functools.partial(map_partly, self.values, self.ignored))

    def _merging(self, rule: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
        return functools.partial(map_merged, rule, self.merged) if self.merged else rule

    def leaves_out(self, ignore: str | None) -> bool:
        """Whether masks have unlabelled voxels that are left out: `DataSet.left_out`; `ignore` as for `mask_rule`."""
        return self.ignored is not None and ignore != BACKGROUND


def read(path: Path) -> Description:
    """Read and check a dataset.json.

    Raises:
      DataError: DATA_TABLE for content of another form, and as `guard.read_json`.
    """
    content = guard.read_json(path)
    draft = Description(path, (), (), (), (), None, content if isinstance(content, dict) else {})
    key = "channel_names" if "channel_names" in draft.content else "modality"
    listed, labels = draft.content.get(key), draft.content.get("labels")
    if not isinstance(listed, dict) or not isinstance(labels, dict) or not listed or not labels:
        raise draft.bad("no channels or no labels", 'must hold {"channel_names": {"0": "T1"}, "labels": {"background": 0, ...}}')
    channels = [listed.get(str(c)) for c in range(len(listed))]
    if not all(isinstance(name, str) and name for name in channels):
        raise draft.bad(f"{key} {guard.shown(listed)}", f"{key} gives the numbers 0 to {len(listed) - 1} a name each")
    channels = tuple(f"{n} {c}" if channels.count(n) > 1 else n for c, n in enumerate(channels))
    if all(word.isdigit() for word in labels) and all(isinstance(name, str) for name in labels.values()):
        labels = {name: int(word) for word, name in labels.items()}  # Decathlon's way round
        if len(labels) < len(draft.content["labels"]):
            raise draft.bad("a label name twice", "every label must have a different name")
    return _labelled(draft._replace(channels=channels), labels)


def _labelled(draft: Description, labels: dict[str, Any]) -> Description:
    """Return the description with the classes and regions of {name: value or values}."""
    members = {name: v if isinstance(v, list) else [v] for name, v in labels.items()}
    whole = lambda v: isinstance(v, int) and not isinstance(v, bool) and 0 <= v < 2**16
    for name, values in members.items():
        if not values or not all(map(whole, values)):
            raise draft.bad(
                f"label {name!r} = {guard.shown(labels[name])}", "a label is a whole number of 0..65535 or a list of them"
            )
    ignored = members.pop("ignore", None)
    members = {name: values for name, values in members.items() if values != [0]}
    used = sorted({v for values in members.values() for v in values} - {0})
    if not used or any(0 in values for values in members.values()) or ignored and (len(ignored) > 1 or ignored[0] in (0, *used)):
        raise draft.bad(f"labels {guard.shown(labels)}", "0 is the background, others are classes, 'ignore' a value of its own")
    alone = {values[0]: name for name, values in members.items() if len(values) == 1}
    if len(alone) < sum(len(values) == 1 for values in members.values()):
        raise draft.bad("one value under two names", "every label must have a different value")
    regions, merged = len(alone) < len(members), {}
    if regions:
        merged = _merged(draft, members, used)
        alone |= {to: next(name for name, values in reversed(members.items()) if to in values) for to in merged.values()}
    used = [v for v in used if v not in merged]
    number = {v: k for k, v in enumerate(used, 1)}
    return draft._replace(
        labels=tuple(alone.get(v, f"label {v}") for v in used),
        values=tuple(used),
        regions=tuple((n, tuple(number[v] for v in vs if v in number)) for n, vs in members.items()) if regions else (),
        ignored=ignored[0] if ignored else None,
        merged=tuple(merged.items()),
    )


def _merged(draft: Description, members: Mapping[str, Sequence[int]], used: Sequence[int]) -> dict[int, int]:
    """The labels that lie in the same regions as the label that is written for these regions: {label: written label}.

    Raises:
      DataError: DATA_TABLE, the other labels could not be restored from the regions.
    """
    order = draft.content.get("regions_class_order")
    if order is None:
        return {}
    if not isinstance(order, list) or len(order) != len(members):
        raise draft.bad(f"regions_class_order {guard.shown(order)}", f"must list a value for each of {', '.join(members)}")
    written = {v: order[i] for i, values in enumerate(members.values()) for v in values}  # later regions write last
    within = {v: [name for name, values in members.items() if v in values] for v in used}
    wrong = [v for v, w in written.items() if within[v] != within.get(w)]
    if wrong:
        raise draft.bad(
            f"regions_class_order {order} writes {written[wrong[0]]} where the label is {wrong[0]}",
            "larger regions come before those inside them, each with the value that it adds",
        )
    return {v: w for v, w in sorted(written.items()) if v != w}


def map_mask(values: tuple[int, ...], ignored: int | None, raw: np.ndarray) -> np.ndarray:
    """Values of the masks -> classes 1, 2, ... in the order of `values`; 0 and `ignored` are background.

    Raises:
      DataError: DATA_LABEL for other values.
    """
    extra = () if ignored is None else (ignored,)
    volumes.check_labels(raw, (0, *values, *extra), "mask")
    classes = np.zeros(max((*values, *extra)) + 1, np.uint8 if len(values) < 256 else np.uint16)
    classes[list(values)] = np.arange(1, len(values) + 1)
    return classes[raw.astype(np.int64)]


def map_partly(values: tuple[int, ...], ignored: int, raw: np.ndarray) -> np.ndarray:
    """As `map_mask`, but `ignored` becomes LEFT_OUT."""
    return np.where(raw == ignored, np.uint8(LEFT_OUT), map_mask(values, ignored, raw))


def map_merged(rule: Callable[[np.ndarray], np.ndarray], merged: Sequence[tuple[int, int]], raw: np.ndarray) -> np.ndarray:
    """As `rule`, one of the two above, where values in `merged` (value, value of its class) count as that of their class."""
    for value, to in merged:
        raw = np.where(raw == value, to, raw)
    return rule(raw)


def agreed(what: str, given: Sequence[str] | None, said: tuple[str, ...], source: Path) -> tuple[str, ...]:
    """Return `said`, unless a key of the config contradicts it.

    Raises:
      ConfigError.
    """
    if given is not None and tuple(given) != said:
        raise ConfigError(
            f"data.{what}={tuple(given)!r}: {source} says {', '.join(said)}; leave data.{what} out, or change the file"
        )
    return said


def chosen(wanted: Sequence[str] | None, channels: tuple[str, ...], source: Path) -> tuple[str, ...]:
    """Return the channels to use: those in data.modalities, or all of them.

    Raises:
      ConfigError: the names are not a list of distinct names, or `source` does not list one of them.
    """
    if wanted is None or tuple(wanted) == channels:
        return channels
    if isinstance(wanted, str) or not wanted or len(set(wanted)) < len(wanted):
        known = ", ".join(channels)
        raise ConfigError(f"got data.modalities={wanted!r}; must be a non-empty tuple of distinct names from {known}")
    for name in wanted:
        lookup(f"channel of {source}", name, dict.fromkeys(channels))
    return tuple(wanted)
