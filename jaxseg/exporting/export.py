"""`--mode=export`: a run in one of the forms that other programs read."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxseg.exporting import bundle, contents, onnx_file
from jaxseg.types import ConfigError
from jaxseg.utils.files import make_folder
from jaxseg.utils.lookup import lookup

FORMATS: dict[str, tuple[str, ...]] = {  # format -> suffixes of its files
    "bundle": (bundle.SUFFIX,),
    "onnx": (onnx_file.SUFFIX,),
}
WRITERS = {"bundle": bundle.write, "onnx": onnx_file.write}


def export(
    run: Path,
    output: Path,
    *,
    settings: Mapping[str, Any],
    threshold: float | None = None,
    format: str = "",
    licence: str = "",
    say: Callable[[str], None] = print,
) -> None:
    """Write a run as a file for others.

    Args:
      run: run or checkpoint folder.
      output: the file; its suffix names the format.
      settings: the config's infer group.
      threshold: config.eval.threshold; None: the record's.
      format: one of FORMATS; "": by the suffix.
      licence: of the weights, for the model card.
      say: gets lines about what was written.
    Raises:
      ConfigError: an unknown format, a suffix of another one, or a file that exists.
      MismatchError: the run does something that the format cannot hold.
    """
    format = format or _by_suffix(output)
    suffixes = lookup("export format", format, FORMATS)
    if output.suffix not in suffixes:
        raise ConfigError(f"--output={output}: a file of --format={format} ends in {' or '.join(suffixes)}")
    if output.exists():
        raise ConfigError(f"--output={output} exists; delete it or name another")
    make_folder(output.parent, f"--output={output}")
    for line in WRITERS[format](output, contents.read(run, settings, threshold=threshold, licence=licence)):
        say(line)


def _by_suffix(output: Path) -> str:
    found = next((name for name, suffixes in FORMATS.items() if output.suffix in suffixes), "")
    if not found:
        known = ", ".join(f"{' or '.join(suffixes)} ({name})" for name, suffixes in FORMATS.items() if suffixes)
        raise ConfigError(f"--output={output}: its suffix names no format; give {known}")
    return found
