"""jaxseg from Python: a trained run as an object, and scores of two masks.

run = jaxseg.load("runs/ich_segnext")
found = run.predict("scan.nii.gz")          # or an array, or a nibabel image
found.labels, found.save("labels.nii.gz")
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np

from jaxseg import checkpoint, recorded
from jaxseg.data.formats import nifti, volumes
from jaxseg.data.records import Photo, Volume
from jaxseg.infer import cases
from jaxseg.infer import postprocess as steps
from jaxseg.infer.run import Run, open_run
from jaxseg.metrics import counts
from jaxseg.types import ConfigError, DataError
from jaxseg.utils import code
from jaxseg.utils.lookup import check_kind, lookup

MEMORY = Path("the image in memory")  # stands for its file in messages
Image = str | Path | np.ndarray | nibabel.spatialimages.SpatialImage | Volume


class Prediction(NamedTuple):
    """What a run found in an image.

    Attributes:
      labels: integers in the image's own axis order, [H, W] or [X, Y, Z]; 0 is background, the others are `values`.
      names: of the classes.
      values: the value of each class in `labels`.
      probabilities: float32, as `labels` with a last axis for `maps`; None unless they were asked for.
      maps: what each probability map is of: the classes, or the regions that the run learnt.
      structures: name -> boolean mask, of structures that may overlap, whose combinations `labels` numbers; empty elsewhere.
      image: the image that it is for, whose geometry `save` and `to_nibabel` write.
    """

    labels: np.ndarray
    names: tuple[str, ...]
    values: tuple[int, ...]
    probabilities: np.ndarray | None
    maps: tuple[str, ...]
    structures: dict[str, np.ndarray]
    image: Volume

    def save(self, path: str | Path, *, probabilities: bool = False) -> None:
        """Write the labels, or the probabilities, with the image's geometry: .nii or .nii.gz, of a picture's labels also .png.

        Raises:
          ConfigError: a suffix that does not fit, or probabilities that were not asked for. StorageError.
        """
        volumes.write_like(path, self._chosen(probabilities), self.image)

    def to_nibabel(self, *, probabilities: bool = False) -> nibabel.Nifti1Image:
        """The labels, or the probabilities, as an image in memory.

        Raises:
          ConfigError: the image was a picture, which has no place in space, or probabilities that were not asked for.
        """
        if volumes.is_photo(self.image):
            raise ConfigError("a picture has no place in space, so its result is no NIfTI image; take .labels, or .save it")
        image = nibabel.Nifti1Image(self._chosen(probabilities), self.image.affine)
        image.header.set_xyzt_units("mm")
        return image

    def _chosen(self, probabilities: bool) -> np.ndarray:
        if not probabilities:
            return self.labels
        if self.probabilities is None:
            raise ConfigError("no probabilities here: ask for them, predict(image, probabilities=True)")
        return self.probabilities


class Trained:
    """A trained run, ready to segment; made by `load`.

    Attributes:
      record: what run.json says: configuration, preparation, labels, network.
      names: of the classes.
      modalities: names of the images that a case consists of, in the order in which `predict` takes them; () for one.
    """

    def __init__(self, run: Run, chosen_steps: Sequence):
        self._run, self._steps = run, list(chosen_steps)
        self.record = run.record
        self.names = tuple(run.record["labels"])
        self.modalities = tuple(run.recipe.modalities)

    def predict(
        self,
        image: Image | Sequence[Image],
        *,
        spacing: Sequence[float] | None = None,
        affine: np.ndarray | None = None,
        probabilities: bool = False,
    ) -> Prediction:
        """Segment one case, as `jaxseg predict` does.

        Args:
          image: a file or DICOM folder; a nibabel image; an array, [H, W] or [H, W, 3] of a picture or [X, Y, Z] of a scan
            in the order and values that its file would have (HU for CT); or what `jaxseg.read_volume` gives. Runs of several
            modalities take a sequence of these, in the order of `modalities`.
          spacing: of an array of a scan: mm between voxels along its three axes, which then run to the patient's right, to
            the front and to the head (RAS+).
          affine: of an array of a scan, in place of spacing: 4 x 4, from voxel indices to mm in RAS+.
          probabilities: return probability maps too.
        Raises:
          DataError: an image that this run cannot take.
          ConfigError: a scan without spacing, or spacing beside an image that has its own.
        """
        several = isinstance(image, Sequence) and not isinstance(image, (str, bytes))
        images = [as_volume(one, spacing=spacing, affine=affine) for one in (image if several else [image])]
        wanted = max(1, len(self.modalities))
        if len(images) != wanted:
            what = f"{wanted} images ({', '.join(self.modalities)})" if self.modalities else "one image"
            raise DataError(f"got {len(images)} images; this run takes {what}, in this order", "DATA_CHANNELS")
        found = self._run.segment(images)
        orientation, values = found.examples.orientation, cases.values_of(self.record)
        labels = orientation.restore(values[steps.apply(found.labels, self._steps, orientation.spacing)])
        maps = None
        if probabilities:
            soft = self._run.probabilities(found)
            maps = np.stack([orientation.restore(soft[..., k]) for k in range(soft.shape[-1])], -1)
        return Prediction(
            np.ascontiguousarray(labels),
            self.names,
            tuple(int(v) for v in values[1:]),
            maps,
            tuple(cases.map_names(self.record)),
            {name: np.isin(labels, classes) for name, classes in cases.structures_of(self.record)},
            images[0],
        )


def load(run: str | Path, *, threshold: float | None = None, **settings: Any) -> Trained:
    """Open a trained run.

    Args:
      run: a run folder, or a checkpoint folder in one.
      threshold: of one class's, or each region's, probability; None: the run's.
      **settings: keys of the config's infer group, in place of the run's: mirror=(0, 1), ensemble=("runs/b",), overlap=0.5,
        postprocess=True.
    Raises:
      CheckpointError: no run there, or a damaged one.
      ConfigError: a setting that does not exist.
    """
    run = Path(run)
    record = checkpoint.find_record(run)
    infer = recorded.tree_of(record).infer
    for key, value in settings.items():
        lookup("setting", key, dict(infer))
        check_kind(key, value, infer[key])
    with code.recorded_alone():
        code.check(record["code"], run)
        chosen = dict(infer) | settings
        opened = open_run(run, chosen, threshold=threshold)
    return Trained(opened, steps.read_steps(run) if chosen["postprocess"] else ())


def as_volume(image: Image, *, spacing: Sequence[float] | None = None, affine: np.ndarray | None = None) -> Volume:
    """An image as jaxseg passes it around, from any of the forms that `Trained.predict` takes.

    Raises:
      DataError: a file or an array that cannot be used.
      ConfigError: a scan without spacing, or spacing beside an image that has its own.
    """
    if not isinstance(image, np.ndarray):
        if spacing is not None or affine is not None:
            raise ConfigError("spacing and affine are of arrays; this image has its own: leave them out")
        if isinstance(image, Volume):
            return image
        if isinstance(image, nibabel.spatialimages.SpatialImage):
            array = np.asarray(image.dataobj)
            _check_array(array, (3, 4))
            return Volume(array, np.asarray(image.affine, np.float64), nifti.header_for(image.affine, array.shape), MEMORY)
        return volumes.read_volume(image)
    if spacing is None and affine is None:
        if image.ndim == 2 or image.ndim == 3 and image.shape[-1] == 3 and image.dtype == np.uint8:
            _check_array(image, (2, 3))
            return Volume(image, np.eye(4), Photo("PNG"), MEMORY)
        raise ConfigError(
            f"got an array of shape {image.shape} and {image.dtype}: a scan needs spacing=(x, y, z) in mm, or an affine; "
            "a picture is [H, W], or uint8 [H, W, 3]"
        )
    if spacing is not None and affine is not None:
        raise ConfigError("give spacing or affine, not both")
    _check_array(image, (3,))
    if affine is None:
        if len(spacing) != 3 or not all(np.isfinite(s) and s > 0 for s in spacing):
            raise ConfigError(f"spacing={tuple(spacing)}: must be three distances in mm, each above 0")
        affine = np.diag([*map(float, spacing), 1.0])
    affine = np.asarray(affine, np.float64)
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine)) < 1e-12:
        raise ConfigError("affine: must be 4 x 4, finite and invertible: from voxel indices to mm in RAS+")
    return Volume(image, affine, nifti.header_for(affine, image.shape), MEMORY)


def dice(prediction: np.ndarray, truth: np.ndarray, *, empty: str = "one") -> float:
    """Dice of two masks of one object, boolean or 0 and 1, of equal shape.

    Args:
      empty: of two empty masks: "one", "zero" or "nan".
    Raises:
      ValueError: shapes that differ, or values other than 0 and 1.
    """
    masks = [np.asarray(mask) for mask in (prediction, truth)]
    if masks[0].shape != masks[1].shape:
        raise ValueError(f"got masks of shapes {masks[0].shape} and {masks[1].shape}; they must be equal")
    for mask in masks:
        if mask.size and not ((mask == 0) | (mask == 1)).all():
            raise ValueError("a mask holds 0 and 1 alone; of a label map, take labels == k")
    a, b = (mask.astype(bool)[None] for mask in masks)
    return float(counts.dice(counts.count(a.astype(np.int32), b.astype(np.int32), 1), empty)[0, 0])


def _check_array(array: np.ndarray, ranks: tuple[int, ...]) -> None:
    if array.ndim not in ranks or not array.size:
        raise DataError(
            f"got an image of shape {array.shape}; must have {' or '.join(map(str, ranks))} axes, none of them empty",
            "DATA_IMAGE",
        )
    if array.dtype.kind not in "biuf":
        raise DataError(f"got an image of {array.dtype}; must hold real numbers", "DATA_IMAGE")
    nifti.check_finite(array, MEMORY)
