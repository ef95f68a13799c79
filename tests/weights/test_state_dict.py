"""Weights are found in the checkpoints that training code writes; what lies beside is named; an average never comes unasked."""

import ast
import re
import shlex

import numpy as np
import pytest

from jaxseg.models import create_model, functional
from jaxseg.types import ConfigError, MismatchError
from jaxseg.weights import convert, from_torch

torch = pytest.importorskip("torch", reason="files of PyTorch need the extra [parity]")


def network(seed=0):
    return create_model("unet_test", seed=seed)


def weights(seed=0):
    return {name: torch.from_numpy(array) for name, array in from_torch.export(network(seed)).items()}


def values(model):
    return {name: np.asarray(value) for tree in functional.split(model)[1:] for name, value in tree.items()}


def prefixed(prefix, tensors):
    return {prefix + name: value for name, value in tensors.items()}


def assert_loaded(model, seed=0):
    expected = values(network(seed))
    for name, value in values(model).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def optimizer():
    module = torch.nn.Linear(3, 2)
    module(torch.ones(1, 3)).sum().backward()
    adam = torch.optim.Adam(module.parameters())
    adam.step()
    return adam.state_dict()


LOSS = {"criterion.class_weights": torch.ones(3), "val_f1.total": torch.tensor(0.5)}
FORMS = {
    "flat": (lambda: weights(), "", 0),
    **{
        entry: ((lambda entry=entry: {entry: weights(), "epoch": 3, "optimizer": optimizer()}), entry, 6)
        for entry in ("state_dict", "model", "net", "model_state", "network_weights", "model_state_dict", "my_net")
    },
    "data parallel": (lambda: prefixed("module.", weights()), "module.", 0),
    "compiled": (lambda: prefixed("_orig_mod.", weights()), "", 0),
    "compiled inside": (lambda: {name.replace(".", "._orig_mod.", 1): v for name, v in weights().items()}, "", 0),
    "lightning, compiled, parallel": (
        lambda: {"state_dict": prefixed("model.module._orig_mod.", weights()) | LOSS, "optimizer_states": [optimizer()]},
        "state_dict > model.module.",
        8,
    ),
    "a loss beside the names": (lambda: weights() | LOSS, "", 2),
    "a loss beside the entry": (lambda: {"state_dict": weights(), "loss": torch.tensor(1.0)}, "state_dict", 1),
    "a loss inside the wrapper": (lambda: prefixed("module.", weights() | LOSS), "module.", 2),
    "an averaged model": (lambda: prefixed("module.", weights()) | {"n_averaged": torch.tensor(5)}, "module.", 1),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_checkpoint_loads_and_names_what_is_left_out(tmp_path, form):
    make, origin, left_out = FORMS[form]
    torch.save(make(), tmp_path / "weights.pth")
    model = network(seed=1)
    report = from_torch.load(model, tmp_path / "weights.pth")
    assert_loaded(model)
    assert (report.origin, len(report.ignored), report.others) == (origin, left_out, ())
    assert len(report.loaded) == len(values(model))
    if left_out:
        assert f"left out     {left_out:5d}" in str(report) and report.ignored[0].partition(".")[0] in str(report)


@pytest.mark.parametrize(
    "file, plain, average",
    [
        (lambda: {"state_dict_ema": weights(1), "state_dict": weights()}, "state_dict", "state_dict_ema"),
        (lambda: {"model_ema": {"module": weights(1)}, "model": weights()}, "model", "model_ema > module"),
        (
            lambda: {"state_dict": prefixed("ema_model.", weights(1)) | prefixed("model.", weights())},
            "state_dict > model.",
            "state_dict > ema_model.",
        ),
    ],
    ids=["entries", "nested", "prefixes"],
)
def test_an_average_beside_the_weights_is_taken_by_name_alone(tmp_path, file, plain, average):
    torch.save(file(), tmp_path / "both.pth")
    model = network(seed=2)
    report = from_torch.load(model, tmp_path / "both.pth")
    assert_loaded(model)
    assert report.origin == plain and report.others == (average,) and f"under={average!r}" in str(report)
    report = from_torch.load(model, tmp_path / "both.pth", under=average)  # as the report says
    assert_loaded(model, seed=1)
    assert report.origin == average
    said = re.search(r"jaxseg.convert (.+)\)", str(from_torch.load(network(), tmp_path / "both.pth")))[1]
    chosen = convert.parse([f"--input={tmp_path / 'both.pth'}", f"--output={tmp_path / 'ours.pth'}", *shlex.split(said)])
    assert convert.read(network(), chosen).origin == average
    with pytest.raises(
        ConfigError, match="under='teacher': there are no tensors under it; the file's entries are .*state_dict|model"
    ):
        from_torch.load(model, tmp_path / "both.pth", under="teacher")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_safetensors_of_half_precision_load_with_the_values_that_pytorch_gives(tmp_path, dtype):
    files = pytest.importorskip("safetensors.torch", reason="needs the extra [parity]")
    half = {name: value.to(dtype).contiguous() for name, value in weights().items()}
    files.save_file(half, tmp_path / "half.safetensors")
    model = network(seed=1)
    from_torch.load(model, tmp_path / "half.safetensors")
    back = from_torch.export(model)
    assert all(value.dtype == np.float32 for value in back.values())
    for name, value in half.items():
        np.testing.assert_array_equal(back[name], value.float().numpy(), err_msg=name)


@pytest.mark.parametrize("prefix, entry", [("", ""), ("model.", ""), ("model.", "state_dict"), ("", "net")])
def test_what_has_no_use_is_a_difference_whose_remedy_works(tmp_path, prefix, entry):
    more = prefixed(prefix, weights()) | {"second_head.weight": torch.ones(2, 2)}
    torch.save({entry: more} if entry else more, tmp_path / "more.pth")
    with pytest.raises(MismatchError, match=r"unexpected .*second_head.weight \[2, 2\]") as error:
        from_torch.load(network(), tmp_path / "more.pth")
    pattern = re.search(r"leave unexpected tensors out: keys=\[\((.+), None\)", str(error.value))[1]
    model, keys = network(seed=1), [(ast.literal_eval(pattern), None)]
    report = from_torch.load(model, tmp_path / "more.pth", keys=keys)
    assert_loaded(model)
    assert any("second_head" in key for key in report.ignored)


def test_a_part_that_is_there_is_offered_alone_and_loads():
    tensors = weights()
    part = sorted({name.partition(".")[0] for name in tensors})[0] + "."
    some = {name: value for name, value in tensors.items() if name.startswith(part)}
    with pytest.raises(MismatchError, match="missing") as error:
        from_torch.load(network(), some)
    assert f"only={part!r}" in str(error.value) and "--keys, --only" in str(error.value)
    model = network(seed=1)
    from_torch.load(model, some, only=part)
    back = from_torch.export(model)
    assert all(np.array_equal(back[name], value) for name, value in some.items())


def test_shapes_stand_in_one_layout():
    tensors = weights()
    name = next(name for name, value in tensors.items() if value.ndim == 4 and len(set(value.shape)) > 2)
    shape = list(tensors.pop(name).shape)
    with pytest.raises(MismatchError, match="shapes in PyTorch's layout") as error:
        from_torch.load(network(), tensors)
    assert f"missing {name} {shape}" in str(error.value)


def test_names_of_nothing_known_ask_for_a_table():
    with pytest.raises(MismatchError, match=r"rename them by keys=\[\('regular expression', 'replacement'\), ...\]"):
        from_torch.load(network(), {f"conv{i}.weight": np.ones(3) for i in range(99)})


def test_the_report_names_other_networks_that_the_file_fits_as_well():
    model = create_model("dualbranch_01_unet_xs")
    report = from_torch.load(model, from_torch.export(create_model("dualbranch_01_unet_xs", seed=1)))
    assert report.siblings == ("dualbranch_02_unet_xs",)
    assert "WARNING dualbranch_02_unet_xs: the same tensor names and shapes" in str(report)
    assert from_torch.load(network(), weights()).siblings == ()
