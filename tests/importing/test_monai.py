"""MONAI's bundles as run folders: they predict what MONAI's own transforms and inferer make of the same network and scan."""

import dataclasses
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy import ndimage

torch = pytest.importorskip("torch", reason="parity needs the extra [parity]")
pytest.importorskip("monai", reason="parity needs the extra [parity]")

from monai.bundle import ConfigParser  # noqa: E402
from monai.data import decollate_batch, list_data_collate  # noqa: E402
from monai.networks import nets  # noqa: E402

from jaxseg import checkpoint, recorded  # noqa: E402
from jaxseg.config import resolve  # noqa: E402
from jaxseg.data.store.base import recipe_from  # noqa: E402
from jaxseg.importing import command_line  # noqa: E402
from jaxseg.importing.bundles import configuration  # noqa: E402
from jaxseg.importing.bundles import settings as bundle  # noqa: E402
from jaxseg.infer import postprocess, predict  # noqa: E402
from jaxseg.models import functional  # noqa: E402
from jaxseg.train import patients, setup  # noqa: E402
from jaxseg.train.log import Log  # noqa: E402
from jaxseg.types import ConfigError, DataError, MismatchError  # noqa: E402
from jaxseg.weights import initial  # noqa: E402
from tests.models.ports import parity  # noqa: E402

WINDOW = [16, 16, 16]
INTENSITIES = {
    "ct": {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": -20, "a_max": 120, "b_min": 0, "b_max": 1, "clip": True},
    "mr": {"_target_": "NormalizeIntensityd", "keys": "image", "nonzero": True, "channel_wise": True},
}  # fmt: skip


def inference(kind: str) -> dict:
    """A bundle's inference.json, as MONAI's own bundles are written."""
    sigmoid = kind == "mr"
    return {
        "image_key": "image",
        "roi": WINDOW,
        "device": "$torch.device('cpu')",
        "network_def": {
            "_target_": "SegResNet",
            "spatial_dims": 3,
            "init_filters": 8,
            "in_channels": 2 if sigmoid else 1,
            "out_channels": 2 if sigmoid else 3,
            "blocks_down": [1, 1],
            "blocks_up": [1],
            "dropout_prob": 0.2,
        },
        "network": "$@network_def.to(@device)",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "@image_key"},
                {"_target_": "EnsureChannelFirstd", "keys": "@image_key"},
                {"_target_": "Orientationd", "keys": "@image_key", "axcodes": "RAS"},
                {"_target_": "Spacingd", "keys": "@image_key", "pixdim": [1.5, 1.5, 2.0], "mode": "bilinear"},
                INTENSITIES[kind],
                {"_target_": "EnsureTyped", "keys": "@image_key"},
            ],
        },
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": "@roi",
            "sw_batch_size": 2,
            "overlap": 0.5,
            "mode": "gaussian",
        },
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "Activationsd", "keys": "pred", **({"sigmoid": True} if sigmoid else {"softmax": True})},
                {
                    "_target_": "Invertd",
                    "keys": "pred",
                    "transform": "@preprocessing",
                    "orig_keys": "@image_key",
                    "nearest_interp": False,
                    "to_tensor": True,
                },
                {"_target_": "AsDiscreted", "keys": "pred", **({"threshold": 0.5} if sigmoid else {"argmax": True})},
            ],
        },
    }


def metadata(kind: str) -> dict:
    names = ["core", "whole"] if kind == "mr" else ["background", "liver", "liver tumour"]
    inputs = ["t1", "flair"] if kind == "mr" else ["CT"]
    define = lambda names: {"channel_def": {str(i): name for i, name in enumerate(names)}}
    return {"network_data_format": {"inputs": {"image": define(inputs)}, "outputs": {"pred": define(names)}}}


def scan(channel: int) -> np.ndarray:
    """Smooth values from -20 to 180 inside of a ball that touches no border, 0 outside."""
    rng = np.random.default_rng(channel)
    values = ndimage.gaussian_filter(rng.normal(size=(37, 30, 21)), 2.5)
    ball = sum((g - n / 2) ** 2 / (n / 2) ** 2 for g, n in zip(np.indices(values.shape), values.shape)) < 0.7
    return np.where(ball, (values - values.min()) / np.ptp(values) * 200 - 20, 0).astype(np.float32)


