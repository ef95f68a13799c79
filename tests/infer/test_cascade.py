"""The cascade against loops in numpy, with networks whose right answer is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jaxseg.infer import cascade, tiles
from jaxseg.ops import coordinates, resize
from jaxseg.types import ConfigError, NonFiniteError

SHAPE, ROI, CROP = (23, 20, 18), (12, 10, 9), (8, 9, 6)  # few shapes: few programs to compile
LEVEL = 0.2537  # no interpolated 0/1 mask of these sizes takes this value


def finder(shrunk):
    """A region where channel 0 is above LEVEL; [1, *S, C] -> [1, *S, 2]."""
    return jnp.stack([jnp.full(shrunk.shape[:-1], LEVEL), shrunk[..., 0]], -1)


def echo(crops):
    """Channel 1 of the image and the three coordinates as four logits."""
    return crops[..., 1:]


def ripple(crops):
    """Negative logits that depend on where in the crop a voxel lies, so that overlapping crops disagree."""
    n = crops.shape[1:4]
    wave = jnp.cos(jnp.arange(n[0]))[:, None, None] + jnp.sin(jnp.arange(n[1]))[:, None] + jnp.arange(n[2]) / 7
    return crops[..., 1:] - wave[..., None] - 9


def volume_of(marks, shape=SHAPE, seed=0) -> np.ndarray:
    """Channel 0: the mask to find; channel 1: noise."""
    return np.stack([marks, np.random.default_rng(seed).normal(size=shape)], -1).astype(np.float32)


def spots(*boxes, shape=SHAPE) -> np.ndarray:
    mask = np.zeros(shape)
    for box in boxes:
        mask[tuple(slice(*b) for b in box)] = 1
    return mask


def numpy_shrunk(volume: np.ndarray, size) -> np.ndarray:
    """Trilinear, align_corners=False, voxel by voxel."""
    out = np.empty((*size, volume.shape[-1]))
    pairs = []
    for n, m in zip(volume.shape, size):
        at = np.maximum((np.arange(m) + 0.5) * n / m - 0.5, 0)
        low = np.minimum(np.floor(at).astype(int), n - 1)
        pairs.append((low, np.minimum(low + 1, n - 1), at - low))
    for index in np.ndindex(*size):
        value = 0
        for corner in np.ndindex(2, 2, 2):
            where = tuple(pairs[a][corner[a]][index[a]] for a in range(3))
            weight = np.prod([pairs[a][2][index[a]] if corner[a] else 1 - pairs[a][2][index[a]] for a in range(3)])
            value = value + weight * volume[where]
        out[index] = value
    return out


def numpy_centres(mask: np.ndarray, full, most: int, least: int, connectivity: int = 1):
    """(centres in full voxels, number of large regions) of a shrunk mask."""
    labels, count = ndimage.label(mask, ndimage.generate_binary_structure(3, connectivity))
    regions = [np.argwhere(labels == k) for k in range(1, count + 1)]
    regions.sort(key=lambda r: (-len(r), tuple(r[0])))  # argwhere: C order, so r[0] is the first voxel
    large = [r for r in regions if len(r) >= least][:most]
    used = large or ([np.argwhere(mask)] if mask.any() else [])
    if not used:
        return np.array([[(n - 1) / 2 for n in full]]), 0
    return np.array([[(c + 0.5) * n / m - 0.5 for c, n, m in zip(r.mean(0), full, mask.shape)] for r in used]), len(large)


def numpy_crops(image: np.ndarray, starts, size):
    for start in starts:
        crop = np.zeros((*size, image.shape[-1]), np.float32)
        for index in np.ndindex(*size):
            where = tuple(s + i for s, i in zip(start, index))
            if all(0 <= w < n for w, n in zip(where, image.shape)):
                crop[index] = image[where]
        yield crop


def numpy_merge(logits, starts, shape, merge="max", weights=None, activation="softmax"):
    """Voxel by voxel: a list of what each crop says there."""
    said = {}
    for values, start in zip(logits, starts):
        for index in np.ndindex(*values.shape[:3]):
            where = tuple(int(s + i) for s, i in zip(start, index))
            if all(0 <= w < n for w, n in zip(where, shape)):
                said.setdefault(where, []).append((values[index], 1 if weights is None else weights[index]))
    scores = np.zeros((*shape, logits[0].shape[-1]), np.float32)
    scores[..., 1:] = cascade.NEVER if merge == "max" else 0
    scores[..., 0] = {"softmax": 0 if merge == "max" else 1, "sigmoid": cascade.NEVER}[activation]
    for where, values in said.items():
        if merge == "max":
            scores[where] = np.max([v for v, _ in values], axis=0)
        else:
            chances = [w * np.exp(v - v.max()) / np.exp(v - v.max()).sum() for v, w in values]
            scores[where] = np.sum(chances, axis=0) / np.sum([w for _, w in values])
    covered = np.zeros(shape, bool)
    covered[tuple(np.array(list(said)).T)] = True
    return scores, covered


def check(volume, forward=ripple, *, most=3, least=4, exact=True, **options):
    """Run both and compare everything; returns the result."""
    ours = cascade.segment(
        finder, forward, volume, num_classes=4, roi_size=ROI, crop=CROP, max_instances=most, min_size=least, **options
    )
    with_place = np.concatenate([volume, np.asarray(coordinates.maps(volume.shape[:3]))], -1)
    shrunk = numpy_shrunk(with_place, ROI)
    assert np.abs(shrunk[..., 0] - LEVEL).min() > 1e-5, "this volume leaves the mask to rounding"
    centres, found = numpy_centres(shrunk[..., 0] > LEVEL, volume.shape[:3], most, least, options.get("connectivity", 1))
    assert ours.found == found and len(ours.centres) == len(centres)
    np.testing.assert_allclose(ours.centres, centres, atol=1e-4)
    starts = np.floor(ours.centres + 0.5).astype(int) - np.array(CROP) // 2  # a tie may round either way: take ours
    logits = [np.asarray(forward(crop[None])[0]) for crop in numpy_crops(with_place, starts, CROP)]
    merge = options.get("merge", "max")
    weights = tiles.weights(CROP, options.get("blend") or "cosine") if merge != "max" else None
    scores, covered = numpy_merge(logits, starts, volume.shape[:3], merge, weights, options.get("activation", "softmax"))
    np.testing.assert_array_equal(ours.covered, covered)
    np.testing.assert_allclose(ours.scores, scores, atol=0 if exact and merge == "max" else 1e-6)
    return ours


@pytest.mark.parametrize("density", [0.0, 0.08, 0.3])
def test_random_masks_equal_the_loops(density):
    for seed in range(3):
        blobs = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=SHAPE), 1)
        volume = volume_of(blobs > np.quantile(blobs, 1 - density), seed=seed)
        check(volume, exact=False)
        check(volume, exact=False, connectivity=3, most=2, batch=2, activation="sigmoid")


def test_regions_at_the_borders_come_back_where_they_were_cut_out():
    corners = spots(((0, 4), (0, 4), (0, 4)), ((18, 23), (15, 20), (12, 17)))
    ours = check(volume_of(corners), echo)
    assert ours.found == 2 and (np.asarray(ours.centres)[0] > 12).all()  # the larger one first
    starts = np.asarray(cascade.origin(ours.centres, CROP))
    assert starts[1].min() < 0 and (starts[0] + CROP > SHAPE).any()
    place = np.asarray(coordinates.maps(SHAPE))
    inside = np.asarray(ours.covered)
    np.testing.assert_array_equal(np.asarray(ours.scores)[inside][:, 1:], place[inside])  # coordinates of the full volume


def test_overlapping_crops_take_the_larger_logit_even_where_both_are_negative():
    near = spots(((6, 9), (6, 9), (6, 9)), ((11, 14), (9, 13), (8, 11)))
    ours = check(volume_of(near), exact=False)
    assert ours.found == 2 and (np.asarray(ours.scores)[np.asarray(ours.covered)] < 0).all()


@pytest.mark.parametrize("blend", [None, "constant", "gaussian"])
def test_probabilities_are_averaged_with_the_windows_weights(blend):
    near = spots(((6, 9), (6, 9), (6, 9)), ((11, 14), (9, 13), (8, 11)))
    ours = check(volume_of(near), merge="probability", blend=blend)
    np.testing.assert_allclose(np.sum(ours.scores, -1), 1, atol=1e-6)


def test_nothing_found_is_the_centre_of_the_volume():
    ours = check(volume_of(np.zeros(SHAPE)), echo)
    assert ours.found == 0
    np.testing.assert_array_equal(ours.centres, [[11, 9.5, 8.5]])


def test_small_regions_only_are_the_centroid_of_the_whole_mask():
    ours = check(volume_of(spots(((2, 5), (2, 5), (2, 5)), ((15, 18), (12, 15), (12, 15)))), echo, least=500)
    assert ours.found == 0 and len(ours.centres) == 1


def test_of_more_regions_than_wanted_the_largest_stay_and_of_equally_large_ones_the_first():
    four = spots(*(((x, x + 4), (y, y + 4), (6, 10)) for x in (2, 14) for y in (2, 14)))  # two pairs, alike in the shrunk volume
    ours = check(volume_of(four), echo)
    assert ours.found == 3
    (x0, y0, _), (x1, y1, _), (x2, y2, _) = ours.centres
    assert x0 == x1 != x2 and y0 < y1 and y2 < 10


def test_a_crop_larger_than_the_volume_returns_all_of_it():
    shape = tuple(n - 2 for n in CROP)
    volume = volume_of(spots(((1, 4), (2, 5), (1, 4)), shape=shape), shape)
    ours = check(volume, echo)
    assert np.asarray(ours.covered).all()
    np.testing.assert_array_equal(np.asarray(ours.scores)[..., 0], volume[..., 1])


def test_a_shift_of_the_content_shifts_the_result():
    mask = spots(((5, 9), (6, 10), (6, 9)), ((12, 15), (8, 11), (10, 13)))
    base = volume_of(mask)
    base[mask == 0] = 0  # nothing but the regions
    found = lambda result: np.where(np.asarray(result.covered), np.asarray(result.scores)[..., 0], 0)
    plain = check(base, echo)
    for shift in ((0, 2, 0), (0, -4, 4), (0, 6, -6)):  # whole voxels of the shrunk volume
        moved = check(np.roll(base, shift, (0, 1, 2)), echo)
        np.testing.assert_allclose(moved.centres, plain.centres + np.float32(shift), atol=1e-4)
        np.testing.assert_array_equal(found(moved), np.roll(found(plain), shift, (0, 1, 2)))


def test_uncovered_voxels_are_background_for_certain():
    ours = check(volume_of(spots(((2, 5), (2, 5), (2, 5)))), echo)
    outside = ~np.asarray(ours.covered)
    chances = np.asarray(jax.nn.softmax(ours.scores, -1))[outside]
    np.testing.assert_array_equal(chances, np.broadcast_to([1, 0, 0, 0], chances.shape))
    assert outside.any() and jax.nn.sigmoid(cascade.NEVER) == 0


traces, inputs = [], []  # of the two networks below


def seen_finder(shrunk):
    traces.append("find")
    jax.debug.callback(lambda x: inputs.append(x), shrunk)
    return finder(shrunk)


def seen_echo(crops):
    traces.append("take")
    jax.debug.callback(lambda x: inputs.append(x), crops)
    return echo(crops)


def test_volumes_of_many_sizes_share_two_programs_and_only_crops_that_were_found_are_computed():
    inputs.clear()
    for n in (17, 23, 32):
        two = (((2, 7), (2, 7), (2, 7)), ((11, 16), (11, 16), (11, 16)))
        for regions in ((), two[:1], two):
            before = len(inputs)
            result = cascade.segment(
                seen_finder,
                seen_echo,
                volume_of(spots(*regions, shape=(n, 20, 17)), (n, 20, 17)),
                num_classes=4,
                roi_size=ROI,
                crop=CROP,
                min_size=1,
            )
            jax.effects_barrier()
            assert result.found == len(regions) and len(inputs) - before == 1 + max(len(regions), 1)
    assert traces.count("find") == 1 and traces.count("take") <= 2  # a loop's body may be traced twice for one program


def test_the_networks_inputs_in_training_are_those_of_inference():
    volume = volume_of(spots(((1, 6), (2, 6), (3, 9))))
    inputs.clear()
    result = cascade.segment(seen_finder, seen_echo, volume, num_classes=4, roi_size=ROI, crop=CROP, min_size=1)
    jax.effects_barrier()
    roi, crop = (x[0] for x in inputs)
    full = np.concatenate([volume, np.stack(np.meshgrid(*(np.linspace(0, 1, n) for n in SHAPE), indexing="ij"), -1)], -1)
    np.testing.assert_allclose(roi, jax.jit(cascade.roi_input, static_argnums=1)(volume, ROI), atol=1e-6)
    np.testing.assert_allclose(roi, jax.jit(resize, static_argnums=1)(full.astype(np.float32)[None], ROI)[0], atol=1e-6)
    np.testing.assert_array_equal(crop, jax.jit(cascade.crop_at, static_argnums=2)(volume, result.centres[0], CROP))
    start = np.asarray(cascade.origin(result.centres[0], CROP))
    np.testing.assert_array_equal(crop, next(numpy_crops(full.astype(np.float32), [start], CROP)))


def test_a_crops_middle_voxel_is_the_nearest_to_its_centre():
    for size in (4, 5):
        for c, nearest in ((0.0, 0), (0.49, 0), (0.5, 1), (1.5, 2), (-0.5, 0), (-0.6, -1)):
            assert np.asarray(cascade.origin(np.full(3, c), (size,) * 3))[0] == nearest - size // 2


@pytest.mark.parametrize("shape,size", [((7, 9, 5), 4), ((5, 4, 3), 7), ((8, 8, 8), 8)])
def test_roi_targets_are_torchs_nearest_voxels(shape, size):
    torch = pytest.importorskip("torch", reason="parity needs the extra [parity]")
    mask = np.random.default_rng(0).integers(0, 4, shape)
    whole = torch.from_numpy((mask > 0)[None, None].astype(np.float32))
    theirs = torch.nn.functional.interpolate(whole, (size,) * 3, mode="nearest")
    ours = cascade.roi_target(mask, size)
    assert ours.dtype == jnp.int32
    np.testing.assert_array_equal(ours, theirs[0, 0].numpy())


@pytest.mark.parametrize(
    "roi,second,who",
    [(lambda x: finder(x) * jnp.nan, echo, "ROI"), (finder, lambda x: echo(x).at[0, 0, 0, 0].set(jnp.inf), "second")],
)
@pytest.mark.fault("P5")
def test_a_network_that_returns_nan_is_named(roi, second, who):
    with pytest.raises(NonFiniteError, match=who):
        cascade.segment(roi, second, volume_of(np.zeros(SHAPE)), num_classes=4, roi_size=ROI, crop=CROP)


@pytest.mark.parametrize(
    "options,words",
    [
        (dict(num_classes=3), "num_classes=3"),
        (dict(merge="mean"), "merge"),
        (dict(blend="gaussian"), "no weights"),
        (dict(merge="probability", blend="gauss"), "did you mean gaussian"),
        (dict(roi_size=(8, 8)), "roi_size"),
        (dict(crop=0), "crop"),
        (dict(max_instances=0), "max_instances"),
        (dict(num_classes=1), "sigmoid"),
        (dict(connectivity=4), "connectivity"),
        (dict(include_coordinates=False), "num_classes"),
        (dict(roi_forward=lambda x: x[:, 1:]), "ROI network"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(options, words):
    given = {"roi_forward": finder, "forward": echo, "num_classes": 4, "roi_size": ROI, "crop": CROP, **options}
    with pytest.raises(ValueError, match=words):
        cascade.segment(volume=volume_of(np.zeros(SHAPE)), **given)


def test_integer_volumes_are_refused():
    with pytest.raises(ConfigError, match="int16"):
        cascade.segment(finder, echo, np.zeros((8, 8, 8, 2), np.int16), num_classes=4)
