"""The Python interface: a trained run as an object that segments images, and the Dice of two masks.

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
    """The segmentation of one image by a trained run.

    Attributes:
      labels: integers in the image's own axis order, [H, W] or [X, Y, Z]; 0 is background, the others are listed in `values`.
      names: names of the classes.
      values: the value of each class in `labels`.
      probabilities: float32, the shape of `labels` plus a last axis with one map for each entry of `maps`; None unless
        `predict` was called with `probabilities=True`.
      maps: names of the probability maps: the classes, or the regions that the run was trained on.
      structures: for runs whose structures may overlap: name -> boolean mask (`labels` numbers their combinations); else empty.
      image: the image that was segmented; `save` and `to_nibabel` write its geometry.
    """

    labels: np.ndarray
    names: tuple[str, ...]
    values: tuple[int, ...]
    probabilities: np.ndarray | None
    maps: tuple[str, ...]
    structures: dict[str, np.ndarray]
    image: Volume

    def save(self, path: str | Path, *, probabilities: bool = False) -> None:
        """Write the labels, or the probabilities, with the image's geometry.

        Args:
          path: a .nii or .nii.gz file; for the labels of a 2-D picture also a .png file.
          probabilities: write the probability maps instead of the labels.
        Raises:
          ConfigError: the suffix does not fit, or `predict` was called without `probabilities=True`.
          StorageError: the file cannot be written.
        """
        volumes.write_like(path, self._chosen(probabilities), self.image)

    def to_nibabel(self, *, probabilities: bool = False) -> nibabel.Nifti1Image:
        """Return the labels, or the probabilities, as a nibabel image.

        Raises:
          ConfigError: the image was a 2-D picture, which has no affine, or `predict` was called without `probabilities=True`.
        """
        if volumes.is_photo(self.image):
            raise ConfigError(
                "a 2-D picture has no affine, so its result cannot become a NIfTI image; use .labels, or .save('labels.png')"
            )
        image = nibabel.Nifti1Image(self._chosen(probabilities), self.image.affine)
        image.header.set_xyzt_units("mm")
        return image

    def _chosen(self, probabilities: bool) -> np.ndarray:
        if not probabilities:
            return self.labels
        if self.probabilities is None:
            raise ConfigError("no probabilities were computed: call predict(image, probabilities=True)")
        return self.probabilities


class Trained:
    """A trained run that can segment images; `load` creates it.

    Attributes:
      record: the content of run.json: configuration, preparation, labels, network.
      names: names of the classes.
      modalities: names of the images of one case, in the order in which `predict` takes them; () if a case is one image.
    """

    def __init__(self, run: Run, chosen_steps: Sequence):
        self._run, self._steps = run, list(chosen_steps)
        self.record = run.record
        self.names = tuple(run.record["labels"])
        self.modalities = tuple(run.recipe.modalities)

    def __repr__(self) -> str:
        images = f"{len(self.modalities)} images ({', '.join(self.modalities)})" if self.modalities else "one image"
        return f"<jaxseg.Trained {self.record['config']['model']['name']}: {images} to {', '.join(self.names)}>"

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
          image: one of: the path of a file or a DICOM folder; a nibabel image; a 2-D picture as an array [H, W] or [H, W, 3];
            a scan as an array [X, Y, Z] with the axis order and values that its file would have (HU for CT); or the result of
            `jaxseg.read_volume`. For a run with several modalities: a sequence of these, in the order of `modalities`.
          spacing: for a scan given as an array: the distance between voxels along each of its three axes, in mm. The axes
            are then taken to run to the patient's right, to the front and to the head (RAS+).
          affine: for a scan given as an array, instead of spacing: 4 x 4, from voxel indices to mm in RAS+.
          probabilities: return probability maps too.
        Returns:
          The labels on the image's own grid, with names and values of the classes.
        Raises:
          DataError: this run cannot use the image.
          ConfigError: a scan as an array without spacing and affine, or either of them beside an image that has its own.
        """
        several = isinstance(image, Sequence) and not isinstance(image, (str, bytes))
        images = [as_volume(one, spacing=spacing, affine=affine) for one in (image if several else [image])]
        wanted = max(1, len(self.modalities))
        if len(images) != wanted:
            what = f"{wanted} images in the order {', '.join(self.modalities)}" if self.modalities else "one image"
            raise DataError(f"got {len(images)} images; this run takes {what}", "DATA_CHANNELS")
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
      threshold: for runs with one class or with regions: the probability (0-1) above which a voxel belongs to the class or
        region; None: the run's own value.
      **settings: keys of the config's infer group that replace the run's own values, for example mirror=(0, 1),
        ensemble=("runs/b",), overlap=0.5, postprocess=True.
    Returns:
      An object whose `predict` segments images.
    Raises:
      CheckpointError: the folder holds no run, or the run is damaged.
      ConfigError: there is no setting of this name.
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
    """Convert an image, in any of the forms that `Trained.predict` takes, to a `Volume`.

    Args:
      image: a file or DICOM folder, an array, a nibabel image or a `Volume`.
      spacing: for a scan given as an array: mm between voxels along its three axes, which run in RAS+ directions.
      affine: for a scan given as an array, instead of spacing: 4 x 4, from voxel indices to mm in RAS+.
    Raises:
      DataError: the file or the array cannot be used.
      ConfigError: a scan as an array without spacing and affine, or either of them beside an image that has its own.
    """
    if not isinstance(image, np.ndarray):
        if spacing is not None or affine is not None:
            raise ConfigError("spacing and affine are for arrays; this image has its own geometry: leave them out")
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
            f"got an array of shape {image.shape} and {image.dtype}: for a scan, give spacing=(x, y, z) in mm or "
            "affine=; a picture must be [H, W], or uint8 [H, W, 3]"
        )
    if spacing is not None and affine is not None:
        raise ConfigError("give spacing or affine, not both")
    _check_array(image, (3,))
    if affine is None:
        if len(spacing) != 3 or not all(np.isfinite(s) and s > 0 for s in spacing):
            raise ConfigError(f"spacing={tuple(spacing)}: must be three finite distances in mm, each above 0")
        affine = np.diag([*map(float, spacing), 1.0])
    affine = np.asarray(affine, np.float64)
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine)) < 1e-12:
        raise ConfigError("affine: must be a finite, invertible 4 x 4 matrix, from voxel indices to mm in RAS+")
    return Volume(image, affine, nifti.header_for(affine, image.shape), MEMORY)


