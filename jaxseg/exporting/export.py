"""`--mode=export`: write a run in a format of other programs."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxseg.exporting import bundle, contents, onnx_file, torch_file
from jaxseg.types import ConfigError
from jaxseg.utils.files import make_folder
from jaxseg.utils.lookup import lookup

FORMATS: dict[str, tuple[str, ...]] = {  # format -> suffixes of its files; () for a folder
    "bundle": (bundle.SUFFIX,),
    "onnx": (onnx_file.SUFFIX,),
    "torch": (".pth", ".pt", ".safetensors"),
    "nnunet": (),
}


def export(
    run: Path,
    output: Path,
    *,
    settings: Mapping[str, Any],
    threshold: float | None = None,
    format: str = "",
    like: Path | None = None,
    licence: str = "",
    say: Callable[[str], None] = print,
) -> None:
    """Write a run as a file for another program.

    Args:
      run: run or checkpoint folder.
      output: the file; its suffix names the format.
      settings: the config's infer group.
      threshold: config.eval.threshold; None: the record's.
      format: one of FORMATS; "": by the suffix.
      like: "torch": a state dict whose tensor names are used; "nnunet": the checkpoint that the run was imported from.
      licence: of the weights, for the model card.
      say: called with lines about what was written.
    Raises:
      ConfigError: the format is unknown, the suffix belongs to another format, or the file exists.
      MismatchError: the run uses something that the format does not support.
    """
    format = format or _by_suffix(output)
    suffixes = lookup("export format", format, FORMATS)
    if suffixes and output.suffix not in suffixes or not suffixes and output.suffix:
        what = (
            f"a file of --format={format} ends in {' or '.join(suffixes)}" if suffixes else f"--format={format} writes a folder"
        )
        raise ConfigError(f"--output={output}: {what}; give another name")
    if like and format not in ("torch", "nnunet"):
        raise ConfigError(f"--input={like}: is for --format=torch and --format=nnunet; leave it out")
    if licence and format not in ("bundle", "onnx"):
        raise ConfigError(f"--licence={licence}: --format={format} holds only weights, no model card; leave it out")
    if output.exists():
        raise ConfigError(f"--output={output} exists; delete it or name another")
    make_folder(output.parent, f"--output={output}")
    found = contents.read(run, settings, threshold=threshold, licence=licence, applied=format == "bundle")
    write = {"bundle": bundle.write, "onnx": onnx_file.write}.get(format)
    if write is None:
        to_torch = torch_file.write if format == "torch" else torch_file.write_nnunet
        lines = to_torch(output, found, like)
    else:
        lines = write(output, found)
    for line in lines:
        say(line)


def _by_suffix(output: Path) -> str:
    found = next((name for name, suffixes in FORMATS.items() if output.suffix in suffixes), "")
    if not found:
        known = ", ".join(f"{' or '.join(suffixes)} ({name})" for name, suffixes in FORMATS.items() if suffixes)
        raise ConfigError(f"--output={output}: its suffix names no format; give {known}")
    return found
