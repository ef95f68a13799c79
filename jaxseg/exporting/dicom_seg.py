"""Labels of DICOM series as DICOM Segmentation objects, beside the NIfTI files that predict writes. Needs highdicom.

One object per case, OUTPUT/<case>.seg.dcm: a binary segment for each class, or for each structure where they overlap, on the
planes of the series' own slices. It belongs to the study and patient of the series and has their identifying attributes, as the
standard requires. Categories and types are the general "anatomical structure"; the label is the class's name. The same labels of
the same series give the same object, unique identifiers included; its date is that of writing.

Source: DICOM PS3.3 A.51 (Segmentation IOD) and C.8.20.
"""

import importlib.util
import io
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import jaxseg
from jaxseg import checkpoint
from jaxseg.data.formats import volumes
from jaxseg.data.formats.dicom_slice import import_pydicom
from jaxseg.data.formats.discover import is_dicom, visible_entries
from jaxseg.data.store import base
from jaxseg.infer import cases
from jaxseg.types import ConfigError, DataError
from jaxseg.utils import files

SUFFIX = ".seg.dcm"
_STRUCTURE = ("91723000", "SCT", "Anatomical structure")


def series_of(run: Path, origin: Path) -> list[tuple[str, Path]]:
    """Return (case, its DICOM file or folder) of every input that is DICOM; called before anything is segmented.

    Raises:
      ConfigError: highdicom is not installed, or no case is a DICOM series.
    """
    import_pydicom()
    if importlib.util.find_spec("highdicom") is None:
        raise ConfigError("--dicom_seg needs highdicom, which is not installed; run: pip install 'highdicom>=0.25'")
    record = checkpoint.find_record(run)
    found = cases.find_cases(origin, base.recipe_from(record), record)
    series = [(case.name, case.paths[0]) for case in found if case.paths[0].is_dir() or is_dicom(case.paths[0])]
    if not series:
        raise ConfigError(f"--dicom_seg: none of {len(found)} cases of --input={origin} is a DICOM series; leave it out")
    return series


def write_all(run: Path, series: list[tuple[str, Path]], output: Path, say: Callable[[str], None] = print) -> None:
    """Write an object for every series whose labels predict wrote.

    Args:
      run: run or checkpoint folder.
      series: from `series_of`.
      output: predict's folder.
      say: called with a line for each object.
    Raises:
      DataError: a series lacks an attribute that the standard requires.
      StorageError: it cannot be written.
    """
    record = checkpoint.find_record(run)
    for name, path in series:
        masks = _masks(record, output, name)
        if masks is not None:
            content = encoded(masks, path, record)
            files.write_atomic(output / f"{name}{SUFFIX}", content)
            say(f"{name}{SUFFIX}: {', '.join(f'{label} {mask.sum()} voxels' for label, mask in masks.items())}")


def _masks(record: Mapping[str, Any], output: Path, name: str) -> dict[str, np.ndarray] | None:
    """Return name -> mask [column, row, slice] of the classes or structures, from predict's files; None if there are none."""
    structures = cases.structures_of(record)
    places = {label: output / label.replace("/", "_") / f"{name}.nii.gz" for label, _ in structures}
    if not all(path.is_file() for path in places.values()) or not structures and not (output / f"{name}.nii.gz").is_file():
        return None
    if structures:
        return {label: volumes.read_volume(path).array > 0 for label, path in places.items()}
    labels = volumes.read_volume(output / f"{name}.nii.gz").array
    return {label: labels == value for label, value in zip(record["labels"], record["values"])}


def encoded(masks: Mapping[str, np.ndarray], series: Path, record: Mapping[str, Any]) -> bytes:
    """Return the bytes of a Segmentation object.

    Args:
      masks: name -> mask [column, row, slice], as the series is read.
      series: the file or folder of the series.
      record: the record of the run that predicted the masks.
    Raises:
      DataError: DATA_DICOM for a series that lacks an attribute that the standard requires.
    """
    import highdicom
    from highdicom.sr.coding import CodedConcept
    from pydicom.sr.codedict import codes

    sources = _slices(series)
    frames = np.stack([mask.transpose(2, 1, 0) for mask in masks.values()], -1).astype(np.uint8)  # [slice, row, column, segment]
    network, structure = record["model"]["name"], CodedConcept(*_STRUCTURE)
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=network[:64], family=codes.DCM.ArtificialIntelligence, version=jaxseg.__version__
    )
    described = [
        highdicom.seg.SegmentDescription(
            number,
            label[:64],
            segmented_property_category=structure,
            segmented_property_type=structure,
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
        )
        for number, label in enumerate(masks, 1)
    ]
    what = files.digest(record["digest"], str(getattr(sources[0], "SeriesInstanceUID", "")), np.packbits(frames).tobytes())
    identifier = lambda kind: highdicom.UID.from_uuid(str(uuid.uuid5(uuid.NAMESPACE_OID, f"{kind} {what}")))
    try:
        found = highdicom.seg.Segmentation(
            sources,
            frames,
            highdicom.seg.SegmentationTypeValues.BINARY,
            described,
            series_instance_uid=identifier("series"),
            series_number=1000,
            sop_instance_uid=identifier("object"),
            instance_number=1,
            manufacturer="jaxseg",
            manufacturer_model_name=network[:64],
            software_versions=jaxseg.__version__,
            device_serial_number=record["digest"][:16],
            content_description="Research only, not a medical device"[:64],
        )
    except AttributeError as error:
        lacks = str(error).rpartition("attribute ")[2] or str(error)
        raise DataError(
            f"{series}: its slices lack {lacks}, which a DICOM Segmentation takes from them; export the series again, or predict "
            "without --dicom_seg",
            "DATA_DICOM",
        ) from error
    content = io.BytesIO()
    found.save_as(content)
    return content.getvalue()


def _slices(series: Path) -> list:
    """Return the series' images in the order in which `dicom.read_dicom` stacks them: along their normal."""
    pydicom = import_pydicom()
    paths = [path for path in visible_entries(series) if path.is_file()] if series.is_dir() else [series]
    found = [pydicom.dcmread(path, force=True) for path in paths if is_dicom(path)]
    images = [one for one in found if "ImagePositionPatient" in one and "Rows" in one]
    along = np.asarray(images[0].ImageOrientationPatient, float)
    normal = np.cross(along[:3], along[3:])
    return sorted(images, key=lambda one: float(np.asarray(one.ImagePositionPatient, float) @ normal))
