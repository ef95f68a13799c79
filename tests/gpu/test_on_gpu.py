"""On a GPU: every kernel equals its plain twin at real sizes, twice with the same bits. Skipped elsewhere."""

import jax
import numpy as np
import pytest

from jaxseg.bench.gpu_rows import gpu_rows

ROWS = gpu_rows()


@pytest.fixture(autouse=True)
def _gpu():
    if jax.default_backend() != "gpu":
        pytest.skip("needs a GPU")


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.name)
def test_kernel_equals_its_twin_and_itself(row):
    call = row.ours()
    found, again, wanted = (np.asarray(f(), np.float32) for f in (call, call, row.plain()))
    np.testing.assert_array_equal(found, again)
    # bfloat16 keeps 8 bits: the result's own rounding on both sides, and the twin may round intermediates too
    assert np.abs(found - wanted).max() <= 4e-2 * np.abs(wanted).max()
