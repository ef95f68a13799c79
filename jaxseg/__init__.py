"""jaxseg: training and inference for medical image segmentation in JAX.

Importing this package reads no file and touches no device. The doors are
`python -m jaxseg.main` (command line), `jaxseg.models` (networks), `jaxseg.ops` (compiled kernels),
`jaxseg.losses`, `jaxseg.metrics`.
"""

__version__ = "0.2.0.dev0"
