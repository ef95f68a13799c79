"""Contract tests for parts of your own: they check on small inputs the properties on which the rest of jaxseg relies.

Each function takes a part, or its path "module:Name", and raises one AssertionError that states what was expected, what was
found, and where to look. Call them from your own tests; docs/plugins.md has an example of each kind of part.
"""

from jaxseg.testing.datasets import check_dataset, check_reader
from jaxseg.testing.losses import check_loss
from jaxseg.testing.metrics import check_metric
from jaxseg.testing.networks import check_network
from jaxseg.testing.optimizers import check_optimizer, check_schedule
from jaxseg.testing.transforms import check_host_transform, check_transform

__all__ = [
    "check_dataset",
    "check_host_transform",
    "check_loss",
    "check_metric",
    "check_network",
    "check_optimizer",
    "check_reader",
    "check_schedule",
    "check_transform",
]
