"""Evaluation of a run on the cases' own grids, by the same code as prediction: read files, segment, compare with the masks.

The labels that `predict` would write for a case are scored here, slice by slice or as a volume.
"""

import dataclasses
import math
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from jaxseg.data import layout
from jaxseg.data.prepare import contrast
from jaxseg.data.prepare.labels import annotated
from jaxseg.data.prepare.mask_values import Meanings
from jaxseg.data.records import Case, DataSet
from jaxseg.data.store import base
from jaxseg.evaluate import scoring
from jaxseg.evaluate.kept import Keeper, Pictures
from jaxseg.evaluate.scoring import Example, MeanLoss, Rules, Scored, score
from jaxseg.infer import postprocess
from jaxseg.infer.run import Run
from jaxseg.metrics import regions as region_scores
from jaxseg.metrics.calibration import Histogram
from jaxseg.utils import turns

EMPTY = {"one": 1.0, "zero": 0.0, "nan": math.nan}  # Dice of an empty prediction of an empty mask, by eval.empty
SMALLEST = (10, 30, 100, 300)  # mm^3 of a component, so voxels in BraTS: sizes that post-processing tries
FEWEST = (50, 150, 500)  # voxels of the innermost region's class under which it becomes that of the region around it


class OwnGrid:
    """Evaluates a run on the labelled cases of a data set.

    Args:
      run: an opened run.
      dataset: the data set whose files and masks are read.
      kept: case -> the slices to score, as indices along the file's axis; None: those that the data set's protocol keeps
        (volumes are scored whole).
    """

    def __init__(self, run: Run, dataset: DataSet, kept: Mapping[str, Collection[int]] | None = None):
        self.run, self.dataset, self._kept = run, dataset, kept
        self._layout = layout.of(run.recipe, normalised=dataset.normalised)
        self._slices = self._layout.stacked
        self.run = dataclasses.replace(run, preparation=dataclasses.replace(run.preparation, layout=self._layout))
        self._by_id = {case.id: case for case in dataset.cases}
        self.meanings = Meanings()  # what the values of the masks were taken for
        self.doubts: dict[str, str] = {}  # case -> why its figures mean nothing

    def score(
        self,
        cases: Sequence[str],
        rules: Rules,
        *,
        steps: Sequence = (),
        loss: MeanLoss | None = None,
        keeper: Keeper | None = None,
        calibration: Histogram | None = None,
    ) -> Scored:
        """Score cases.

        Args:
          cases: their ids.
          rules: classes, regions and scores to compute.
          steps: post-processing steps, applied to each whole case.
          loss: receives the logits of examples whose own grid equals the network's grid.
          keeper: receives every prediction.
          calibration: receives the probabilities of `probable(rules)`, from before any post-processing.
        """
        groups = dict(self.probable(rules))

        def count(found, position, truth) -> None:
            if calibration is not None:
                there = annotated(truth, len(rules.classes))
                for k, (probabilities, members) in enumerate(zip(self.run.probability_maps(found, position), groups.values())):
                    calibration.add(k, probabilities[there], np.isin(truth[there], members), empty=EMPTY[rules.policy.empty])

        def examine(name: str) -> Iterator[Example]:
            case = self._by_id[name]
            images, truth, orientation = self._read(case)
            chosen = self._chosen(case, truth, orientation) if self._slices else None
            found = self.run.segment(images, None if steps else chosen)
            if doubt := contrast.emptied([image.array for image in images], found.examples.inputs, self.run.recipe):
                self.doubts[case.id] = doubt
            about, spacing = {"case": case.id, "patient": case.patient}, orientation.spacing
            labels = postprocess.apply(found.labels, steps, spacing)
            loss_of = loss if found.examples.place.keeps_grid else None
            if not self._slices:
                if loss_of is not None:
                    loss_of.add(found.logits, truth[None])
                count(found, None, truth)
                yield Example(about, labels, truth, spacing)
            for position, z in enumerate(chosen or ()):
                here, position = {**about, "slice": orientation.file_index(z)}, z if steps else position
                count(found, position, truth[z])
                if loss_of is not None:
                    loss_of.add(found.logits[position][None], truth[z][None])
                yield Example(here, labels[position], truth[z], spacing[1:])

        scored = score(cases, examine, rules, watch=None if keeper is None else keeper.add)
        return scored if loss is None else scored._replace(loss=loss.mean())

    def probable(self, rules: Rules) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Return ((name, classes), ...) of the network's probability maps: its regions, or the classes."""
        return tuple(rules.regions) if self.run.order else tuple((name, (k,)) for k, name in enumerate(rules.classes, 1))

    def pictures(self) -> Pictures:
        """Return the reader of the cases' images."""

        def read(case: str):
            images, _, orientation = self._read(self._by_id[case], Meanings())
            return images, orientation

        return Pictures(read, self.run.recipe, slices=self._slices)

    def choose_steps(self, cases: Sequence[str], rules: Rules) -> list:
        """Choose the post-processing that raises the mean Dice of whole (validation) cases, see `postprocess.choose`."""
        share, found = scoring.share(), []
        for round_ in range(0, len(cases), share.count):
            turns.turn()
            found += [self._labelled(self._by_id[name]) for name in cases[round_ : round_ + share.count][share.index :][:1]]
        resampled = self._slices or self.run.recipe.spacing is not None
        nested = () if resampled else region_scores.nested_order(rules.regions)[::-1][:2]
        return postprocess.choose(
            [labels for labels, _, _ in found],
            [truth for _, truth, _ in found],
            num_classes=len(rules.classes) + 1,
            regions=dict(rules.regions) or None,
            min_mm3=SMALLEST,
            spacings=[spacing for _, _, spacing in found],
            empty=rules.policy.empty,
            everyone=share.in_order,
            relabel=[(*nested, few) for few in FEWEST] if len(nested) == 2 else (),
        )

    def _labelled(self, case: Case) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
        images, truth, orientation = self._read(case)
        return self.run.segment(images).labels, truth, orientation.spacing

    def _read(self, case: Case, meanings: Meanings | None = None):
        """Read a case: (images, truth on the case's own grid in the common order, orientation)."""
        images, mask = base.read_files(self.dataset, case, self.meanings if meanings is None else meanings)
        images, mask = [self._layout.part(image, case) for image in images], self._layout.part(mask, case)
        truth, orientation = self._layout.arrange(mask)
        if self.run.record["config"]["data"]["whole"]:
            truth = (truth > 0).astype(np.uint8)
        return images, np.ascontiguousarray(truth), orientation

    def _chosen(self, case: Case, truth: np.ndarray, orientation) -> list[int]:
        index = orientation.file_index
        if self._kept is not None:
            return [z for z in range(len(truth)) if index(z) in self._kept[case.id]]
        return [z for z in range(len(truth)) if self.dataset.keep_slice(case, index(z), truth[z])]
