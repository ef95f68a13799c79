"""The records that the packages of `data/` exchange: volumes, cases, data sets, slices and the preprocessing recipe."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Meaning(NamedTuple):
    """The class that a value of a mask was mapped to, if this mapping had to be inferred (`prepare.masks`).

    Attributes:
      kind: how it was inferred: "values", "palette", "JPEG", "rounded", "data.mask_values".
      found: the value or colour, as text.
      label: the class.
      voxels: number of voxels with this value.
      name: name of the class if the data set does not list it, for a mask that is split into several structures.
    """

    kind: str
    found: str
    label: int
    voxels: int
    name: str = ""


@dataclasses.dataclass(frozen=True)
class Photo:
    """The `Volume.header` of a photograph or other 2-D picture: an image without an affine.

    Attributes:
      kind: "PNG", "JPEG", "TIFF", "BMP" or "GIF".
      palette: (red, green, blue, alpha) of each index, if the array holds indices of a palette.
      lossy: stored as JPEG, whose values are not exact.
      turn: the file's EXIF orientation, 1..8; 0 if it has none. The volume's array is upright; `stored_order` restores the order
        of the file's pixels.
    """

    kind: str
    palette: tuple[tuple[int, int, int, int], ...] = ()
    lossy: bool = False
    turn: int = 0

    @property
    def turned(self) -> bool:
        """Whether the picture is displayed rotated or mirrored relative to the file's pixels."""
        return self.turn > 1


@dataclasses.dataclass(frozen=True)
class Volume:
    """An image as it is stored on disk.

    Attributes:
      array: [X, Y, Z] (or [X, Y, Z, C], or [H, W] / [H, W, C] for photographs) in the file's own axis order, native
        byte order, scaled values (HU for CT).
      affine: 4x4 float64, voxel index -> millimetres in RAS+ (NIfTI's convention). Identity for photographs.
      header: used by `volumes.write_like` to write a file with the same geometry (opaque to all other code).
      path: the file or folder that it was read from.
      meaning: for a mask whose values are not simply class numbers: the class that each value was mapped to.
    """

    array: np.ndarray
    affine: np.ndarray
    header: Any
    path: Path
    meaning: tuple[Meaning, ...] = ()

    @property
    def spacing(self) -> tuple[float, ...]:
        """Distance in mm between voxels along the array's three axes; (1, 1) for a photograph, which has no unit of length."""
        if isinstance(self.header, Photo):
            return (1.0, 1.0)
        return tuple(float(step) for step in np.linalg.norm(np.asarray(self.affine, np.float64)[:3, :3], axis=0))


@dataclasses.dataclass(frozen=True)
class Case:
    """One examination of a patient: its files.

    Attributes:
      id: unique in its data set.
      patient: the patient; all cases of a patient are in the same split.
      images: one file (or DICOM folder) per channel.
      mask: the label file; None if there is none.
      meta: further facts from the data set (for instance {"bleed": {slice index, ...}, "types": [...]}), JSON-able.
      parts: further files that the data set's `read_mask` reads (one per structure); if they change, the store is rebuilt.
      slab: (first, end): the part of a volume that is this case, along the file's third axis; () for the whole volume. For
        slices, `DataSet.keep_slice` is used instead.
      stage: the segmentation of a previous stage (`Recipe.stage`): .npy with classes in the axes of the first image's file, or a
        label file like a mask; None if there is none.
    """

    id: str
    patient: str
    images: tuple[Path, ...]
    mask: Path | None
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    parts: tuple[Path, ...] = ()
    slab: tuple[int, ...] = ()
    stage: Path | None = None