@pytest.fixture(scope="module", params=sorted(INTENSITIES))
def case(request, tmp_path_factory):
    """(kind, bundle, files of the scan, labels that MONAI predicts on the scan's own grid)."""
    kind, root = request.param, tmp_path_factory.mktemp(request.param)
    folder, channels = root / "bundle", 2 if request.param == "mr" else 1
    for name, content in ((configuration.INFERENCE, inference(kind)), (bundle.METADATA, metadata(kind))):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    # From left to right: Orientation turns it round. No sample of the new grid but the first lies on an old one: there MONAI's
    # rounding decides whether a voxel beside the ball is exactly 0, which its NormalizeIntensity asks.
    affine = np.diag([-1.17, 1.37, 3.1, 1.0])
    affine[:3, 3] = 30, -20, 10
    files = []
    for channel in range(channels):
        files.append(root / "images" / f"case_{channel:04d}.nii.gz")
        files[-1].parent.mkdir(exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(scan(channel), affine), files[-1])

    parser = ConfigParser(json.loads((folder / configuration.INFERENCE).read_text()))
    parser["image_key"] = "image"
    prepare, inferer, after = (parser.get_parsed_content(part) for part in ("preprocessing", "inferer", "postprocessing"))
    network = parser.get_parsed_content("network_def")
    prepared = prepare({"image": [str(f) for f in files] if channels > 1 else str(files[0])})
    batch = list_data_collate([prepared])
    image = np.moveaxis(np.asarray(batch["image"]), 1, -1)[:, :16, :16, :14]
    parity.redraw(network, np.ascontiguousarray(image), classifier="conv_final.2").eval()
    (folder / "models").mkdir()
    torch.save(network.state_dict(), folder / "models" / "model.pt")
    with torch.no_grad():
        batch["pred"] = inferer(batch["image"], network)
    (done,) = [after(one) for one in decollate_batch(batch)]
    found = np.asarray(done["pred"]).astype(int)
    labels = found[0] + 2 * found[1] if kind == "mr" else found[0]
    return kind, folder, files, labels


def test_labels_are_monais_on_the_scans_own_grid(case, tmp_path, capsys):
    kind, folder, files, theirs = case
    assert command_line.main(["monai", str(folder), f"--output={tmp_path / 'run'}"]) == 0
    assert "next: jaxseg predict" in capsys.readouterr().out
    record = checkpoint.read_record(tmp_path / "run")
    settings = record["config"]["infer"] | {"overlay": False}
    assert predict.predict(tmp_path / "run", files[0].parent, tmp_path / "out", settings=settings, say=lambda text: None) == 0
    read = lambda folder: np.asarray(nibabel.load(next(folder.glob("case*.nii.gz"))).dataobj).astype(int)
    out = tmp_path / "out"
    labels = read(out / "core") + 2 * read(out / "whole") if kind == "mr" else read(out)
    assert labels.shape == theirs.shape and len(np.unique(theirs)) == (4 if kind == "mr" else 3)
    wrong = (labels != theirs).mean()
    assert wrong <= 1e-4, wrong
    assert record["labels"] == (["core alone", "whole alone", "core and whole"] if kind == "mr" else ["liver", "liver_tumour"])


def test_a_run_goes_on_from_an_imported_one_with_its_preparation(case, tmp_path):
    _, folder, _, _ = case
    run = tmp_path / "run"
    command_line.main(["monai", str(folder), f"--output={run}"])
    record = checkpoint.read_record(run)
    tree = resolve(recorded.get_config(str(run)))
    labels, modalities = tuple(record["labels"]), tuple(record["recipe"]["modalities"])
    assert setup.recipe_from(tree, labels=labels, modalities=modalities) == recipe_from(record)
    model = setup.build_model(tree, record["model"]["num_classes"])
    initial.initialise(model, str(run), Log(run, quiet=True).say)
    params, ours = checkpoint.load_weights(run)[0], functional.split(model)[1]
    assert params.keys() == ours.keys() and all((params[key] == ours[key]).all() for key in params)
    lines: list[str] = []
    patients.say_preparation(run, recipe_from(record), lines.append)
    patients.say_preparation(run, dataclasses.replace(recipe_from(record), spacing=(1.0, 1.0, 3.0)), lines.append)
    assert lines[0] == f"images are prepared as for {run}"
    assert f"otherwise than for {run}: spacing [1.5, 1.5, 2.0] becomes [1.0, 1.0, 3.0]. Its own" in lines[1]


