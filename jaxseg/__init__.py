"""jaxseg: training and inference for medical image segmentation in JAX.

Importing this package reads no file and touches no device. `jaxseg.load` opens a trained run, `jaxseg.create_model` builds a
network; the names below are looked up on first use. The command line is `jaxseg` (or `python -m jaxseg.main`); the parts are
`jaxseg.models` (networks), `jaxseg.ops` (compiled kernels), `jaxseg.losses`, `jaxseg.augment`, `jaxseg.optim`, `jaxseg.metrics`.
"""

import importlib

__version__ = "0.2.0.dev0"

_PLACES = {
    "load": "api",
    "dice": "api",
    "hd95": "metrics.surface",
    "create_model": "models",
    "list_models": "models",
    "sliding_window": "infer.window",
    "read_volume": "data.formats.volumes",
}
__all__ = ["__version__", *_PLACES]


def __getattr__(name: str):
    if name not in _PLACES:
        raise AttributeError(f"module 'jaxseg' has no attribute {name!r}; it offers {', '.join(_PLACES)}")
    return getattr(importlib.import_module(f"jaxseg.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PLACES])
