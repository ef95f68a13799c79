"""One call of the program, and the flags that each mode takes."""

import functools
from pathlib import Path
from typing import Any, NamedTuple

from jaxseg.types import ConfigError


class Call(NamedTuple):
    """One call of the program: the resolved config (None for modes that need none), the run's folder, and the other flags."""

    config: Any
    workdir: Path
    checkpoint: str | None = None
    input: str | None = None
    output: str | None = None
    name: str = ""
    overwrite: bool = False
    dicom_seg: bool = False
    format: str = ""
    licence: str = ""
    extend: bool = False


def takes(*flags: str):
    """Decorate a mode with the flags that it reads besides --config and --workdir; all others are refused, not ignored."""

    def refusing(mode):
        @functools.wraps(mode)
        def checked(call: Call) -> int | None:
            for flag, value in call._asdict().items():
                if value and flag not in ("config", "workdir", *flags):
                    known = [name for name, others in TAKEN.items() if flag in others and (name, flag) != ("train", "checkpoint")]
                    raise ConfigError(
                        f"--{flag}: can be given with {' and '.join(f'--mode={name}' for name in known)}, not with "
                        f"--mode={mode.__name__}; leave it out"
                    )
            return mode(call)

        TAKEN[mode.__name__] = flags
        return checked

    return refusing


TAKEN: dict[str, tuple[str, ...]] = {}  # mode -> its flags
