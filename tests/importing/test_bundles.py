"""Preprocessings of bundles: chains of intensities, boxes around the foreground, slices; each beside MONAI's own transforms."""

import json

import nibabel
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

torch = pytest.importorskip("torch", reason="parity needs the extra [parity]")
pytest.importorskip("monai", reason="parity needs the extra [parity]")

from monai.bundle import ConfigParser  # noqa: E402
from monai.data import decollate_batch, list_data_collate  # noqa: E402
from monai.networks import nets  # noqa: E402

from jaxseg import checkpoint  # noqa: E402
from jaxseg.data.formats import volumes  # noqa: E402
from jaxseg.exporting.runner import images as runner_images  # noqa: E402
from jaxseg.exporting.runner import preparation as runner  # noqa: E402
from jaxseg.importing import command_line  # noqa: E402
from jaxseg.importing.bundles import configuration, preprocessing  # noqa: E402
from jaxseg.infer import predict  # noqa: E402
from jaxseg.infer.run import open_run  # noqa: E402
from jaxseg.types import MismatchError  # noqa: E402
from tests.models.ports import parity  # noqa: E402

KEYS = {"keys": "image"}
CROP = {"_target_": "CropForegroundd", "source_key": "image", "allow_smaller": True, **KEYS}
RANGE = {"_target_": "ScaleIntensityRanged", "a_min": 5, "a_max": 120, "b_min": 0, "b_max": 1, "clip": True, **KEYS}
SPACING = {"_target_": "Spacingd", "pixdim": [1.5, 1.5, 2.0], "mode": "bilinear", **KEYS}
NORMAL = {"_target_": "NormalizeIntensityd", "nonzero": True, "channel_wise": True, **KEYS}
PERCENTILES = {"_target_": "ScaleIntensityRangePercentilesd", "lower": 2, "upper": 97.5, "b_min": -1, "b_max": 2, **KEYS}
CHAINS = {
    "scaled, cropped, resampled": [RANGE, CROP, SPACING],
    "resampled, scaled, cropped": [SPACING, RANGE, {**CROP, "margin": 2}],
    "cropped above a value, then z-scores of the box": [
        {**CROP, "select_fn": "$lambda x: x > 12.5"},
        {**NORMAL, "nonzero": False},
        SPACING,
    ],
    "percentiles, clipped": [SPACING, {**PERCENTILES, "clip": True}],
    "percentiles of the box": [SPACING, CROP, {**PERCENTILES, "relative": True}],
    "z-scores to a range": [
        SPACING,
        {**NORMAL, "channel_wise": False},
        {"_target_": "ScaleIntensityd", "minv": -1, "maxv": 1, **KEYS},
    ],
    "a range to z-scores": [{"_target_": "ScaleIntensityd", **KEYS}, {**NORMAL, "nonzero": False}],
}


def composed(steps: list[dict]) -> dict:
    opening = ("LoadImaged", "EnsureChannelFirstd")
    return {"_target_": "Compose", "transforms": [{"_target_": name, **KEYS} for name in opening] + steps}


def scan(path, seed: int = 0) -> None:
    """Smooth values from -20 to 180 inside of a ball that touches no border, 0 outside of it."""
    values = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(31, 26, 15)), 2)
    ball = sum((g - n / 2.1) ** 2 / (n / 2.4) ** 2 for g, n in zip(np.indices(values.shape), values.shape)) < 0.7
    array = np.where(ball, (values - values.min()) / np.ptp(values) * 200 - 20, 0).astype(np.float32)
    affine = np.diag([-1.17, 1.37, 3.1, 1.0])
    affine[:3, 3] = 30, -20, 10
    nibabel.save(nibabel.Nifti1Image(array, affine), path)


def write(folder, content: dict, network=None) -> None:
    (folder / "configs").mkdir(parents=True)
    (folder / configuration.INFERENCE).write_text(json.dumps(content))
    (folder / "models").mkdir()
    if network is not None:
        torch.save(network.state_dict(), folder / "models" / "model.pt")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """(file of a scan, a run that was imported with it)."""
    root = tmp_path_factory.mktemp("small")
    scan(root / "scan.nii.gz")
    options = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2, "channels": [4, 4], "strides": [2]}
    content = {
        "network_def": {"_target_": "UNet", **options},
        "preprocessing": composed([SPACING]),
        "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [8, 8, 8]},
        "postprocessing": {"_target_": "Compose", "transforms": [{"_target_": "Activationsd", "keys": "pred", "softmax": True}]},
    }
    write(root / "bundle", content, nets.UNet(**options))
    return root / "scan.nii.gz", content, root / "bundle" / "models"


