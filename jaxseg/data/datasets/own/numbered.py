"""Images with one file per channel, numbered as in nnU-Net: anna_0000.nii.gz, anna_0001.nii.gz."""

import re
from collections.abc import Sequence
from pathlib import Path

from jaxseg.data.datasets import pairs
from jaxseg.data.formats.refusal import refusal

_NUMBER = re.compile(r"(.+)_(\d{4})")


def is_numbered(folder: Path, suffixes: tuple[str, ...] | None = None) -> bool:
    """Return whether every image of a folder has a channel number, and some image the number 0000."""
    numbers = [_NUMBER.fullmatch(stem) for stem in pairs.by_stem(folder, suffixes)]
    return bool(numbers) and all(numbers) and any(n.group(2) == "0000" for n in numbers)


def channel_files(
    folder: Path, suffixes: tuple[str, ...] | None = None, *, channels: Sequence[str] = ()
) -> dict[str, tuple[Path, ...]]:
    """{case: its files, channel 0 first}, sorted by case.

    Args:
      folder: holds <case>_0000.<suffix>, <case>_0001.<suffix>, ...
      suffixes: of the files that count; None: of all that are read.
      channels: names of the channels, in their order: every case has a file for each; (): as many as the first case has.
    Raises:
      DataError: DATA_PATH for a file without a number, DATA_MISSING for a channel that a case lacks, DATA_CHANNELS for one more.
    """
    found: dict[str, dict[int, Path]] = {}
    for stem, path in pairs.by_stem(folder, suffixes).items():
        match = _NUMBER.fullmatch(stem)
        if match is None:
            raise refusal(
                "DATA_PATH", path, "no channel number", "images are named <case>_0000, <case>_0001, ...", "rename or move it"
            )
        found.setdefault(match.group(1), {})[int(match.group(2))] = path
    count = len(channels) or max((max(files) + 1 for files in found.values()), default=0)
    name = lambda c: f"{c:04d}" + (f" ({channels[c]})" if c < len(channels) else "")
    for case, files in found.items():
        first = next(iter(files.values()))
        absent = [c for c in range(count) if c not in files]
        if absent:
            have = ", ".join(map(name, sorted(files)))
            raise refusal(
                "DATA_MISSING",
                first.parent / case,
                f"no file of channel {name(absent[0])}, only of {have}",
                f"every case has {count} channels",
                "add the file or remove the case",
            )
        if max(files) >= count:
            raise refusal(
                "DATA_CHANNELS",
                files[max(files)],
                f"channel {max(files):04d}",
                f"there are {count}: {', '.join(channels)}",
                "remove the file, or name its channel in dataset.json",
            )
    return {case: tuple(files[c] for c in range(count)) for case, files in sorted(found.items())}
