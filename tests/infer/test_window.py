"""Sliding windows: positions, weights, equality with MONAI, accumulators, mirroring."""

import re
import types
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.infer import network as networks
from jaxseg.infer import tiles, tta, window
from jaxseg.types import ConfigError, DataError, StorageError

TOLERANCE = 1e-5  # float32 sums of at most 27 windows of logits of size 1
_kernel = np.random.default_rng(0).normal(0, 0.3, (3, 3, 3, 2, 3)).astype(np.float32)


def conv(windows):
    """A network with a border: a fixed 3x3(x3) convolution with zero padding, tanh; [n, *S, 2] -> [n, *S, 3]."""
    rank = windows.ndim - 2
    letters = "DHW"[3 - rank :]
    kernel = jnp.asarray(_kernel if rank == 3 else _kernel[1])
    return jnp.tanh(
        jax.lax.conv_general_dilated(
            windows.astype(jnp.float32),
            kernel,
            (1,) * rank,
            "SAME",
            dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
        )
    )


def image(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def with_monai(volume: np.ndarray, roi, **options) -> np.ndarray:
    """MONAI's result of the same network."""
    torch = pytest.importorskip("torch", reason="parity needs the extra [parity]")
    inferers = pytest.importorskip("monai.inferers", reason="parity needs the extra [parity]")
    rank = volume.ndim - 2
    kernel = torch.from_numpy(np.moveaxis(_kernel if rank == 3 else _kernel[1], (-1, -2), (0, 1)).copy())
    run = getattr(torch.nn.functional, f"conv{rank}d")
    out = inferers.sliding_window_inference(
        torch.from_numpy(np.moveaxis(volume, -1, 1).copy()), roi, 3, lambda x: torch.tanh(run(x, kernel, padding=1)), **options
    )
    return np.moveaxis(out.numpy(), 1, -1)


def test_published_positions():
    def all_of(size, w, overlap, rule="monai"):
        return [tiles.starts(n, w, overlap, rule) for n in size]

    brain = (240, 155)
    assert all_of(brain, 128, 0.1) == [[0, 112], [0, 27]]
    assert all_of(brain, 128, 0.25) == [[0, 96, 112], [0, 27]]
    assert all_of(brain, 128, 0.5) == [[0, 64, 112], [0, 27]]
    assert all_of(brain, 128, 0.7) == [[0, 38, 76, 112], [0, 27]]
    assert all_of(brain, 96, 0.5) == [[0, 48, 96, 144], [0, 48, 59]]
    assert all_of(brain, 128, 0.5, "nnunet") == [[0, 56, 112], [0, 27]]
    assert tiles.starts(110, 64, 0.5, "nnunet") == [0, 23, 46]
    assert tiles.starts(48, 40, 0.8, "nnunet") == [0, 8]  # nnUNetv2_predict -step_size 0.2
    assert tiles.starts(5, 1, 0.5, "nnunet") == tiles.starts(5, 1, 0.5) == [0, 1, 2, 3, 4]
    with pytest.raises(ConfigError, match="did you mean monai"):
        tiles.starts(9, 4, 0.5, "monay")


@pytest.mark.parametrize("rule", ["monai", "nnunet"])
def test_windows_cover_every_voxel_and_stay_inside(rule):
    for size in range(5, 40):
        for w in (1, 4, 5):
            for overlap in (0.0, 0.1, 0.5, 0.9):
                found = tiles.starts(size, w, overlap, rule)
                assert found[0] == 0 and found[-1] == size - w and found == sorted(found)
                assert rule == "nnunet" or len(set(found)) == len(found)  # steps below a voxel repeat in nnU-Net's rule
                assert all(b - a <= w for a, b in zip(found, found[1:]))


def test_published_weights():
    line = [0.001704, 0.034218, 0.252840, 0.687289]
    cube = tiles.weights((8, 8, 8), "gaussian")
    assert cube.min() == np.float32(1e-3) and cube.max() == pytest.approx(0.687289, abs=1e-6)
    np.testing.assert_allclose(cube[3, 4], [*line, *line[::-1]], atol=1e-6)
    assert tiles.weights((128,) * 3, "gaussian").max() == pytest.approx(0.9985, abs=1e-4)
    cosine, half = tiles.weights((8,), "cosine"), tiles.weights((8,), "half_cosine")
    np.testing.assert_allclose(cosine, cosine[::-1], rtol=1e-6)
    assert half[-1] == 1 and (np.diff(half) > 0).all()  # half a period


@pytest.mark.parametrize("shape", [(16,), (7, 9), (32, 32, 32)])
def test_nnunet_weights_are_scipys_filtered_impulse(shape):
    from scipy import ndimage

    impulse = np.zeros(shape)
    impulse[tuple(n // 2 for n in shape)] = 1
    bell = ndimage.gaussian_filter(impulse, [n / 8 for n in shape], mode="constant")
    bell = (bell / bell.max() * 10).astype(np.float16)
    bell[bell == 0] = bell[bell > 0].min()
    ours = tiles.weights(shape, "gaussian_nnunet")
    np.testing.assert_allclose(ours, bell.astype(np.float32), rtol=2e-3, atol=2.0**-24)  # one unit of float16


@pytest.mark.parametrize("blend", ["constant", "gaussian"])
@pytest.mark.parametrize(
    "shape,roi,overlap",
    [
        ((2, 9, 13, 11, 2), (8, 8, 8), 0.25),
        ((1, 9, 13, 11, 2), (8, 8, 8), 0.5),
        ((1, 9, 13, 11, 2), (8, 8, 8), 0.7),
        ((1, 5, 13, 4, 2), (8, 8, 8), 0.25),
        ((1, 3, 5, 7, 2), (8, 8, 8), 0.5),
        ((2, 37, 21, 2), (16, 12), 0.3),
        ((1, 7, 40, 2), (16, 12), 0.0),
    ],
)
def test_equals_monai(shape, roi, overlap, blend):
    volume = image(*shape)
    ours = window.sliding_window(conv, volume, window=roi, num_classes=3, overlap=overlap, blend=blend, accumulator="device")
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, with_monai(volume, roi, overlap=overlap, mode=blend), atol=TOLERANCE)


def test_padding_takes_the_given_value_as_monai_does():
    volume = image(1, 5, 9, 2)
    ours = window.sliding_window(conv, volume, window=8, num_classes=3, pad_value=-2.5, accumulator="device")
    np.testing.assert_allclose(ours, with_monai(volume, (8, 8), overlap=0.25, cval=-2.5), atol=TOLERANCE)


@pytest.mark.parametrize("positions", ["monai", "nnunet"])
@pytest.mark.parametrize("blend", ["constant", "gaussian", "gaussian_nnunet", "cosine", "half_cosine"])
def test_a_pointwise_network_does_not_notice_the_windows(positions, blend):
    volume = image(1, 19, 23, 2)
    ours = window.sliding_window(
        jnp.sin, volume, window=(8, 8), num_classes=2, overlap=0.4, positions=positions, blend=blend, accumulator="device"
    )
    np.testing.assert_allclose(ours, np.sin(volume), atol=TOLERANCE)


@pytest.mark.parametrize("blend", ["gaussian_nnunet", "half_cosine"])
def test_equals_the_definition_written_as_a_loop(blend):
    volume, roi = image(1, 19, 23, 2), (8, 6)
    weights = tiles.weights(roi, blend)[..., None].astype(np.float64)
    num, den = np.zeros((19, 23, 3)), np.zeros((19, 23, 1))
    for y, x in tiles.grid((19, 23), roi, (0.5, 0.5), "nnunet"):
        spot = slice(y, y + 8), slice(x, x + 6)
        num[spot] += weights * np.asarray(conv(volume[:, *spot])[0])
        den[spot] += weights
    ours = window.sliding_window(
        conv, volume, window=roi, num_classes=3, overlap=0.5, positions="nnunet", blend=blend, accumulator="device"
    )
    np.testing.assert_allclose(ours[0], num / den, atol=TOLERANCE)


@pytest.mark.parametrize("shape,roi", [((2, 29, 13, 37, 2), (8, 8, 8)), ((1, 5, 13, 9, 2), (8, 8, 8)), ((1, 41, 21, 2), (8, 12))])
def test_slabs_on_the_host_and_in_a_file_equal_the_device(shape, roi, tmp_path, capsys):
    volume = image(*shape)
    options = dict(window=roi, num_classes=3, overlap=0.6, blend="gaussian")
    device = np.asarray(window.sliding_window(conv, volume, accumulator="device", **options))
    assert capsys.readouterr().err == ""
    host = window.sliding_window(conv, volume, accumulator="host", **options)
    assert "device" in capsys.readouterr().err
    file = window.sliding_window(conv, volume, accumulator="memmap", path=tmp_path / "logits.f32", **options)
    unnamed = window.sliding_window(conv, jnp.asarray(volume), accumulator="memmap", **options)
    assert isinstance(host, np.ndarray) and isinstance(file, np.memmap) and isinstance(unnamed, np.memmap)
    for other in (host, file, unnamed):
        np.testing.assert_allclose(other, device, atol=TOLERANCE)


def test_slabs_need_less_device_memory_and_auto_takes_the_device_where_it_fits(monkeypatch):
    shape, options = (1, 512, 256, 256, 1), dict(window=(96,) * 3, num_classes=14)
    device, host, file = (window.estimate_bytes(shape, accumulator=a, **options) for a in ("device", "host", "memmap"))
    assert host.device < device.device and file.host < host.host and file.disk == 4 * 14 * 512 * 256 * 256
    halves = [window.estimate_bytes(shape, accumulator=a, sums="float16", **options) for a in ("host", "memmap")]
    assert [halves[0].host, halves[1].disk] == [2 * 14 * 512 * 256 * 256] * 2
    assert "MiB" in str(device)
    volume = image(1, 9, 9, 2)
    assert isinstance(window.sliding_window(jnp.sin, volume, window=8, num_classes=2), jax.Array)
    options = dict(window=(8, 8), num_classes=2)
    device, host = (window.estimate_bytes(volume.shape, accumulator=a, **options) for a in ("device", "host"))
    free = 2 * device.device  # auto takes at most half; a CPU's device has the host's memory
    for memory, device_memory, kind in (
        (free, None, jax.Array),
        (free - 2, None, np.ndarray),
        (2 * host.host, 2 * device.device - 2, np.ndarray),
        (0, 2 * device.device, jax.Array),
        (2 * host.host - 2, 2 * device.device - 2, np.memmap),
    ):
        stats = {} if device_memory is None else {"bytes_limit": device_memory + 5, "bytes_in_use": 5}
        monkeypatch.setattr(window.memory, "available", lambda memory=memory: memory)
        monkeypatch.setattr(window.jax, "local_devices", lambda stats=stats: [mock.Mock(memory_stats=lambda: stats)])
        found = window.sliding_window(jnp.sin, volume, **options)
        assert isinstance(found, kind) and isinstance(found, np.memmap) == (kind is np.memmap)


def test_volumes_of_many_sizes_share_one_program():
    traces = []

    def forward(windows):
        traces.append(windows.shape)
        return windows * 2

    for n in (33, 40, 51, 64):
        window.sliding_window(forward, image(1, n, 64, 2), window=24, num_classes=2, overlap=0.1, accumulator="device")
    assert len(set(traces)) == 1 and len(traces) <= 3  # its shape, and once inside each of two capacities


def test_slices_of_a_case_pass_one_by_one_in_their_own_type_through_one_program():
    traces = []

    def forward(windows):
        traces.append((windows.shape, windows.dtype))
        return windows.astype(jnp.float32) * 2

    network = types.SimpleNamespace(num_classes=2, batch=3, kept=None, mirrored=lambda weights: jax.tree_util.Partial(forward))
    options = dict(overlap=0.25, blend="gaussian", positions="monai", accumulator="auto")
    windows = networks.Windows(network, (16, 24), **options)
    for n, size in ((1, (40, 50)), (5, (40, 50)), (2, (40, 90)), (1, (9, 30))):  # the last is lower than a window
        picture = np.random.default_rng(n).integers(0, 256, (n, *size, 2), np.uint8)
        np.testing.assert_allclose(windows((), picture), picture * 2.0, atol=TOLERANCE * 510)
    assert {dtype for _, dtype in traces} == {np.dtype(np.uint8)} and {shape for shape, _ in traces} == {(3, 16, 24, 2)}
    assert len(traces) <= 4  # its shape, and once inside each of three programs


FULL = "RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."


def limited(monkeypatch, limit, kind=jax.errors.JaxRuntimeError):
    """A network by windows whose memory holds so many windows at once, with accumulators of one kind; what was tried."""
    tried, plain = [], window.sliding_window

    def full(forward, volume, **options):
        tried.append((options["batch"], options["accumulator"]))
        if options["batch"] > limit[0] or options["accumulator"] != limit[1]:
            raise kind(FULL)
        return plain(forward, volume, **options)

    monkeypatch.setattr(networks, "sliding_window", full)
    networks._say_once.cache_clear()
    network = types.SimpleNamespace(num_classes=3, batch=5, groups=1, kept=None, mirrored=lambda _: jax.tree_util.Partial(conv))
    return networks.Windows(network, (8, 8), overlap=0.5, blend="gaussian", positions="monai", accumulator="auto"), tried


@pytest.mark.fault("P1")
def test_where_memory_is_full_fewer_windows_and_then_slabs_give_the_same_result(monkeypatch, capsys):
    volume = image(1, 21, 13, 2)
    expected = window.sliding_window(conv, volume, window=8, num_classes=3, overlap=0.5, blend="gaussian", accumulator="device")
    windows, tried = limited(monkeypatch, (1, "host"))
    capsys.readouterr()
    np.testing.assert_allclose(windows((), volume), expected, atol=1e-6)
    assert tried == [(5, "auto"), (2, "auto"), (1, "auto"), (1, "host")]
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("memory is full")]
    assert len(said) == 3 and "1 windows at once" in said[1] and "host's memory" in said[2]
    windows((), volume)
    assert tried[4:] == [(1, "host")]  # what was too much is not tried again
    file, tried = limited(monkeypatch, (5, "memmap"), MemoryError)
    np.testing.assert_allclose(file((), volume), expected, atol=1e-6)
    assert tried == [(5, "auto"), (5, "memmap")]


@pytest.mark.fault("P1")
def test_memory_that_no_option_fits_into_and_other_errors_are_not_hidden(monkeypatch):
    windows, _ = limited(monkeypatch, (0, "host"))
    with pytest.raises(DataError, match="one image or window at a time does not fit into memory .RESOURCE.*JAX_PLATFORMS=cpu"):
        windows((), image(1, 21, 13, 2))
    monkeypatch.setattr(networks, "sliding_window", mock.Mock(side_effect=jax.errors.JaxRuntimeError("INTERNAL: no")))
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        windows((), image(1, 21, 13, 2))


@pytest.mark.fault("P1")
def test_whole_images_go_in_smaller_batches_of_equal_shares_where_memory_is_full(monkeypatch):
    network = types.SimpleNamespace(batch=8, groups=2, kept=None, mirrored=lambda weights: jax.tree_util.Partial(conv))
    whole, images, sizes = networks.WholeImages(network), image(7, 9, 9, 2), []
    expected, run = whole((), images), whole._run

    def full(forward, part):
        sizes.append(len(part))
        if len(part) > 2:
            raise jax.errors.JaxRuntimeError(FULL)
        return run(forward, part)

    monkeypatch.setattr(whole, "_run", full)
    np.testing.assert_allclose(whole((), images), expected, atol=1e-6)
    assert sizes == [8, 4, 2, 2, 2, 2]
    monkeypatch.setattr(whole, "_run", mock.Mock(side_effect=jax.errors.JaxRuntimeError(FULL)))
    with pytest.raises(DataError, match="one image or window at a time"):
        whole((), images)


def test_parameters_may_change_without_a_new_program():
    traces = []

    def apply(params, windows):
        traces.append(None)
        return windows * params

    results = [
        window.sliding_window(
            jax.tree_util.Partial(apply, jnp.float32(p)), image(1, 9, 9, 2), window=8, num_classes=2, accumulator="device"
        )
        for p in (1.0, 3.0)
    ]
    np.testing.assert_allclose(results[1], 3 * results[0], rtol=1e-6)
    assert len(traces) == 2  # its shape, the program


def test_windows_that_fill_a_batch_count_for_nothing_even_as_nan():
    volume = image(1, 8, 8, 2)  # one window, three fillers

    def first_only(windows):
        return jnp.where(jnp.arange(4)[:, None, None, None] == 0, windows, jnp.nan)

    ours = window.sliding_window(first_only, volume, window=8, num_classes=2, accumulator="device")
    np.testing.assert_allclose(ours, volume, atol=1e-6)


def test_mirroring_is_the_mean_over_all_flips_and_compiles_once():
    volume = image(1, 13, 8, 11, 2)
    options = dict(window=8, num_classes=3, overlap=0.5, blend="gaussian", accumulator="device")
    ours = window.sliding_window(tta.mirrored(conv, (0, 2)), volume, **options)

    def plain(windows):
        total = 0
        for axes in ((), (1,), (3,), (1, 3)):
            total = total + jnp.flip(conv(jnp.flip(windows, axes)), axes)
        return total / 4

    np.testing.assert_allclose(ours, window.sliding_window(plain, volume, **options), atol=TOLERANCE)
    leaves, structure = jax.tree.flatten(tta.mirrored(conv, (0, 2)))
    assert structure == jax.tree.structure(tta.mirrored(conv, [0, 2])) and not leaves  # one program for both
    assert np.abs(np.asarray(ours) - np.asarray(window.sliding_window(conv, volume, **options))).max() > 0.01


def test_copies_of_a_network_are_averaged_in_one_accumulator():
    volume = image(1, 13, 8, 11, 2)
    options = dict(window=8, num_classes=3, overlap=0.5, blend="gaussian", accumulator="device")
    forward = lambda scale, shift, windows: conv(windows) * scale["s"] + shift
    copies = [({"s": jnp.float32(k)}, jnp.float32(k * k)) for k in (1, 2, 4)]
    ours = window.sliding_window(tta.averaged(forward, copies), volume, **options)
    each = [window.sliding_window(jax.tree_util.Partial(forward, *c), volume, **options) for c in copies]
    np.testing.assert_allclose(ours, np.mean(each, 0), atol=10 * TOLERANCE)
    flipped = window.sliding_window(tta.mirrored(tta.averaged(forward, copies), (1,)), volume, **options)
    both = [window.sliding_window(tta.mirrored(jax.tree_util.Partial(forward, *c), (1,)), volume, **options) for c in copies]
    np.testing.assert_allclose(flipped, np.mean(both, 0), atol=10 * TOLERANCE)
    assert jax.tree.structure(tta.averaged(forward, copies)) == jax.tree.structure(tta.averaged(forward, copies[::-1]))
    with pytest.raises(ValueError, match="the same network"):
        tta.averaged(forward, [copies[0], ({"s": jnp.zeros(2)}, jnp.float32(0))])


def test_a_flip_exchanges_left_and_right_classes():
    def sided(windows):  # class 1 where the left half is bright, class 2 where the right half is
        left = jnp.arange(windows.shape[2]) < windows.shape[2] // 2
        return jnp.stack([0 * windows[..., 0], windows[..., 0] * left, windows[..., 0] * ~left], -1)

    volume = image(1, 8, 8, 1)
    plain, swapped = (tta.mirrored(sided, (1,), swap)(volume) for swap in (None, {1: ((1, 2),)}))
    np.testing.assert_allclose(swapped, sided(volume), atol=1e-6)
    assert np.abs(np.asarray(plain) - np.asarray(sided(volume))).max() > 0.1


@pytest.mark.parametrize(
    "options,words",
    [
        (dict(window=(8,)), "window"),
        (dict(window=0), "window"),
        (dict(overlap=1.0), "overlap"),
        (dict(num_classes=4), "num_classes"),
        (dict(blend="gauss"), "did you mean gaussian"),
        (dict(accumulator="disk"), "accumulator"),
        (dict(batch=0), "batch"),
        (dict(path="x"), "memmap"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        window.sliding_window(jnp.sin, image(1, 9, 9, 2), **{"window": 8, "num_classes": 2, **options})


def test_a_file_that_cannot_be_made_is_named(tmp_path):
    with pytest.raises(StorageError, match="absent"):
        window.sliding_window(
            jnp.sin, image(1, 9, 9, 2), window=8, num_classes=2, accumulator="memmap", path=tmp_path / "absent" / "logits"
        )


@pytest.mark.parametrize("axes,swap", [((0, 0), None), ((-1,), None), ((0,), {1: ((1, 2),)}), ((0,), {0: ((1, 2), (2, 3))})])
def test_flips_that_mean_nothing_are_refused(axes, swap):
    with pytest.raises(ValueError, match=f"got (axes|swap)=.*{re.escape(str(axes))}"):
        tta.mirrored(conv, axes, swap)