@dataclasses.dataclass(frozen=True)
class DataSet:
    """The cases of a data set, its classes, and the functions that read its images and masks.

    Attributes:
      name: "ct_ich".
      root: its folder.
      cases: sorted by id.
      labels: names of the classes 1, 2, ... (background, 0, is not listed).
      map_mask: raw mask array -> integer classes 0..len(labels); raises a DataError (DATA_LABEL) for other values.
      combined: the classes are combinations of structures that may overlap; the structures are `regions`.
      values: the values of classes 1, 2, ... in the data set's own masks; predictions are written with them. () if they are the
        class numbers, or if a class has no single value (thresholded pictures); predictions are then class numbers.
      keep_slice: (case, slice index, mask slice or None) -> whether the slice is an example under the chosen protocol.
        The index counts along the file's own third axis.
      stratum: case -> name of its stratum, such as "bleed" or "none"; splits are balanced over the strata.
      synthetic: the data are generated, not measured.
      fixed_split: patient -> "train" | "val" | "test" if the data set prescribes a split, else None.
      held_out: patients that the data set reserves for testing; random splits use them as the test split.
      read_image: file -> Volume for formats that `volumes.read_volume` does not know; None: that function.
      read_mask: (case, its first image) -> Volume on the image's grid, for masks that are not a single image file (polygons,
        one file per structure); None: `volumes.read_volume` of the case's mask.
      modalities: names of the image channels, in their order; () if they have no names.
      regions: ((name, classes), ...), unions of classes that are scored besides the classes, such as ("WT", (1, 2, 3)).
      left_out: masks may hold `types.LEFT_OUT`: these voxels are not annotated, and count neither in losses nor in scores.
      normalised: the images are already z-scores; `Recipe.intensity` "brain" then leaves them unchanged.
      notes: lines to log whenever the data set is loaded.
      suffixes: what the names of a case's channels end in, in the channels' order; () where names say nothing about them.
    """

    name: str
    root: Path
    cases: tuple[Case, ...]
    labels: tuple[str, ...]
    map_mask: Callable[[np.ndarray], np.ndarray]
    keep_slice: Callable[[Case, int, np.ndarray | None], bool] = lambda case, index, mask: True
    stratum: Callable[[Case], str] = lambda case: ""
    synthetic: bool = False
    fixed_split: Mapping[str, str] | None = None
    held_out: frozenset[str] = frozenset()
    read_image: Callable[[Path], Volume] | None = None
    read_mask: Callable[[Case, Volume], Volume] | None = None
    modalities: tuple[str, ...] = ()
    regions: tuple[tuple[str, tuple[int, ...]], ...] = ()
    combined: bool = False
    values: tuple[int, ...] = ()
    left_out: bool = False
    normalised: bool = False
    notes: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How an image is prepared for the network; stored in the run's record, and used again by evaluation and prediction.

    Attributes:
      size: (H, W) of the network's input, pixels; (X, Y, Z) where the network takes volumes, voxels. A patch for "patches".
      window: (level, width) in HU mapped linearly to 0..255 and clipped; None keeps 8-bit images as they are.
      spacing: (row mm, column mm) of slices, (x, y, z) mm of volumes, to which they are resampled; None: as `fit` says.
      channels: input channels, those of `extra` included.
      labels: names of the classes 1, 2, ... that the network is trained on.
      intensity: "grey": uint8, through `window` or as it is. "brain": float32 z-scores of each modality over the voxels
        above 0 (`intensity.brain`). "ct": float32, `window` clipped and mapped linearly to -1..1. nnU-Net's rules are
        listed in prepare/intensity.py; several, joined by "+", are those of the channels in their order.
      modalities: names of the channels, in their order; () where they have none.
      mean, std: per channel, of images in 0..1: (image - mean) / std after augmentation; () for none.
      filter: how images are resized: "linear", "lanczos", "nnunet", "monai" or "monai_last" (prepare/resample.py).
      crop: (H, W) in pixels: crop this box from the middle of the slice before all other steps; () for the whole slice.
      blur: standard deviation of a Gaussian blur of the cut slice, in its pixels; 0 for none.
      extra: names of `channels.EXTRA`: channels that are generated from the image, by k-means or by another run's network.
      target: the network's training target: "labels"; "edges", the inner boundaries of the labels; or "composite", the image with
        the union of the labels blended in (`channels.composite`).
      stage: number of classes of a previous stage's segmentation (nnU-Net's cascade); each is an input channel of zeros and ones
        behind those of the image, not counted in `channels`. 0 for none.
      orientation: of a volume's axes before `axes` takes them, one of `geometry.ORIENTATIONS`.
      axes: of a volume, in the order in which the network takes them; size, spacing and crop are in this order too; () for
        (0, 1, 2): X, Y, Z of the orientation. A spacing of 0 keeps an axis as it is.
      nonzero: crop a volume to the box around its non-zero voxels before all other steps (`canvas.nonzero_box`).
      above: of a volume: ("scan" or "grid", value, margin): crop it to the box around its voxels above the value, wider by
        `margin` voxels (`canvas.box_above`), "scan": before all other steps, or "grid": after resampling (only for the filter
        "monai"); () for none.
      fit: how an image is brought to the network's size. "stretch": resized to `size`. "centre": resampled to `spacing`, then
        cropped or padded around its centre to `size`. "patches": resampled to `spacing` (None: not resampled) and kept at any
        size; training draws patches of `size`, prediction uses windows of `size`. Volumes are always "patches".
      statistics: for "ct_zscore" (lowest, highest, mean, standard deviation) of each channel (`statistics.Foreground`), for
        "percentiles" (lower and upper percentile, the values that they become).
      plane: the plane of slices that are cut from volumes: "axial", "coronal" or "sagittal"; "" means axial, and refuses volumes
        that are too thin for that (`geometry.to_slices`).
    """

    size: tuple[int, ...]
    window: tuple[float, float] | None
    spacing: tuple[float, ...] | None
    channels: int
    labels: tuple[str, ...]
    intensity: str = "grey"
    modalities: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    filter: str = "linear"
    crop: tuple[int, ...] = ()
    blur: float = 0.0
    extra: tuple[str, ...] = ()
    target: str = "labels"
    axes: tuple[int, ...] = ()
    nonzero: bool = False
    above: tuple[str | float, ...] = ()
    statistics: tuple[tuple[float, ...], ...] = ()
    fit: str = "stretch"
    plane: str = ""
    orientation: str = "lps"
    stage: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as a dict; without `stage` where there is none, so that digests are those of before it existed."""
        found = dataclasses.asdict(self)
        return found if self.stage else {key: value for key, value in found.items() if key != "stage"}
