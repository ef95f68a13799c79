"""The records that the packages of `data/` exchange: volumes, cases, data sets, slices and the preprocessing recipe."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Meaning(NamedTuple):
    """What one value of a mask was taken for, where its meaning had to be concluded (`prepare.masks`).

    Attributes:
      kind: how: "values", "palette", "JPEG", "rounded", "data.mask_values".
      found: the value or colour, in words.
      label: the class.
      voxels: how many have it.
      name: of the class, where it is none of the data set's: of a mask that is split into several.
    """

    kind: str
    found: str
    label: int
    voxels: int
    name: str = ""


@dataclasses.dataclass(frozen=True)
class Photo:
    """The `Volume.header` of a photograph: an image without a position in space.

    Attributes:
      kind: "PNG", "JPEG", "TIFF", "BMP" or "GIF".
      palette: (red, green, blue, alpha) of each index, where the array holds indices of a palette.
      lossy: it is stored as JPEG, whose values are not exact.
      turn: the file's EXIF orientation, 1..8; 0 where it has none. The volume's array is upright; `stored_order` leads to the
        order of the file's own pixels.
    """

    kind: str
    palette: tuple[tuple[int, int, int, int], ...] = ()
    lossy: bool = False
    turn: int = 0

    @property
    def turned(self) -> bool:
        """Whether the file's own pixels lie otherwise than the picture is shown."""
        return self.turn > 1


@dataclasses.dataclass(frozen=True)
class Volume:
    """An image as it lies on disk.

    Attributes:
      array: [X, Y, Z] (or [X, Y, Z, C], or [H, W] / [H, W, C] for photographs) in the file's own axis order, native
        byte order, scaled values (HU for CT).
      affine: 4x4 float64, voxel index -> millimetres in RAS+ (NIfTI's convention). Identity for photographs.
      header: what `volumes.write_like` needs to write a file with the same geometry (opaque to others).
      path: the file or folder it came from.
      meaning: of a mask whose values are not simply class numbers, what each was taken for.
    """

    array: np.ndarray
    affine: np.ndarray
    header: Any
    path: Path
    meaning: tuple[Meaning, ...] = ()

    @property
    def spacing(self) -> tuple[float, ...]:
        """Distance in mm between voxels along the array's three axes; (1, 1) for a photograph, which has no millimetres."""
        if isinstance(self.header, Photo):
            return (1.0, 1.0)
        return tuple(float(step) for step in np.linalg.norm(np.asarray(self.affine, np.float64)[:3, :3], axis=0))


@dataclasses.dataclass(frozen=True)
class Case:
    """One examination: what to read, and to whom it belongs.

    Attributes:
      id: unique in its data set.
      patient: cases of one patient never land in two splits.
      images: one file (or DICOM folder) per channel.
      mask: label file, or None where there is none.
      meta: facts of the layout (for instance {"bleed": {slice index, ...}, "types": [...]}), JSON-able.
      parts: further files that the data set's `read_mask` reads (one per structure); a cache notices their changes.
      slab: (first, end): the part of a volume that is this case, along the file's third axis; () for all of it. Slices go by
        `DataSet.keep_slice` instead.
    """

    id: str
    patient: str
    images: tuple[Path, ...]
    mask: Path | None
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    parts: tuple[Path, ...] = ()
    slab: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class DataSet:
    """Cases in one public layout, and how its masks read.

    Attributes:
      name: "ct_ich".
      root: its folder.
      cases: sorted by id.
      labels: names of the classes 1, 2, ... (background, 0, is not listed).
      map_mask: raw mask array -> integer classes 0..len(labels); raises DataError (DATA_LABEL) on values outside.
      combined: the classes are combinations of structures that may overlap; the structures are `regions`.
      values: the value that classes 1, 2, ... have in the data set's own masks, in which predictions are written; () where
        these are the class numbers, and where no single value is the class (thresholded pictures): class numbers are written.
      keep_slice: (case, slice index, mask slice or None) -> whether the slice is an example under the chosen protocol.
        The index counts along the file's own third axis.
      stratum: case -> a word; splits are balanced over these ("bleed" / "none").
      synthetic: the data are generated, not measured.
      fixed_split: patient -> "train" | "val" | "test" where the layout prescribes one, else None.
      held_out: patients that the layout sets aside for testing; drawn splits take them as their test split.
      read_image: file -> Volume for formats that `volumes.read_volume` does not know; None: that function.
      read_mask: (case, its first image) -> Volume on the image's grid, for masks that are no single image file (polygons,
        one file per structure); None: `volumes.read_volume` of the case's mask.
      modalities: names of the image channels, in their order; () where they have none.
      regions: ((name, classes), ...), unions of classes that are scored beside them, for instance ("WT", (1, 2, 3)).
      normalised: its images are z-scores already; `Recipe.intensity` "brain" leaves them as they are.
      notes: what must be said whenever the set is loaded, one line each.
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
    normalised: bool = False
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How an image becomes the network's input; written into the run's record, read back by predict.

    Attributes:
      size: (H, W) of the network's input, pixels; (X, Y, Z) where the network takes volumes, voxels. A patch for "patches".
      window: (level, width) in HU mapped linearly to 0..255 and clipped; None keeps 8-bit images as they are.
      spacing: (row mm, column mm) of slices, (x, y, z) mm of volumes, to which they are resampled; None: as `fit` says.
      channels: input channels, those of `extra` included.
      labels: class names 1, 2, ... of what is learnt (`cache.target_labels`).
      intensity: "grey": uint8, through `window` or as it is. "brain": float32 z-scores of each modality over the voxels
        above 0 (`intensity.brain`). "ct": float32, `window` clipped and mapped linearly to -1..1. nnU-Net's rules are
        listed in prepare/intensity.py; several, joined by "+", are those of the channels in their order.
      modalities: names of the channels, in their order; () where they have none.
      mean, std: per channel, of images in 0..1: (image - mean) / std after augmentation; () for none.
      filter: how images are resized: "linear", "lanczos", "nnunet", "monai" or "monai_last" (prepare/resample.py).
      crop: (H, W) in pixels of the slice: cut this box out of the slice's middle before anything else; () for the whole.
      blur: standard deviation of a Gaussian blur of the cut slice, in its pixels; 0 for none.
      extra: names of `channels.EXTRA`: channels made from the image, by k-means or by a network of another run.
      target: what a network learns: "labels"; "edges", the inner boundaries of the labels; or "composite", the image with
        the union of the labels blended in (`channels.composite`).
      orientation: of a volume's axes before `axes` takes them, one of `geometry.ORIENTATIONS`.
      axes: of a volume, in the order in which the network takes them; size, spacing and crop are in this order too; () for
        (0, 1, 2): X, Y, Z of the orientation. A spacing of 0 keeps an axis as it is.
      nonzero: whether a volume is cut to the box of its voxels that are not 0 before anything else (`canvas.nonzero_box`).
      fit: how an image comes to the network's size: "stretch", resized to `size`; "centre", resampled to `spacing` and centred on
        a canvas of `size`, cut or padded; "patches", resampled to `spacing`, or kept on its grid for None, whatever size it then
        has: patches of `size` are drawn from it, windows of `size` predict it. Volumes are always "patches".
      statistics: for "ct_zscore" (lowest, highest, mean, standard deviation) of each channel (`statistics.Foreground`).
      plane: in which volumes are cut into slices: "axial", "coronal", "sagittal"; "" for axial, where those are pictures
        (`geometry.to_slices`).
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
    statistics: tuple[tuple[float, ...], ...] = ()
    fit: str = "stretch"
    plane: str = ""
    orientation: str = "lps"
