"""Drawn pictures and masks for tests of layouts, and how bad ones are refused."""

import numpy as np
import pytest
from PIL import Image

from jaxseg.data.store.cases import read_case
from jaxseg.types import DataError

RNG = np.random.default_rng(0)


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, np.uint8)).save(path, **options)


def square(top, left, side=8, size=(32, 48), value=255):
    mask = np.zeros(size, np.uint8)
    mask[top : top + side, left : left + side] = value
    return mask


def masks_of(data):
    return {case.id: next(read_case(data, case)).mask for case in data.cases}


def refused(code, call, *args, match="", **kwargs):
    with pytest.raises(DataError, match=match) as caught:
        call(*args, **kwargs)
    assert caught.value.code == code, caught.value
    return str(caught.value)
