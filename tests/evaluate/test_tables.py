"""The published projects' tables of a report: chosen by name, made from the same pass as every other figure."""

import contextlib
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.evaluate import slices, tables
from jaxseg.losses import compose as losses
from jaxseg.metrics import counts, projects
from jaxseg.metrics.regions import labels_from_regions
from jaxseg.models import Outputs
from jaxseg.programs import kept as programs
from jaxseg.train import mesh as meshes
from jaxseg.types import ConfigError

N, SIDE = 5, 16


class Echo:
    """A network that answers with logits hidden in the image's channels."""

    def apply(self, params, state, image, run=None):
        return Outputs(image.astype(jnp.float32)), state


class Store:
    """As much of a cache as a scorer needs: images are logits."""

    def __init__(self, classes: int):
        rng = np.random.default_rng(classes)
        self.labels = tuple(f"class {k}" for k in range(1, max(classes, 2)))
        self.masks = rng.integers(0, max(classes, 2), (N, SIDE, SIDE)).astype(np.uint8)
        self.masks[0] = 0
        self.images = rng.normal(size=(N, SIDE, SIDE, classes)).astype(np.float32)
        self.rows = [{"foreground": [int(m.sum())]} for m in self.masks]


def scored(classes: int, monkeypatch, **options):
    store = Store(classes)

    def batches(cache, rows, *, batch_size, process_index, process_count):
        def padded():
            for start in range(0, len(rows), batch_size):
                index = np.resize(rows[start : start + batch_size], batch_size)
                weight = (np.arange(batch_size) < len(rows) - start).astype(np.float32)
                yield {"image": store.images[index], "mask": store.masks[index], "index": index, "weight": weight}

        return contextlib.nullcontext(padded())

    monkeypatch.setattr(slices.pipeline, "eval_batches", batches)
    scorer = slices.SliceScorer(
        Echo(),
        losses.build((("dice", 1.0),)),
        thresholds=(0.4, 0.5),
        mesh=meshes.make(1),
        batch_size=2,
        dtype="float32",
        **{"threshold": 0.5, **options},
    )
    return store, scorer.run({}, {}, store, np.arange(N))


def test_the_confusion_of_a_pass_counts_every_pixel_of_every_image_once(monkeypatch):
    store, found = scored(4, monkeypatch)
    expected = counts.confusion(store.images.argmax(-1), store.masks, 4)
    np.testing.assert_array_equal(found.confusion, expected)
    lines, figures = tables.TABLES["classes"](found, 0.5, list(store.labels))
    assert figures == projects.class_table(expected, ("background", *store.labels)) and len(lines) == 5
    assert lines[-1].startswith("Col Ave")


@pytest.mark.usefixtures("without_jaxs_cache")
def test_a_program_of_an_earlier_start_scores_the_same_and_is_not_traced(monkeypatch, tmp_path):
    expected, traced, apply = scored(4, monkeypatch)[1].confusion, [], Echo.apply
    monkeypatch.setenv(programs.SWITCH, "on")
    monkeypatch.setattr(programs.files, "cache_root", lambda: tmp_path)
    monkeypatch.setattr(Echo, "apply", lambda *of: traced.append(1) or apply(*of))
    for traces in (1, 1, 2):
        kept = programs.Kept({"thresholds": traces})
        np.testing.assert_array_equal(scored(4, monkeypatch, kept=kept)[1].confusion, expected)
        assert len(traced) == traces


def test_a_full_device_scores_smaller_batches_to_the_same_counts(monkeypatch, capsys):
    run, sizes = slices.SliceScorer._run, []

    def full(self, *rest):
        sizes.append(self.batch_size)
        if self.batch_size > 1:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return run(self, *rest)

    expected = scored(4, monkeypatch)[1].confusion
    monkeypatch.setattr(slices.SliceScorer, "_run", full)
    np.testing.assert_array_equal(scored(4, monkeypatch)[1].confusion, expected)
    assert sizes == [2, 1] and "memory is full: scores 1 images at once" in capsys.readouterr().out
    monkeypatch.setattr(slices.SliceScorer, "_run", mock.Mock(side_effect=jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED")))
    with pytest.raises(ConfigError, match="config.eval.batch_size=1: does not fit"):
        scored(4, monkeypatch)


def test_one_logit_has_a_class_table_at_the_headline_threshold(monkeypatch):
    store, found = scored(1, monkeypatch)
    assert found.confusion is None
    for threshold in (0.4, 0.5):
        guess = np.asarray(jax.nn.sigmoid(store.images[..., 0])) >= threshold
        expected = counts.confusion(guess.astype(int), store.masks, 2)
        figures = tables.TABLES["classes"](found, threshold, ["bleed"])[1]
        assert figures == projects.class_table(expected, ("background", "bleed"))


def test_one_class_with_a_softmax_is_scored_as_one_logit_at_every_threshold(monkeypatch):
    store, found = scored(2, monkeypatch)
    assert found.thresholds == (0.4, 0.5)
    foreground = np.asarray(jax.nn.softmax(store.images, -1))[..., 1]
    for threshold in found.thresholds:
        expected = counts.count(foreground >= threshold, store.masks, 1)
        for ours, theirs in zip(found.at(threshold), expected):
            np.testing.assert_array_equal(ours, theirs)
    for name in ("ich", "classes", "effisegnet"):
        assert tables.TABLES[name](found, 0.5, list(store.labels))[0]


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8])
def test_regions_of_slices_are_cut_at_the_headline_threshold(monkeypatch, threshold):
    order = (0, 2, 1, 1)  # of any, of the first class
    options = {"order": order, "target": lambda mask: jnp.stack([mask > 0, mask == 1], -1), "threshold": threshold}
    store, found = scored(2, monkeypatch, **options)
    labels = labels_from_regions(np.asarray(jax.nn.sigmoid(store.images)), order, threshold)
    np.testing.assert_array_equal(found.confusion, counts.confusion(labels, store.masks, 3))
    assert found.thresholds == () and len(found.counts) == 1


def test_each_table_is_the_projects_own_figures(monkeypatch):
    store, one = scored(1, monkeypatch)
    assert tables.TABLES["effisegnet"](one, 0.5, ["polyp"])[1] == projects.effisegnet_scores(one.at(0.5))
    assert tables.TABLES["ich"](one, 0.5, ["bleed"])[1] == {str(t): projects.ich_scores(one.at(t)) for t in (0.4, 0.5)}
    store, two = scored(3, monkeypatch)
    lines, figures = tables.TABLES["left_right"](two, 0.5, ["right lung", "left lung"])
    expected = projects.left_right_scores(two.at(0.5))
    assert figures == {"right lung": expected["left"], "left lung": expected["right"], "mean": expected["mean"]}
    assert f"right lung {expected['left']:.4f}" in lines[0]


def test_a_table_that_does_not_fit_the_classes_is_refused_before_training():
    tables.check_tables(("ich", "classes", "effisegnet"), ("polyp",))
    with pytest.raises(ConfigError, match="did you mean classes"):
        tables.check_tables(("clases",), ("polyp",))
    with pytest.raises(ConfigError, match="left_right.*2 classes.*has 1"):
        tables.check_tables(("left_right",), ("polyp",))