@pytest.fixture
def changed(case, tmp_path):
    """Import the bundle with something changed in its inference.json."""
    _, folder, _, _ = case
    content = json.loads((folder / configuration.INFERENCE).read_text())
    copy = tmp_path / "bundle"
    (copy / "configs").mkdir(parents=True)
    (copy / "models").symlink_to(folder / "models")
    (copy / bundle.METADATA).write_text((folder / bundle.METADATA).read_text())

    def run(change, *more):
        change(content)
        (copy / configuration.INFERENCE).write_text(json.dumps(content))
        return command_line.main(["monai", str(copy), f"--output={tmp_path / 'run'}", *more])

    return run


def transforms(content, part="preprocessing"):
    return content[part]["transforms"]


LARGEST = {"_target_": "KeepLargestConnectedComponentd", "keys": "pred", "applied_labels": [1, 2]}
REFUSED = {
    "a component of no class": (
        lambda c: transforms(c, "postprocessing").append({**LARGEST, "applied_labels": 3}),
        MismatchError,
        "applied_labels 3 is none of the classes 1..2",
    ),
    "crop": (
        lambda c: transforms(c).append({"_target_": "CropForegroundd", "keys": "image", "k_divisible": 16}),
        MismatchError,
        "CropForeground with k_divisible 16",
    ),
    "unknown": (
        lambda c: transforms(c).append({"_target_": "SpatialPadd", "keys": "image"}),
        MismatchError,
        "SpatialPad, which is not supported.*delete it there",
    ),
    "early component": (
        lambda c: transforms(c, "postprocessing").insert(0, LARGEST),
        MismatchError,
        "after AsDiscrete and Invert",
    ),
    "nearest": (lambda c: transforms(c, "postprocessing")[1].update(nearest_interp=True), MismatchError, "nearest_interp"),
    "late orientation": (lambda c: transforms(c).insert(4, transforms(c).pop(2)), MismatchError, "put Orientation first"),
    "padding": (lambda c: c["inferer"].update(padding_mode="reflect"), MismatchError, "padding_mode"),
    "another network": (lambda c: c["network_def"].update(_target_="VNet"), MismatchError, "VNet.*run this bundle in MONAI"),
    "an argument": (lambda c: c["network_def"].update(act="PRELU"), MismatchError, "act"),
    "an expression": (lambda c: transforms(c)[3].update(pixdim="$@pixdim * 2"), ConfigError, "--spacing=1.5"),
    "no windows": (lambda c: c.pop("inferer"), ConfigError, "--window=96"),
    "other weights": (lambda c: c["network_def"].update(init_filters=16), MismatchError, "shape"),
    "no bundle": (lambda c: c.update(preprocessing={"_target_": "Compose", "transforms": 3}), DataError, "is not a bundle"),
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("case", ["ct"], indirect=True, scope="module")
def test_what_has_no_counterpart_is_refused_by_name(changed, what):
    change, error, message = REFUSED[what]
    with pytest.raises(error, match=message):
        changed(change)


@pytest.mark.parametrize("case", ["ct"], indirect=True, scope="module")
def test_settings_of_the_command_line_complete_a_bundle(changed, tmp_path, capsys):
    def strip(content):
        content.pop("inferer")
        transforms(content)[3]["pixdim"] = "$@pixdim * 2"

    assert changed(strip, "--window=24,16,16", "--overlap=0.25", "--blend=constant", "--spacing=2,2,3", "--classes=a,b") == 0
    data = checkpoint.read_record(tmp_path / "run")["config"]["data"]
    assert tuple(data["size"]) == (24, 16, 16) and tuple(data["spacing"]) == (2, 2, 3)
    assert "overrides" in capsys.readouterr().out  # --classes and the bundle's own


@pytest.mark.parametrize("case", ["ct"], indirect=True, scope="module")
def test_the_largest_component_of_each_class_is_kept_as_the_bundle_says(changed, tmp_path):
    assert changed(lambda content: transforms(content, "postprocessing").append(LARGEST)) == 0
    steps = postprocess.read_steps(tmp_path / "run")
    assert steps == [{"step": "keep_largest", "options": {"classes": [k]}} for k in (1, 2)]
    assert checkpoint.read_record(tmp_path / "run")["config"]["infer"]["postprocess"] is True


NETWORKS = {
    "UNETR": dict(in_channels=1, out_channels=2, img_size=[32, 32, 32], feature_size=4, hidden_size=16, mlp_dim=32, num_heads=2),
    "SwinUNETR": dict(in_channels=1, out_channels=2, feature_size=12, depths=[1, 1, 1, 1], num_heads=[2, 2, 2, 2]),
    "DynUNet": dict(
        spatial_dims=3,
        in_channels=1,
        out_channels=2,
        kernel_size=[3, [1, 3, 3], 3],
        strides=[1, [1, 2, 2], 2],
        upsample_kernel_size=[[1, 2, 2], 2],
        filters=[4, 6, 8],
        norm_name="instance",
        deep_supervision=True,
        res_block=True,
    ),
    "UNet": dict(
        spatial_dims=3, in_channels=1, out_channels=2, channels=[4, 6, 8], strides=[2, 2], num_res_units=2, norm="batch"
    ),
    "BasicUNet": dict(in_channels=1, out_channels=2, features=[4, 4, 4, 4, 8, 4], act=["leakyrelu", {"negative_slope": 0.01}]),
}


@pytest.mark.parametrize("kind", [pytest.param(k, marks=pytest.mark.full if k == "SwinUNETR" else ()) for k in NETWORKS])
def test_networks_are_built_from_monais_arguments(kind, tmp_path):
    """A state dict fits the network of the arguments, tensor for tensor."""
    content = inference("ct") | {
        "network_def": {"_target_": f"monai.networks.nets.{kind}", **NETWORKS[kind]},
        "roi": [64, 64, 64],
    }
    if kind == "UNETR":
        content["roi"] = [32, 32, 32]
    (tmp_path / "b" / "configs").mkdir(parents=True)
    (tmp_path / "b" / "models").mkdir()
    (tmp_path / "b" / configuration.INFERENCE).write_text(json.dumps(content))
    torch.save(getattr(nets, kind)(**NETWORKS[kind]).state_dict(), tmp_path / "b" / "models" / "model.pt")
    assert command_line.main(["monai", str(tmp_path / "b"), f"--output={tmp_path / 'run'}", "--classes=liver"]) == 0
    record = checkpoint.read_record(tmp_path / "run")
    assert record["model"]["num_classes"] == 2 and record["config"]["model"]["softmax"]


def test_plain_weights_take_everything_from_the_command_line(tmp_path):
    weights = tmp_path / "model.pt"
    torch.save({"state_dict": nets.SegResNet(3, 8, 1, 1, blocks_down=(1, 1), blocks_up=(1,)).state_dict()}, weights)
    first = ["monai", str(weights), f"--output={tmp_path / 'run'}", "--network=segresnet", "--option=width=8"]
    first += ["--option=blocks_down=1,1", "--option=blocks_up=(1,)", "--activation=sigmoid", "--classes=lesion"]
    with pytest.raises(ConfigError, match="spacing, orientation, intensity, window, overlap, blend"):
        command_line.main(first)
    more = ["--spacing=scan", "--orientation=lps", "--intensity=zscore", "--window=16,16,16", "--overlap=0", "--blend=constant"]
    assert command_line.main([*first, *more]) == 0
    record = checkpoint.read_record(tmp_path / "run")
    assert record["model"]["num_classes"] == 1 and record["recipe"]["spacing"] is None and record["labels"] == ["lesion"]
    with pytest.raises(ConfigError, match="exists"):
        command_line.main([*first, *more])
    assert Path(record["imported"]["file"]) == weights
