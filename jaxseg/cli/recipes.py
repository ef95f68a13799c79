"""Where config files lie: named by path, or by name from anywhere.

An installed jaxseg holds the files of configs/ in a folder of its own (jaxseg/recipes/configs); a checkout has them at its top.
Only this module knows; the library imports no config.
"""

import sys
from pathlib import Path

from jaxseg.types import ConfigError
from jaxseg.utils.files import write_atomic
from jaxseg.utils.lookup import neighbours

_LIBRARY = Path(__file__).parent.parent


def folder() -> Path:
    """The folder with the config files that come with jaxseg."""
    packed = _LIBRARY / "recipes" / "configs"
    return packed if packed.is_dir() else _LIBRARY.parent / "configs"


def names() -> list[str]:
    """Names of the config files that come with jaxseg, sorted."""
    return sorted(p.stem for p in folder().glob("[a-z]*.py"))


def find(given: str) -> Path:
    """The config file that a path or a name means: a file that is there, else one that comes with jaxseg.

    Args:
      given: "configs/folder.py", "folder.py" or "folder", without arguments.
    Raises:
      ConfigError: neither a file nor a known name.
    """
    path = Path(given)
    if given and path.exists():
        return path
    own = folder() / f"{path.stem}.py"
    if path.parent.name in ("", "configs") and path.suffix in ("", ".py") and path.stem in names():
        return own
    near = neighbours(path.stem, names())
    hint = f"did you mean {' or '.join(near)}?" if near else f"jaxseg comes with {', '.join(names())}"
    raise ConfigError(f"--config={given}: no such file, and no config of this name: {hint}")


def importable() -> None:
    """Let config files import what they share (`from configs._base import base`), wherever Python was started."""
    parent = str(folder().parent)
    if parent not in sys.path:
        sys.path.append(parent)


def copy(name: str, to: Path) -> Path:
    """Copy a config file that comes with jaxseg.

    Args:
      name: of the config.
      to: a folder, or a file to write.
    Returns:
      the file that was written.
    Raises:
      ConfigError: no such config, or the file exists.
      StorageError: it cannot be written.
    """
    source = find(name)
    target = to / source.name if to.is_dir() else to
    if target.exists():
        raise ConfigError(f"{target} exists; give another name with --output")
    write_atomic(target, source.read_bytes())
    return target
