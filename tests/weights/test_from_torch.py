"""Importing weights is strict and total, and exporting is its inverse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxseg.layers import Conv, ConvTranspose, GroupNorm, Linear
from jaxseg.models import Outputs, Segmenter, create_model, functional
from jaxseg.types import ConfigError, MismatchError
from jaxseg.weights import from_torch


class Layouts(Segmenter):
    """One layer of every layout; the grouped convolution makes a swap of axes visible."""

    def __init__(self, *, in_channels, num_classes, rank, rngs):
        self.in_channels, self.num_classes, self.rank = in_channels, num_classes, rank
        self.stem = Conv(in_channels, 4, (3, 5), rank=rank, rngs=rngs)
        self.grouped = Conv(4, 6, 3, rank=rank, groups=2, rngs=rngs)
        self.up = ConvTranspose(6, 4, 2, rank=rank, stride=2, rngs=rngs)
        self.norm = GroupNorm(2, 4, rngs=rngs)
        self.mix = Linear(4, 8, rngs=rngs)
        self.head = Conv(8, num_classes, 1, rank=rank, rngs=rngs)

    def forward(self, image, context):
        x = self.up(self.grouped(self.stem(image)))[:, ::2, ::2]
        return Outputs(self.head(self.mix(self.norm(x))))


def layouts(in_channels=3, num_classes=5, seed=0):
    return Layouts(in_channels=in_channels, num_classes=num_classes, rank=2, rngs=nnx.Rngs(seed))


def values(model):
    return {n: np.asarray(v) for tree in functional.split(model)[1:] for n, v in tree.items()}


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.parametrize(
    "make",
    [
        lambda seed: layouts(seed=seed),
        lambda seed: create_model("segnext_test_ich", seed=seed),
        lambda seed: create_model("unet_test", seed=seed),
    ],
)
def test_export_then_load_changes_nothing(make):
    a, b = make(0), make(1)
    report = from_torch.load(b, from_torch.export(a))
    assert_equal(values(a), values(b))
    assert report.key_mapping == "own" and not (report.adapted or report.initialised or report.ignored)
    assert report.numbers == sum(v.size for v in values(a).values())


def test_exported_shapes_are_pytorchs():
    shapes = {n: v.shape for n, v in from_torch.export(layouts()).items() if n.endswith("weight")}
    assert shapes == {
        "stem.weight": (4, 3, 3, 5),
        "grouped.weight": (6, 2, 3, 3),
        "up.weight": (6, 4, 2, 2),
        "norm.weight": (4,),
        "mix.weight": (8, 4),
        "head.weight": (5, 8, 1, 1),
    }


def test_layouts_compute_the_same_in_pytorch():
    torch = pytest.importorskip("torch", reason="parity needs the extra [parity]")
    import torch.nn.functional as F

    model = layouts()
    w = {n: torch.from_numpy(v) for n, v in from_torch.export(model).items()}
    image = np.random.default_rng(0).normal(size=(1, 6, 8, 3)).astype(np.float32)
    x = F.conv2d(torch.from_numpy(image.transpose(0, 3, 1, 2).copy()), w["stem.weight"], w["stem.bias"], padding=(1, 2))
    x = F.conv2d(x, w["grouped.weight"], w["grouped.bias"], padding=1, groups=2)
    x = F.conv_transpose2d(x, w["up.weight"], w["up.bias"], stride=2)[..., ::2, ::2]
    x = F.group_norm(x, 2, w["norm.weight"], w["norm.bias"])
    x = F.linear(x.permute(0, 2, 3, 1), w["mix.weight"], w["mix.bias"]).permute(0, 3, 1, 2)
    expected = F.conv2d(x, w["head.weight"], w["head.bias"]).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(model(image), expected, atol=1e-5)  # float32, sums of some 50 terms


def test_values_may_be_torch_numpy_or_jax_arrays_of_any_float():
    torch = pytest.importorskip("torch", reason="parity needs the extra [parity]")
    arrays = from_torch.export(layouts())
    kinds = [
        torch.from_numpy,
        lambda v: torch.from_numpy(v).bfloat16(),
        jnp.asarray,
        lambda v: v.astype(np.float16),
        lambda v: torch.nn.Parameter(torch.from_numpy(v)),
    ]
    mixed = {n: kinds[i % len(kinds)](v) for i, (n, v) in enumerate(arrays.items())}
    model = layouts(seed=1)
    from_torch.load(model, mixed)
    for name, array in from_torch.export(model).items():
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, arrays[name], rtol=2**-8)  # bfloat16 keeps 8 bits


def test_loaded_values_are_copies():
    arrays, model = from_torch.export(layouts()), layouts(seed=1)
    from_torch.load(model, arrays)
    before = values(model)
    for array in arrays.values():
        array[...] = 7
    assert_equal(values(model), before)


def test_every_difference_is_in_one_error_and_the_model_is_unchanged():
    model, arrays = layouts(), from_torch.export(layouts(seed=1))
    before = values(model)
    del arrays["mix.bias"], arrays["norm.weight"]
    arrays |= {
        "extra.weight": np.ones(3),
        "head.bias": np.ones(7),
        "stem.weight": np.ones((4, 3, 5, 3)),
        "up.bias": np.array([1, np.nan, np.inf, 0]),
    }
    with pytest.raises(MismatchError) as caught:
        from_torch.load(model, arrays)
    text = str(caught.value)
    for part in (
        "6 differences",
        "missing mix.bias [8]",
        "missing norm.weight [4]",
        "unexpected extra.weight [3]",
        "shape of head.bias: expected [5] for head.bias, found [7]",
        "shape of stem.weight: expected [4, 3, 3, 5] for stem.weight, found [4, 3, 5, 3]",
        "up.bias holds 2 numbers that are not finite",
        "adapt=True",
    ):
        assert part in text
    assert_equal(values(model), before)


def test_a_file_of_another_network_is_distinguished_from_a_difference():
    with pytest.raises(
        MismatchError, match="no key mapping fits: the file's names are like conv1.weight, .*, the network's like .*"
    ):
        from_torch.load(layouts(), {f"conv{i}.weight": np.ones(3) for i in range(1, 30)})


@pytest.mark.parametrize(
    "wrap,origin",
    [
        (lambda s: {"state_dict": s, "epoch": 3, "optimizer": {"state": {}}}, "state_dict"),
        (lambda s: {"model": s}, "model"),
        (lambda s: {f"module.{k}": v for k, v in s.items()}, "module."),
        (
            lambda s: {"epoch": 1, "model": {"state_dict": {f"module.net.{k}": v for k, v in s.items()}}},
            "model > state_dict > module.net.",
        ),
    ],
)
def test_containers_and_shared_prefixes_are_found_and_reported(wrap, origin):
    model = layouts(seed=1)
    report = from_torch.load(model, wrap(from_torch.export(layouts())))
    assert report.origin == origin and origin in str(report)
    assert_equal(values(model), values(layouts()))


def test_a_prefix_that_not_all_keys_share_is_a_difference():
    arrays = from_torch.export(layouts())
    mixed = {("module." if "stem" in n else "") + n: v for n, v in arrays.items()}
    with pytest.raises(MismatchError, match="unexpected module.stem.weight"):
        from_torch.load(layouts(), mixed)


def test_an_empty_source_is_refused():
    with pytest.raises(MismatchError, match="no tensors"):
        from_torch.load(layouts(), {"epoch": 3})


def test_files_load_like_dictionaries(tmp_path):
    np.savez(tmp_path / "w.npz", **from_torch.export(layouts()))
    model = layouts(seed=1)
    from_torch.load(model, tmp_path / "w.npz")
    assert_equal(values(model), values(layouts()))
    torch = pytest.importorskip("torch", reason="parity needs the extra [parity]")
    torch.save({"state_dict": {n: torch.from_numpy(v) for n, v in from_torch.export(layouts()).items()}}, tmp_path / "w.pth")
    model = layouts(seed=1)
    from_torch.load(model, str(tmp_path / "w.pth"))
    assert_equal(values(model), values(layouts()))


def test_absent_bases_stay_as_drawn_and_are_reported():
    source, model = create_model("segnext_test_ich"), create_model("segnext_test_ich", seed=1)
    drawn = values(model)["decoder.ham.bases"]
    arrays = from_torch.export(source)
    del arrays["decoder.ham.bases"]
    report = from_torch.load(model, arrays)
    assert [n for n, _ in report.initialised] == ["decoder.ham.bases"] and "decoder.ham.bases" in str(report)
    np.testing.assert_array_equal(values(model)["decoder.ham.bases"], drawn)
    assert_equal({**values(model), "decoder.ham.bases": 0}, {**values(source), "decoder.ham.bases": 0})


@pytest.mark.parametrize("there,here", [(3, 1), (1, 3), (3, 4)])
def test_an_adapted_stem_answers_equal_channels_as_before(there, here):
    old, new = layouts(in_channels=there), layouts(in_channels=here, seed=1)
    with pytest.raises(MismatchError):
        from_torch.load(new, from_torch.export(old))
    report = from_torch.load(new, from_torch.export(old), adapt=True)
    assert [n for n, _ in report.adapted] == ["stem.weight"] and f"sum of the file's {there} input channels" in str(report)
    grey = np.random.default_rng(0).normal(size=(1, 4, 6, 1)).astype(np.float32)
    one, other = (m(np.repeat(grey, c, -1)) for m, c in ((old, there), (new, here)))
    np.testing.assert_allclose(one, other, atol=1e-5)  # sums in another order


def test_a_classifier_of_other_classes_keeps_its_initial_values_only_when_asked():
    old, new, fresh = layouts(num_classes=5), layouts(num_classes=2, seed=1), layouts(num_classes=2, seed=1)
    with pytest.raises(MismatchError, match="adapt=True"):
        from_torch.load(new, from_torch.export(old))
    report = from_torch.load(new, from_torch.export(old), adapt=True)
    why = "5 classes in the source, 2 here"
    assert set(report.initialised) == {("head.weight", why), ("head.bias", why)}
    for name, value in values(new).items():
        np.testing.assert_array_equal(value, values(fresh if name.startswith("head") else old)[name])


def test_adapt_forgives_nothing_else():
    arrays = from_torch.export(layouts(in_channels=1, num_classes=2))
    arrays["mix.weight"] = arrays["mix.weight"].T.copy()
    with pytest.raises(MismatchError, match="1 differences.*(?s:.*)shape of mix.weight"):
        from_torch.load(layouts(), arrays, adapt=True)


def test_one_by_one_convolutions_and_linear_layers_are_taken_for_each_other():
    arrays = from_torch.export(layouts())
    swapped = {**arrays, "mix.weight": arrays["mix.weight"][:, :, None, None], "head.weight": arrays["head.weight"][:, :, 0, 0]}
    model = layouts(seed=1)
    from_torch.load(model, swapped)
    assert_equal(values(model), values(layouts()))
    back = from_torch.export(model, names=swapped)
    assert_equal(back, swapped)


def test_a_named_key_mapping_is_taken_and_a_wrong_name_has_neighbours():
    model = create_model("unet_test")
    with pytest.raises(ConfigError, match="unknown key mapping 'scolosis': did you mean scoliosis"):
        from_torch.load(model, from_torch.export(model), key_mapping="scolosis")
    assert from_torch.load(model, from_torch.export(model), key_mapping="own").key_mapping == "own"
    with pytest.raises(ConfigError, match="names="):
        from_torch.export(model, key_mapping="scoliosis")


@pytest.mark.parametrize("kind", ["official", "ich", "unet"])
def test_official_names_round_trip(kind):
    torch = pytest.importorskip("torch", reason="parity needs the extra [parity]")
    from jaxseg.bench.ports import segnext, unet

    tiny = dict(dims=(8, 16, 24, 32), depths=(1, 1, 1, 1), ratios=(2, 2, 2, 2))
    torch.manual_seed(0)
    if kind == "official":
        port = segnext.Official(**tiny, ham=32, width=32, bases=4)
        model = create_model("segnext_test", ham_bases="buffer", num_classes=150)
    elif kind == "ich":
        port, model = segnext.Ich(**tiny, ham=24, width=16, bases=8), create_model("segnext_test_ich")
    else:
        port, model = unet.UNetBase((4, 8, 12, 16, 24)), create_model("unet_base", widths=(4, 8, 12, 16, 24))
    state = port.state_dict()
    report = from_torch.load(model, state)
    assert len(report.loaded) == len(values(model))
    again = from_torch.load(model, state | {"wrong.weight": torch.ones(2)}, keys=[("wrong", None)])
    assert again.key_mapping == report.key_mapping and again.loaded == report.loaded
    out = from_torch.export(model, names=list(state))
    kept = {n: v.numpy() for n, v in state.items() if not n.endswith("num_batches_tracked")}
    assert_equal(out, kept)
    missing, unexpected = port.load_state_dict({n: torch.from_numpy(v) for n, v in out.items()}, strict=False)
    assert not unexpected and all(n.endswith("num_batches_tracked") for n in missing)
    with pytest.raises(MismatchError, match="no key for"):
        from_torch.export(model, names=list(state)[3:])


def test_an_encoder_trained_on_imagenet_is_taken_alone():
    model, source = create_model("segnext_test"), create_model("segnext_test", seed=1)
    pytest.importorskip("torch", reason="parity needs the extra [parity]")
    from jaxseg.bench.ports.segnext import Official

    port = Official((8, 16, 24, 32), (1, 1, 1, 1), ham=32, width=32, bases=4, ratios=(2, 2, 2, 2), classes=1)
    names = [n for n in port.state_dict() if "hamburger.ham.bases" not in n]
    official = from_torch.export(source, names=names)
    imagenet = {n.removeprefix("backbone."): v for n, v in official.items() if n.startswith("backbone.")}
    report = from_torch.load(model, imagenet | {"head.weight": np.ones((1000, 32)), "head.bias": np.ones(1000)}, only="encoder.")
    assert set(report.ignored) == {"head.weight", "head.bias"} and all(n.startswith("encoder.") for n in report.loaded)
    fresh = create_model("segnext_test")
    for name, value in values(model).items():
        np.testing.assert_array_equal(value, values(source if name.startswith("encoder.") else fresh)[name])


def test_keys_and_leaves_of_every_family_have_key_mappings_that_compile():
    import importlib
    import re

    from jaxseg.models.registry import FAMILIES

    for family in FAMILIES:
        for mapping in importlib.import_module(f"jaxseg.models.{family}").KEY_MAPPINGS:
            for pattern, replacement in mapping.rules:
                assert re.compile(pattern).groups >= max([int(g) for g in re.findall(r"\\(\d)", replacement)] or [0])
            list(map(re.compile, mapping.ignored))


def test_loading_into_a_jitted_network_takes_effect():
    model = layouts()
    image = jnp.ones((1, 4, 6, 3))
    before = np.asarray(model(image))
    from_torch.load(model, from_torch.export(layouts(seed=1)))
    assert not np.allclose(before, model(image))
    np.testing.assert_array_equal(model(image), layouts(seed=1)(image))
    assert all(isinstance(v, jax.Array) for v in functional.split(model)[1].values())
