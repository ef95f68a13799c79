"""Read nnU-Net's splits_final.json: the cases that each fold of a cross-validation was trained on, and those it was validated on.

    [{"train": ["case_000", ...], "val": ["case_003", ...]}, ...]       entry N is of fold N

nnU-Net writes the file to nnUNet_preprocessed/Dataset001_Name, beside its plans.
Source: MIC-DKFZ/nnUNet, nnunetv2/training/nnUNetTrainer/nnUNetTrainer.py, do_split.
"""

from pathlib import Path

from jaxseg.data.splits import NAMES
from jaxseg.types import DataError
from jaxseg.utils import guard

FILE = "splits_final.json"


def find(folder: Path) -> Path | None:
    """The file in a model's folder, or in the folder that holds the model; None if neither has it."""
    return next((place / FILE for place in (folder, folder.parent) if (place / FILE).is_file()), None)


def of_fold(path: Path | None, name: str) -> dict[str, list[str]]:
    """The cases of a fold by split; the test split is empty.

    Args:
      path: the file; None: the cases are unknown, and all splits are empty.
      name: "fold_0", "fold_1", ...; or "fold_all", which was trained on all cases.
    Raises:
      DataError: DATA_SPLIT, the file is no such list, or has no such fold.
    """
    if path is None:
        return {split: [] for split in NAMES}
    content = guard.read_json(path)
    right = isinstance(content, list) and all(
        isinstance(fold, dict) and all(isinstance(fold.get(split), list) for split in NAMES[:2]) for fold in content
    )
    if not right or not content or not all(isinstance(c, str) for fold in content for split in NAMES[:2] for c in fold[split]):
        raise DataError(
            f'{path}: must be nnU-Net\'s list of {{"train": [cases], "val": [cases]}}, one entry a fold', "DATA_SPLIT"
        )
    if name == "fold_all":
        return {"train": sorted({case for split in NAMES[:2] for case in content[0][split]}), "val": [], "test": []}
    number = int(name.removeprefix("fold_"))
    if number >= len(content):
        raise DataError(f"{path}: has {len(content)} folds, and the model {name}; give --splits of this model", "DATA_SPLIT")
    return {split: sorted(content[number].get(split, [])) for split in NAMES}
