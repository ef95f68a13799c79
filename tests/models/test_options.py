"""Every family takes its options, and its weights go out and come back: under our names and under those it was read from."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from jaxseg.layers import ForwardContext
from jaxseg.models import create_model, functional, list_models
from jaxseg.models.registry import variants
from jaxseg.types import MismatchError
from jaxseg.weights import from_torch

TEST = list_models("_test")
_WIDTHS = ("width", "widths", "bridge", "extra")  # what may be doubled alone; others are tied to heads or depths


@functools.cache
def _count(name: str) -> int:
    return functional.parameter_count(create_model(name, abstract=True))


def _changed(field: str, value):
    """Another value of an option: more dropout, twice the width."""
    if "drop" in field:
        return 0.3
    return tuple(2 * v for v in value) if isinstance(value, tuple) else 2 * value


def _overrides():
    for name in TEST:
        config = variants()[name].config
        for field in dataclasses.fields(config):
            value = getattr(config, field.name)
            if "drop" in field.name or (field.name in _WIDTHS and value):
                yield name, field.name, _changed(field.name, value)


@pytest.mark.parametrize("name,field,value", list(_overrides()))
def test_dropout_and_width_are_options_of_every_variant(name, field, value):
    ours, theirs = functional.parameter_count(create_model(name, abstract=True, **{field: value})), _count(name)
    assert ours == theirs if "drop" in field else ours > theirs


@pytest.mark.parametrize("name", TEST)
def test_what_a_family_exports_it_takes_back(name):
    model = create_model(name)
    moved = {key: value + np.asarray(1 + i % 7, value.dtype) for i, (key, value) in enumerate(from_torch.export(model).items())}
    report = from_torch.load(model, moved)
    assert report.key_mapping == "own" and len(report.loaded) == len(moved)
    for key, value in from_torch.export(model).items():
        np.testing.assert_array_equal(value, moved[key], err_msg=key)


def test_the_head_of_effisegnets_encoder_is_optional():
    with_head, without = (create_model("effisegnet_test", conv_head=flag) for flag in (True, False))
    arrays, fewer = from_torch.export(with_head), from_torch.export(without)
    assert {n.rsplit(".", 1)[0] for n in arrays.keys() - fewer.keys()} == {"encoder.conv_head", "encoder.bn1"}
    from_torch.load(without, {n: v for n, v in arrays.items() if n in fewer})
    with pytest.raises(MismatchError, match="unexpected encoder.conv_head.weight"):
        from_torch.load(without, arrays)


def test_effisegnets_deep_supervision_has_logits_for_each_of_five_taps_and_any_width():
    for deep, count in ((True, 5), (False, 0)):
        model = create_model("effisegnet_test", deep_supervision=deep, width=12, num_classes=3, abstract=True)
        network, params, state = functional.split(model)
        outputs = jax.eval_shape(
            lambda p, s, x: network.apply(p, s, x, ForwardContext(train=True, key=jax.random.key(0)))[0],  # noqa: B023
            params,
            state,
            jax.ShapeDtypeStruct((2, 75, 64, 3), np.float32),
        )
        assert outputs.logits.shape == (2, 75, 64, 3) and [a.shape for a in outputs.aux] == [(2, 75, 64, 3)] * count
        assert params["classifier.weight"].shape == (1, 1, 12, 3)


# ---------------------------------------------------------------- other implementations' names


def pspnet(classes=150):
    from jaxseg.bench.ports.pspnet import PSPNet

    return PSPNet((1, 1, 1, 1), bins=(1, 2, 3, 6), width=8, head=16, classes=classes)


def _ports():
    """name -> (state dict of the other implementation, our network)."""
    import torch

    from jaxseg.bench.ports.effisegnet import EffiSegNet
    from tests.models.ports.segformer import SegFormer

    torch.manual_seed(0)
    yield "pspnet", pspnet(), create_model("pspnet_test", num_classes=150, bins=(1, 2, 3, 6))
    yield "segformer", SegFormer((8, 16, 40, 64), (1, 1, 1, 1), 16), create_model("segformer_test", num_classes=2)
    yield "effisegnet", EffiSegNet(0.25, 0.3, 64, 8), create_model("effisegnet_test")


def _monai():
    nets = pytest.importorskip("monai.networks.nets", reason="parity needs the extra [parity]")
    yield (
        "unetr",
        nets.UNETR(1, 2, (32, 32, 32), feature_size=4, hidden_size=16, mlp_dim=32, num_heads=2),
        create_model("unetr_test", in_channels=1, num_classes=2, depth=12, taps=(4, 7, 10)),
    )
    yield (
        "swin",
        nets.SwinUNETR(in_channels=1, out_channels=2, feature_size=12, depths=(2, 1, 1, 1), num_heads=(2, 2, 2, 2)),
        create_model(
            "swin_unetr_test", in_channels=1, num_classes=2, width=12, depths=(2, 1, 1, 1), heads=(2, 2, 2, 2), window=7
        ),
    )


@pytest.mark.parametrize("family", ["pspnet", "segformer", "effisegnet", "unetr", "swin"])
def test_weights_go_back_under_the_names_they_came_from(family):
    torch = pytest.importorskip("torch", reason="parity needs the extra [parity]")
    port, model = next((t, m) for name, t, m in (*_ports(), *(_monai() if family in ("unetr", "swin") else ())) if name == family)
    state = {k: v.numpy() for k, v in port.state_dict().items()}
    report = from_torch.load(model, state)
    out = from_torch.export(model, names=state)
    assert out.keys() == state.keys() - set(report.ignored)
    for key, value in out.items():
        np.testing.assert_array_equal(value, state[key], err_msg=key)
    missing, unexpected = port.load_state_dict({k: torch.from_numpy(v) for k, v in out.items()}, strict=False)
    assert not unexpected and set(missing) <= set(report.ignored)


def test_ade20ks_pspnet_gives_three_classes_all_but_the_classifiers():
    pytest.importorskip("torch", reason="parity needs the extra [parity]")
    file = {f"module.{k}": v for k, v in pspnet().state_dict().items()}
    model = create_model("pspnet_test", num_classes=3, bins=(1, 2, 3, 6))
    before = from_torch.export(model)
    with pytest.raises(MismatchError, match="adapt=True"):
        from_torch.load(model, file)
    report = from_torch.load(model, file, adapt=True)
    fresh = {f"{part}.classifier.{kind}" for part in ("head", "aux") for kind in ("weight", "bias")}
    assert {n for n, _ in report.initialised} == fresh and all("150 classes" in why for _, why in report.initialised)
    assert not report.adapted and len(report.loaded) == len(before) - 4
    after = from_torch.export(model)
    assert all(np.array_equal(before[n], after[n]) for n in fresh)
    np.testing.assert_array_equal(after["encoder.stages.0.0.conv1.conv.weight"], file["module.layer1.0.conv1.weight"])
