"""nnU-Net's raw data: `Dataset001_Name` with dataset.json and a file for each channel.

    <root>/dataset.json                     channels, labels, regions, file_ending: see `description`
    <root>/imagesTr/anna_0000.nii.gz        channel 0 of case anna, anna_0001.nii.gz channel 1, ...
    <root>/labelsTr/anna.nii.gz
    <root>/imagesTs, labelsTs               further cases; those with labels are the test split

A picture in colour is one file with three channels (rgb_0000.png). Where dataset.json has an entry "dataset" ({case: {"images":
[...], "label": ...}}, paths relative to it), that lists the training cases.
Source: MIC-DKFZ/nnUNet, documentation/dataset_format.md and dataset_format_inference.md.
"""

from collections.abc import Sequence
from pathlib import Path

from jaxseg.data.datasets import pairs
from jaxseg.data.datasets.own import description, numbered, patients
from jaxseg.data.formats import photos
from jaxseg.data.formats.discover import has_suffix, visible_entries
from jaxseg.data.formats.own import readable
from jaxseg.data.formats.refusal import refusal
from jaxseg.data.records import Case, DataSet

VERSION = 1  # of the rules below: raise it when they would read a file otherwise, so that stores are built anew

FOLDERS = ("imagesTr", "labelsTr")
Files = dict[str, tuple[tuple[Path, ...], Path | None]]  # case -> its images and its mask


def recognised(root: Path) -> bool:
    """Return whether a folder has the layout of nnU-Net's raw data."""
    return (root / description.FILE).is_file() and all((root / name).is_dir() for name in FOLDERS)


def load(
    root: str | Path,
    *,
    structures: Sequence[str] | None = None,
    modalities: Sequence[str] | None = None,
    patient: str | None = None,
    ignore: str | None = None,
) -> DataSet:
    """List the cases of imagesTr and imagesTs; those without a mask have mask None.

    Args:
      root: the folder with dataset.json, or the one that holds it alone.
      structures: names of the classes, those of dataset.json.
      modalities: the channels to read, by the names in dataset.json; None: all of them.
      patient: see `patients.named_by`.
      ignore: see `Description.mask_rule`.
    Raises:
      ConfigError: an option that contradicts dataset.json.
      DataError: DATA_MISSING for a missing folder, channel or mask, DATA_TABLE for a dataset.json that cannot be used.
    """
    root = pairs.holder(Path(root), FOLDERS, "nnU-Net's raw data")
    about, whose = description.read(root / description.FILE), patients.named_by(patient)
    suffixes = _suffixes(about)
    train = _listed(about, suffixes) if "dataset" in about.content else _paired(about, "Tr", suffixes)
    test = _paired(about, "Ts", suffixes) if (root / "imagesTs").is_dir() else {}
    twice = sorted(train.keys() & test.keys())
    if twice:
        raise refusal(
            "DATA_PATH", root, f"case {twice[0]} in imagesTr and imagesTs", "names of cases must be unique", "rename one"
        )
    found = train | test
    pictures = all(len(images) == 1 and has_suffix(images[0], photos.SUFFIXES) for images, _ in found.values())
    channels = () if pictures else about.channels  # grey or colour, as pictures are
    chosen = description.chosen(modalities, channels, about.path)
    cases = tuple(
        Case(name, whose(name), tuple(images[channels.index(c)] for c in chosen) or images, mask)
        for name, (images, mask) in sorted(found.items())
    )
    return DataSet(
        "nnunet_raw",
        root,
        cases,
        description.agreed("structures", structures, about.labels, about.path),
        about.mask_rule(ignore),
        modalities=chosen,
        regions=about.regions,
        values=about.values,
        left_out=about.leaves_out(ignore),
        synthetic=(root / "SYNTHETIC.txt").is_file(),
        held_out=frozenset(whose(name) for name, (_, mask) in test.items() if mask),
        notes=about.count_notes(len(train)),
    )


def _suffixes(about: description.Description) -> tuple[str, ...]:
    """Return the accepted file endings."""
    ending = about.content.get("file_ending")
    if ending is None:
        return readable()
    if not isinstance(ending, str) or ending.lower() not in readable():
        raise about.bad(
            f"file_ending {ending!r}", f"{', '.join(readable())} are read", "convert the files and change file_ending"
        )
    return (ending.lower(),)


def _paired(about: description.Description, part: str, suffixes: tuple[str, ...]) -> Files:
    """Return the cases of imagesTr or imagesTs, with their masks if there are any."""
    root = about.path.parent
    in_colour = len(about.channels) == 3 and all(
        stem.endswith("_0000") and has_suffix(path, photos.SUFFIXES)
        for stem, path in pairs.by_stem(root / f"images{part}", suffixes).items()
    )
    channels = () if in_colour else about.channels
    images = numbered.channel_files(root / f"images{part}", suffixes, channels=channels)
    folder = root / f"labels{part}"
    masks = pairs.by_stem(folder, suffixes) if folder.is_dir() and visible_entries(folder) else {}
    if part == "Ts" and not masks:
        return {name: (files, None) for name, files in images.items()}
    both = pairs.pair({name: files[0] for name, files in images.items()}, masks, without_mask=part == "Ts")
    labelled = {name: mask for name, _, mask in both}
    return {name: (files, labelled.get(name)) for name, files in images.items()}


def _listed(about: description.Description, suffixes: tuple[str, ...]) -> Files:
    """Return the cases in the entry "dataset"."""
    root, entries = about.path.parent, about.content["dataset"]
    right = lambda e: (
        isinstance(e, dict)
        and isinstance(e.get("label"), str)
        and isinstance(e.get("images"), list)
        and all(isinstance(i, str) for i in e["images"])
    )
    if not isinstance(entries, dict) or not entries or not all(map(right, entries.values())):
        raise about.bad("the entry dataset", 'it holds {case: {"images": [path, ...], "label": path}}')
    found: Files = {}
    for name, entry in entries.items():
        images, mask = tuple(root / i for i in entry["images"]), root / entry["label"]
        in_colour = len(images) == 1 and len(about.channels) == 3 and has_suffix(images[0], photos.SUFFIXES)
        if len(images) != len(about.channels) and not in_colour:
            raise about.bad(f"{len(images)} images of case {name}", f"there are {len(about.channels)} channels")
        for path in (*images, mask):
            if not path.is_file():
                raise refusal(
                    "DATA_MISSING", path, "not there", f"{about.path.name} lists it for case {name}", "add it or remove the case"
                )
        found[name] = (images, mask)
    return found