def dice(prediction: np.ndarray, truth: np.ndarray, *, empty: str = "one") -> float:
    """Dice coefficient of two binary masks, 2 |A and B| / (|A| + |B|).

    Args:
      prediction: boolean, or numbers 0 and 1, of any shape.
      truth: the reference mask, of the same shape.
      empty: the result where both masks are empty: "one", "zero" or "nan".
    Returns:
      The Dice, 0-1.
    Raises:
      ValueError: the shapes differ, or a mask holds values other than 0 and 1.
    """
    masks = [np.asarray(mask) for mask in (prediction, truth)]
    if masks[0].shape != masks[1].shape:
        raise ValueError(f"got masks of shapes {masks[0].shape} and {masks[1].shape}; both must have the same shape")
    for mask in masks:
        if mask.size and not ((mask == 0) | (mask == 1)).all():
            raise ValueError("a mask must hold 0 and 1 only; of label maps, compare one class: dice(a == 1, b == 1)")
    a, b = (mask.astype(bool)[None] for mask in masks)
    return float(counts.dice(counts.count(a.astype(np.int32), b.astype(np.int32), 1), empty)[0, 0])


def _check_array(array: np.ndarray, ranks: tuple[int, ...]) -> None:
    if array.ndim not in ranks or not array.size:
        raise DataError(
            f"got an image of shape {array.shape}; must have {' or '.join(map(str, ranks))} axes, each of length 1 or more",
            "DATA_IMAGE",
        )
    if array.dtype.kind not in "biuf":
        raise DataError(f"got an image of dtype {array.dtype}; must hold real numbers", "DATA_IMAGE")
    nifti.check_finite(array, MEMORY)
