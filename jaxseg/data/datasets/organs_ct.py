"""Organs in the CT of two real patients, from the test files of TotalSegmentator (`python -m jaxseg.data.acquire organs`).

    <root>/example_ct.nii.gz                      patient A: 122 x 101 x 112 voxels of 3 mm, hip to liver
    <root>/example_seg_fast_force_split.nii.gz    its labels
    <root>/example_ct_dicom/                      patient B: 20 DICOM slices of 512 x 512, 0.98 x 0.98 x 2 mm, liver and spleen
    <root>/example_seg_dicom_on_ct.nii.gz         its labels, on the grid of the DICOM series
    <root>/map_to_binary.py                       label numbers; read as text, never run

The labels are the output of TotalSegmentator, not drawn by people. With one patient to train on and one to test on, the data set
demonstrates the pipeline on real scans; its figures are no benchmark.

The prescribed split: train is A without the slices 83..91, val is slices 86..88 of A (9 mm from either neighbour), test
is B. For networks that take volumes (protocol "volumes") train is the block of A from slice 76 up, where the four organs
lie, val the block 56..72 below it (9 mm apart), which holds liver and aorta alone. The validation figure therefore says how
well A is fitted, not how well a new patient would be.
"""

import ast
import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxseg.data.datasets.structures import count_structures
from jaxseg.data.formats import volumes
from jaxseg.data.formats.refusal import refusal
from jaxseg.data.records import Case, DataSet
from jaxseg.utils import guard
from jaxseg.utils.lookup import lookup, unknown_name

VERSION = 1  # of the rules below: raise it when they would read a file otherwise, so that stores are built anew

CT_A, MASK_A = "example_ct.nii.gz", "example_seg_fast_force_split.nii.gz"
CT_B, MASK_B = "example_ct_dicom", "example_seg_dicom_on_ct.nii.gz"
NUMBERS = "map_to_binary.py"
MAX_TABLE = 1 << 20  # bytes of it
STRUCTURES = ("liver", "spleen", "aorta", "stomach")  # all four lie in both scans and in the validation slab
SLAB = "A (validation slab)"
_SLICES = {"A": ((0, 83), (92, 112)), SLAB: ((86, 89),), "B": ((0, 20),)}  # half-open ranges along the file's third axis
_SLABS = {"A": (76, 112), SLAB: (56, 73), "B": ()}  # the same for volumes
PROTOCOLS = ("slices", "volumes")
_SPLIT = {"A": "train", SLAB: "val", "B": "test"}
_REMEDY = "run: python -m jaxseg.data.acquire organs --output=real_data/organs"


def load(root: str | Path, *, structures: Sequence[str] = STRUCTURES, protocol: str = "slices") -> DataSet:
    """List the two patients as three cases (A without the slab, the slab, B).

    Args:
      root: the folder that `acquire` made.
      structures: names of the organs, in the order of the classes 1, 2, ... (117 names in map_to_binary.py).
      protocol: "slices", or "volumes": parts of A for networks of rank 3.
    Raises:
      ConfigError: no structure, one twice, or an unknown one.
      DataError: DATA_MISSING for a missing file, DATA_TABLE for label numbers that cannot be read.
    """
    root = Path(root)
    lookup("protocol", protocol, dict.fromkeys(PROTOCOLS))
    for name in (CT_A, MASK_A, CT_B, MASK_B, NUMBERS):
        if not (root / name).exists():
            raise refusal("DATA_MISSING", root / name, "not there", "the organs set has five parts", _REMEDY)
    table = read_numbers(root / NUMBERS)
    label_count(structures)
    for name in structures:
        if name not in table:
            raise unknown_name("structure", name, table)
    files = {"A": (CT_A, MASK_A), SLAB: (CT_A, MASK_A), "B": (CT_B, MASK_B)}
    ranges = {name: (slab,) if slab else _SLICES[name] for name, slab in _SLABS.items()} if protocol == "volumes" else _SLICES
    cases = tuple(
        Case(
            name,
            name,
            (root / ct,),
            root / mask,
            {"slices": [list(r) for r in ranges[name]]},
            slab=_SLABS[name] if protocol == "volumes" else (),
        )
        for name, (ct, mask) in files.items()
    )
    numbers = tuple(table[name] for name in structures)
    return DataSet(
        "organs_ct",
        root,
        cases,
        tuple(structures),
        functools.partial(map_mask, numbers),
        keep_slice,
        fixed_split=dict(_SPLIT),
        values=numbers,
    )


def label_count(structures: Sequence[str] = STRUCTURES) -> int:
    """Return the number of foreground classes; raises a ConfigError unless `structures` is a sequence of distinct names."""
    return count_structures(structures, STRUCTURES)


def map_mask(numbers: tuple[int, ...], raw: np.ndarray) -> np.ndarray:
    """Label numbers of the program -> classes 1, 2, ... in the order of `numbers`; every other organ is background.

    Predictions are written in the same label numbers.

    Raises:
      DataError: DATA_LABEL for values that are not label numbers.
    """
    volumes.check_labels(raw, range(118), "mask")
    classes = np.zeros(118, np.uint8)
    classes[list(numbers)] = np.arange(1, len(numbers) + 1)
    return classes[raw.astype(np.int64)]


def keep_slice(case: Case, index: int, mask: np.ndarray | None) -> bool:
    """Return whether a slice belongs to the case's part of its volume."""
    return any(first <= index < end for first, end in case.meta["slices"])


def read_numbers(path: Path) -> dict[str, int]:
    """Organ name -> label number, from the text of `class_map = {"total": {1: "spleen", ...}, ...}`.

    Raises:
      DataError: DATA_TABLE.
    """
    try:
        tree = ast.parse(guard.read_text(path, MAX_TABLE))
        values = [
            node.value
            for node in tree.body
            if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "class_map" for t in node.targets)
        ]
        total = ast.literal_eval(values[0])["total"]
        if not all(isinstance(k, int) and 0 < k < 118 and isinstance(v, str) for k, v in total.items()):
            raise ValueError("label numbers must be 1..117, and names must be words")
        return {name: number for number, name in total.items()}
    except (SyntaxError, ValueError, LookupError, TypeError, AttributeError, RecursionError, MemoryError) as error:
        raise refusal(
            "DATA_TABLE",
            path,
            f"cannot be read ({type(error).__name__}: {error})",
            "must assign class_map with an entry 'total' of number: name",
            _REMEDY,
        ) from error
