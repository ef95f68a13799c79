"""Eight devices share the windows of a volume, the slices of a case and the batches of a validation: each computes an eighth."""

import jax.numpy as jnp
import numpy as np
import pytest

from configs._base import base
from jaxseg.bench import collectives
from jaxseg.evaluate.slices import SliceScorer
from jaxseg.infer import network as networks
from jaxseg.infer import window
from jaxseg.losses import compose as losses
from jaxseg.models import create_model, functional
from jaxseg.train import mesh as meshes

pytestmark = pytest.mark.usefixtures("unoptimised")  # the law holds whatever XLA makes of the program


@pytest.fixture(scope="module")
def parts():
    return functional.split(create_model("unet2d_test", num_classes=2))


def exchanged_and_work(compiled) -> tuple[list[collectives.Collective], float]:
    return collectives.of(compiled), compiled.cost_analysis()["flops"]


def test_windows_and_slices_with_the_default_numbers_are_spread_and_logits_alone_are_gathered(parts):
    network, params, state = parts
    infer = base().infer
    forwards = [networks.Forward(network, num_classes=2, batch=batch) for batch in (infer.windows, infer.batch_size, 1)]
    assert [forward.batch for forward in forwards] == [8, 8, 1]
    volume = np.zeros((1, 40, 40, network.merge(params, state).in_channels), np.float32)
    found = []
    for forward in forwards:
        n, size = forward.batch, (16, 16)
        apply = forward.mirrored([forward.place(params, state)])
        at, counts = jnp.zeros((2, n, 3), jnp.int32), jnp.ones((2, n))
        num, den = window._empty(1, (40, 40), 2)
        lowered = window._accumulated.lower(apply, volume, jnp.ones(size), at, counts, jnp.int32(2), num, den)
        found.append(exchanged_and_work(lowered.compile()))
    (moved, work), _, (kept, single) = found
    assert {c.kind for c in moved} == {"all-gather"} and all(c.numbers <= 8 * 16 * 16 * 2 for c in moved), moved  # K = 2 logits
    assert not kept and work < 1.2 * single  # eight windows are as much work for each device as one is for one
    images = np.zeros((8, 16, 16, volume.shape[-1]), np.float32)
    whole = networks.WholeImages(forwards[1])
    compiled = whole._run.lower(forwards[1].mirrored([forwards[1].place(params, state)]), images).compile()
    moved, work = exchanged_and_work(compiled)
    assert {c.kind for c in moved} == {"all-gather"} and all(c.numbers <= 8 * 16 * 16 * 2 for c in moved), moved
    assert work < 1.2 * single


@pytest.mark.full
def test_each_device_scores_its_share_of_a_validation_batch(parts):
    network, params, state = parts
    work = []
    for devices in (8, 1):
        mesh = meshes.make(devices)
        scorer = SliceScorer(
            network,
            losses.build((("dice", 1.0),)),
            thresholds=(0.5,),
            threshold=0.5,
            mesh=mesh,
            batch_size=meshes.rounded(base().eval.batch_size, mesh),
            dtype="float32",
        )
        n, size = 8, (16, 16)
        image = np.zeros((n, *size, network.merge(params, state).in_channels), np.float32)
        batch = {"image": image, "mask": np.zeros((n, *size), np.uint8), "index": np.arange(n), "weight": np.ones(n, np.float32)}
        compiled = scorer._score.lower(params, state, meshes.put(batch, mesh)).compile()
        moved, flops = exchanged_and_work(compiled)
        work.append(flops)
        if devices == 8:  # of all pictures the labels, for the figures; sums
            gathered = [c for c in moved if c.kind != "all-reduce"]
            assert {c.kind for c in gathered} <= {"all-gather"} and all(c.numbers <= n * 16 * 16 for c in gathered), moved
    assert work[0] < 0.2 * work[1]
