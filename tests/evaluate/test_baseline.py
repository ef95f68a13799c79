"""A network that is no better than intensity alone is named, with what to type."""

from types import SimpleNamespace

import numpy as np

from jaxseg.evaluate import baseline
from jaxseg.utils.turns import CaseShare


def test_processes_read_a_share_of_the_examples_each_and_find_what_one_finds(monkeypatch):
    random, read = np.random.default_rng(0), []
    images, masks = random.normal(size=(5, 4, 4, 4, 2)).astype(np.float32), random.integers(0, 3, (5, 4, 4, 4)).astype(np.uint8)
    span = np.stack([images.min((1, 2, 3)), images.max((1, 2, 3))], -1)
    volumes = SimpleNamespace(
        labels=("a", "b"),
        regions=(),
        recipe=SimpleNamespace(modalities=("t1", "t2"), channels=2),
        rows=SimpleNamespace(columns={"span": span}),
        image=lambda i: (read.append(int(i)), images[i])[1],
        mask=lambda i: masks[i],
    )
    slices = SimpleNamespace(labels=("a", "b"), images=np.uint8(images[:, 0] * 40 + 128), masks=masks[:, 0], span=None, value=str)
    rows, find = np.arange(5), {baseline.of_volumes: volumes, baseline.of_slices: slices}
    alone = {of: of(store, rows) for of, store in find.items()}
    assert read == list(range(5))
    counted = []
    monkeypatch.setattr(baseline, "summed", lambda table: (counted.append(table), sum(counted))[1])
    for of, store in find.items():
        counted.clear()
        for index in range(2):
            monkeypatch.setattr(baseline, "share", lambda index=index: CaseShare(index, 2))
            found = of(store, rows)
        assert found == alone[of] and len(counted) == 2 and counted[0].sum() > counted[1].sum() > 0
    assert read == [*range(5), 0, 2, 4, 1, 3]


def test_a_network_below_the_best_intensity_rule_is_told_what_to_change():
    figures = {"threshold": 0.2, "band": 0.4}
    assert baseline.verdict(0.41, figures, steps=9, root="a") == []
    (line,) = baseline.verdict(0.0, figures, steps=192, root="my data")
    assert line.startswith("WARNING mean Dice 0.0000 after 192 steps is not above that of the best intensity band, 0.4000")
    assert "jaxseg plan folder --config.data.root='my data' --config.plan.minutes=60 --output=longer.py" in line
    assert "jaxseg plan" not in baseline.verdict(0.0, figures, steps=192, root="")[0]
