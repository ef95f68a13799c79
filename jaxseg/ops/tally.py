"""Counting multiply-accumulates while a network is traced.

Every operation of `ops` (and every elementwise product that torchprofile would count) reports itself here as it is
called. Outside `counting()` a report costs one lookup. Used by `models.summary` around `jax.eval_shape`, so that the
count is of the mathematics, whichever lowering a backend takes.
"""

import contextlib
import contextvars
from collections import Counter
from collections.abc import Iterator

_active: contextvars.ContextVar[Counter | None] = contextvars.ContextVar("jaxseg_tally", default=None)


@contextlib.contextmanager
def counting() -> Iterator[Counter]:
    """Collect reports of the block into a Counter: kind -> multiply-accumulates (or elements, for 'mul', 'norm', ...).

    Kinds: 'conv', 'conv_transpose', 'linear', 'matmul' are true multiply-accumulates. 'conv_transpose_overcount',
    'norm', 'mul', 'mean', 'resize' are what torchprofile 0.0.4 adds to them.
    """
    counter: Counter = Counter()
    token = _active.set(counter)
    try:
        yield counter
    finally:
        _active.reset(token)


def add(kind: str, amount: int) -> None:
    """Report `amount` operations of `kind` to the surrounding `counting()`, if there is one."""
    counter = _active.get()
    if counter is not None:
        counter[kind] += int(amount)
