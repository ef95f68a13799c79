"""What one process does for all of them."""

import jax
import numpy as np
import pytest

from jaxseg.train.processes import agree
from jaxseg.types import DataError, JaxsegError


@pytest.mark.parametrize("index", [0, 1])
def test_work_of_the_first_process_ends_all_with_its_exit_code(monkeypatch, index):
    done = []

    def work(what):
        done.append(what)
        raise DataError("broken", "DATA_HEADER")

    def broadcast(code):  # what process 0 sends
        assert index or code == 65
        return np.int32(65)

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: index)
    monkeypatch.setattr(agree.multihost_utils, "broadcast_one_to_all", broadcast)
    with pytest.raises(JaxsegError) as error:
        agree.on_first(lambda: work("check"))
    assert error.value.exit_code == 65 and done == [["check"], []][index]
