"""Find config files by path or by name.

An installed jaxseg has the files of configs/ in its package (jaxseg/recipes/configs); a checkout has them at its top. Only
this module knows the difference; the library itself imports no config.
"""

import sys
from pathlib import Path

from jaxseg.types import ConfigError
from jaxseg.utils.files import write_atomic
from jaxseg.utils.lookup import neighbours

_LIBRARY = Path(__file__).parent.parent
RECORDED = _LIBRARY / "recorded.py"  # the config file whose argument is a run folder


def is_run(path: Path) -> bool:
    """Whether a path is a run folder, whose record is a config too."""
    return (path / "run.json").is_file()


def folder() -> Path:
    """The folder with the config files that come with jaxseg."""
    packed = _LIBRARY / "recipes" / "configs"
    return packed if packed.is_dir() else _LIBRARY.parent / "configs"


def names() -> list[str]:
    """Sorted names of the config files that come with jaxseg."""
    return sorted(p.stem for p in folder().glob("[a-z]*.py"))


def about() -> dict[str, str]:
    """Name -> first line of each config file that comes with jaxseg, that for the user's own data first."""
    found = {name: (folder() / f"{name}.py").read_text("utf-8").partition("\n")[0].strip('"') for name in names()}
    return {"folder": found.pop("folder"), **found}


def find(given: str) -> Path:
    """The config file of a path or name: an existing file, else one that comes with jaxseg.

    Args:
      given: "configs/folder.py", "folder.py" or "folder", without arguments.
    Returns:
      The path of the file.
    Raises:
      ConfigError: there is no such file and no config of this name.
    """
    path = Path(given)
    if given and path.exists():
        return path
    own = folder() / f"{path.stem}.py"
    if path.parent.name in ("", "configs") and path.suffix in ("", ".py") and path.stem in names():
        return own
    near = neighbours(path.stem, names())
    hint = f"did you mean {' or '.join(near)}?" if near else f"jaxseg comes with {', '.join(names())}"
    raise ConfigError(f"--config={given}: no file and no config has this name; {hint}")


def importable() -> None:
    """Make `from configs._base import base` work in config files, wherever Python was started."""
    parent = str(folder().parent)
    if parent not in sys.path:
        sys.path.append(parent)


def copy(name: str, to: Path) -> Path:
    """Copy a config file that comes with jaxseg.

    Args:
      name: name of the config.
      to: a folder, or the file to write.
    Returns:
      The path of the copy.
    Raises:
      ConfigError: there is no such config, or the file exists.
      StorageError: the file cannot be written.
    """
    source = find(name)
    target = to / source.name if to.is_dir() else to
    if target.exists():
        raise ConfigError(f"{target} exists; give another name with --output")
    write_atomic(target, source.read_bytes())
    return target