@pytest.mark.parametrize("chain", CHAINS)
def test_a_preprocessing_gives_monais_image_in_predict_and_in_an_exported_file(small, chain, tmp_path):
    path, content, models = small
    content = content | {"preprocessing": composed(CHAINS[chain])}
    write(tmp_path / "bundle", content)
    (tmp_path / "bundle" / "models").rmdir()
    (tmp_path / "bundle" / "models").symlink_to(models)
    theirs = ConfigParser({"p": content["preprocessing"]}).get_parsed_content("p")({"image": str(path)})["image"].numpy()[0]
    assert command_line.main(["monai", str(tmp_path / "bundle"), f"--output={tmp_path / 'run'}", "--classes=ball"]) == 0
    record = checkpoint.read_record(tmp_path / "run")
    opened = open_run(tmp_path / "run", record["config"]["infer"])
    ours = opened.preparation.prepare([volumes.read_volume(path)])
    assert ours.inputs.shape[1:-1] == theirs.shape
    np.testing.assert_allclose(ours.inputs[0, ..., 0], theirs, atol=2e-5 * max(1, np.abs(theirs).max()))
    exported = runner.prepare([runner_images.read_image(str(path))], record["recipe"], 3)
    np.testing.assert_allclose(exported.inputs, ours.inputs, atol=1e-6)
    assert exported.place == tuple(getattr(ours.place, name) for name in exported.place._fields)


def test_a_network_of_slices_finds_in_pictures_what_monai_finds(tmp_path):
    options = dict(spatial_dims=2, in_channels=3, out_channels=3, channels=[4, 6], strides=[2], num_res_units=1)
    content = {
        "network_def": {"_target_": "UNet", **options},
        "preprocessing": composed([{"_target_": "ScaleIntensityd", "channel_wise": True, **KEYS}]),
        "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [16, 24], "overlap": 0.5, "sw_batch_size": 3},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "Activationsd", "keys": "pred", "softmax": True},
                {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
            ],
        },
    }
    rng = np.random.default_rng(0)
    colours = ndimage.gaussian_filter(rng.normal(size=(37, 50, 3)), (3, 3, 0))
    (tmp_path / "images").mkdir()
    path = tmp_path / "images" / "a.png"
    Image.fromarray(np.uint8(np.clip(colours * 600 + 128, 0, 255))).save(path)
    parser = ConfigParser(content)
    prepare, inferer, after = (parser.get_parsed_content(part) for part in ("preprocessing", "inferer", "postprocessing"))
    batch = list_data_collate([prepare({"image": str(path)})])
    network = parity.redraw(
        nets.UNet(**options), np.moveaxis(np.asarray(batch["image"])[:, :, :32, :32], 1, -1), classifier="model.2"
    )
    write(tmp_path / "bundle", content, network)
    with torch.no_grad():
        batch["pred"] = inferer(batch["image"], network.eval())
    (done,) = [after(one) for one in decollate_batch(batch)]
    theirs = np.asarray(done["pred"]).astype(int)[0].T
    assert command_line.main(["monai", str(tmp_path / "bundle"), f"--output={tmp_path / 'run'}", "--classes=a,b"]) == 0
    record = checkpoint.read_record(tmp_path / "run")
    assert tuple(record["config"]["data"]["size"]) == (16, 24, 1) and record["model"]["options"]["network"] == "monai_unet"
    settings = record["config"]["infer"] | {"overlay": False}
    assert predict.predict(tmp_path / "run", tmp_path / "images", tmp_path / "out", settings=settings, say=lambda text: None) == 0
    ours = np.asarray(Image.open(tmp_path / "out" / "a.png"))
    assert ours.shape == theirs.shape and len(np.unique(theirs)) == 3
    assert (ours != theirs).mean() <= 1e-3


@pytest.mark.parametrize(
    "steps, message",
    [
        ([NORMAL, CROP], "CropForeground after zscore_own_nonzero is not supported"),
        ([RANGE, SPACING, CROP], "put Spacing first"),
        ([RANGE, NORMAL], "NormalizeIntensity after the transform for intensities before it"),
        ([{**CROP, "select_fn": "$lambda x: x != 0"}], "select_fn .* is not supported"),
        ([{**CROP, "margin": 3, "allow_smaller": False}], "allow_smaller False"),
        ([{**PERCENTILES, "lower": 99}], "lower 99, upper 97.5"),
    ],
)
def test_orders_that_jaxseg_does_not_have_are_refused_with_a_remedy(steps, message):
    with pytest.raises(MismatchError, match=message):
        preprocessing.preparation(configuration.transforms_of(composed(steps)))
