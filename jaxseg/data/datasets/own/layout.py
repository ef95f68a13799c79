"""Recognise the layout of a folder from the files in it."""

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from jaxseg.data.formats.discover import files_and_folders
from jaxseg.data.formats.refusal import refusal
from jaxseg.types import ConfigError
from jaxseg.utils import guard

KNOWN = (
    "nnU-Net's raw data (dataset.json, imagesTr, labelsTr), a task of the Decathlon (dataset.json with a list 'training'), "
    "folders images and masks, masks beside their images (anna.png, anna_mask.png), a folder for "
    "each case (anna/ct.nii.gz, anna/mask.nii.gz), a table of paths (.csv, .json, .yaml)"
)


def recognise(root: Path, modules: Mapping[str, ModuleType]) -> tuple[str, Path]:
    """Return (name of the layout, its folder or file).

    Args:
      root: a folder, the folder above it, or a table.
      modules: name -> layout, each with a function `recognised`; if several layouts recognise a folder, the first one is used.
    Raises:
      ConfigError: several folders below `root` have a known layout.
      DataError: no folder has a known layout.
    """
    guard.check_regular(root, folder_too=True)
    known = lambda place: [name for name, module in modules.items() if module.recognised(place)]
    found = {root: names} if (names := known(root)) else {}
    if not found and root.is_dir():  # only then: it takes time to look at folders of very many files
        found = {place: names for place in files_and_folders(root)[1] if (names := known(place))}
    if not found:
        raise refusal(
            "DATA_MISSING", root, "no known layout of data", f"known layouts are {KNOWN}", "give the folder that holds one"
        )
    if len(found) > 1:
        raise ConfigError(
            f"data.root={root}: {len(found)} folders in it hold data ({', '.join(p.name for p in found)}); give one of them"
        )
    (place, names), *_ = found.items()
    return names[0], place
