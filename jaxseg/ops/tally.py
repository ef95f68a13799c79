"""Counting multiply-accumulates while a network is traced.

Every operation of `ops` (and every elementwise product that torchprofile would count) reports its cost here when it is called.
Outside `counting()` a report costs one lookup. `models.summary` uses this around `jax.eval_shape`, so that the counts do not
depend on the lowering that a backend uses.
"""

import contextlib
import contextvars
from collections import Counter
from collections.abc import Iterator

_active: contextvars.ContextVar[Counter | None] = contextvars.ContextVar("jaxseg_tally", default=None)


@contextlib.contextmanager
def counting() -> Iterator[Counter]:
    """Collect the reports within the block: a Counter {kind: multiply-accumulates, or elements for 'mul', 'norm', ...}.

    'conv', 'conv_transpose', 'linear' and 'matmul' are actual multiply-accumulates; 'conv_transpose_overcount', 'norm', 'mul',
    'mean' and 'resize' are what torchprofile 0.0.4 counts in addition.
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
