"""Every experiment file runs end to end with `:quick`, and every other word it takes resolves to something that can be built.

One process, compiled without optimisation, on one device: a new file in configs/ is picked up by itself.
"""

import csv
import functools
import importlib
import json
import math
import os
import tempfile
from pathlib import Path

import jax
import nibabel
import numpy as np
import pytest

from configs import _arguments
from jaxseg import described, modes, preflight
from jaxseg.augment import compose as augmentations
from jaxseg.config import resolve
from jaxseg.data import datasets
from jaxseg.data.datasets import organs_ct
from jaxseg.layers import ForwardContext
from jaxseg.models import create_model, functional
from jaxseg.optim import build as optimizers
from jaxseg.optim import schedules
from jaxseg.train import feed as feeds
from jaxseg.train import setup
from tests import untrained

NAMES = sorted(p.stem for p in (Path(__file__).parent.parent / "configs").glob("[a-z]*.py"))
# SegNeXt's quick variant compiles for half a minute; .ci/run trains it by the main config, tests/train by single steps.
OTHER_NETWORK = dict.fromkeys(("ich_segnext", "organs_ct", "scoliosis"), "unet_test")
BY_DEFAULT = {"brats_unet3d", "folder"}  # whole runs; those of the other configs are the long set
FIRST = {"brats_cascade": ("brats_roi", "infer.roi")}  # what must have run before, and the key that names its folder


@functools.cache
def volumes() -> tempfile.TemporaryDirectory:
    """Small volumes, for what the phantom of pictures cannot stand for."""
    folder = tempfile.TemporaryDirectory()
    untrained.write(Path(folder.name), 3)
    return folder


def tree(name: str, arguments: str, given: dict):
    """The resolved config of an experiment, with keys as on the command line; what it leaves to the data, its phantom says."""
    config = importlib.import_module(f"configs.{name}").get_config(arguments)
    if config.data.dataset == datasets.AUTO:
        given = {**given, "data.root": volumes().name if config.data.rank == 3 else ""}
    config.update_from_flattened_dict(given)
    return described.fill(resolve(config, name=name, overridden=list(given))).config


# ---------------------------------------------------------------- whole runs

X, Y = 64, 56  # columns and rows of 3 mm


def write_organs(root: Path) -> Path:
    """The five parts of the organs set, coarse: blocks of four organs in noise."""
    dicom = pytest.importorskip("pydicom", reason="DICOM needs the extra [dicom]")
    rng = np.random.default_rng(0)

    def patient(slices):
        labels = np.zeros((X, Y, slices), np.int16)
        for i, number in enumerate((5, 1, 52, 6)):  # liver, spleen, aorta, stomach
            labels[14 * i + 4 : 14 * i + 14, 10:40] = number
        return labels, (labels * 3 + rng.normal(0, 5, labels.shape)).astype(np.int16)

    labels, scan = patient(112)
    affine = np.diag([-3.0, -3.0, 3.0, 1.0])
    nibabel.save(nibabel.Nifti1Image(scan, affine), root / organs_ct.CT_A)
    nibabel.save(nibabel.Nifti1Image(labels, affine), root / organs_ct.MASK_A)
    labels, scan = patient(20)
    nibabel.save(nibabel.Nifti1Image(labels, np.diag([-3.0, -3.0, 2.0, 1.0])), root / organs_ct.MASK_B)
    (root / organs_ct.CT_B).mkdir()
    series = dicom.uid.generate_uid()
    for k in range(20):
        meta = dicom.dataset.FileMetaDataset()
        meta.MediaStorageSOPClassUID = dicom.uid.CTImageStorage
        meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID = dicom.uid.generate_uid(), dicom.uid.ExplicitVRLittleEndian
        data = dicom.dataset.FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        data.SOPClassUID, data.SOPInstanceUID, data.SeriesInstanceUID = (
            dicom.uid.CTImageStorage,
            meta.MediaStorageSOPInstanceUID,
            series,
        )
        data.Rows, data.Columns, data.SamplesPerPixel, data.PhotometricInterpretation = Y, X, 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
        data.PixelSpacing, data.SliceThickness = [3.0, 3.0], 2.0
        data.ImageOrientationPatient, data.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0.0, 0.0, 2.0 * k]
        data.RescaleSlope, data.RescaleIntercept = 1, 0
        data.PixelData = np.ascontiguousarray(scan[:, :, k].T).tobytes()
        data.save_as(root / organs_ct.CT_B / f"{k:02d}.dcm", enforce_file_format=True)
    (root / organs_ct.NUMBERS).write_text('class_map = {"total": {1: "spleen", 5: "liver", 6: "stomach", 52: "aorta"}}\n')
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory, unoptimised):
    """name -> folder of its quick run, which is made when it is first asked for."""
    folder = tmp_path_factory.mktemp("quick")
    before, os.environ["JAXSEG_CACHE"] = os.environ.get("JAXSEG_CACHE"), str(folder / "cache")

    @functools.cache
    def organs() -> Path:
        (folder / "organs").mkdir()
        return write_organs(folder / "organs")

    @functools.cache
    def made(name: str) -> Path:
        given = {"mesh.data": 1}
        config = tree(name, "quick", given)
        if config.data.rank == 2 and len(preflight.labels_of(config)) == 1:
            given["eval.thresholds"] = (0.5,)  # one threshold: the report's program is the validation's
        if name in OTHER_NETWORK:
            given["model.name"] = OTHER_NETWORK[name]
        if name in FIRST:
            first, key = FIRST[name]
            given[key] = str(made(first))
        if not hasattr(datasets.MODULES[config.data.dataset], "phantom"):
            given["data.root"] = str(organs())
        assert modes.train(modes.Call(config=tree(name, "quick", given), workdir=folder / name)) is None
        return folder / name

    yield made
    os.environ.pop("JAXSEG_CACHE")
    if before is not None:
        os.environ["JAXSEG_CACHE"] = before


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in BY_DEFAULT else pytest.mark.full) for n in NAMES])
def test_the_quick_variant_trains_is_chosen_and_is_scored(run, name):
    folder = run(name)
    record, scores = (json.loads((folder / f"{file}.json").read_text()) for file in ("run", "evaluation"))
    rows = list(csv.DictReader((folder / "epochs.csv").open()))
    assert len(rows) == record["config"]["train"]["epochs"] <= 3
    assert all(math.isfinite(float(row["train_loss"])) for row in rows) and math.isfinite(scores["loss"])
    assert any(p.name.isdigit() for p in (folder / "checkpoints").iterdir())
    written = folder / "evaluations" / f"test@{scores['weights']['step']}"
    assert (written / "cases.csv").exists() and json.loads((written / "evaluation.json").read_text()) == scores
    if record["config"]["data"]["rank"] == 2:
        assert scores["tables"].keys() == set(record["config"]["eval"]["tables"])
    if name in FIRST:
        assert 0 <= scores["cascade"]["mean_dice"] <= 1


# ---------------------------------------------------------------- every other word


def words(name: str) -> list[str]:
    """What the config says it takes, one word at a time."""
    module, found = importlib.import_module(f"configs.{name}"), []

    def parse(arguments, *, sizes=(), flags=()):
        found.extend((*sizes, *flags))
        return _arguments.parse(arguments, sizes=sizes, flags=flags)

    def network_and_flags(arguments, *flags):
        found.extend(flags)
        return _arguments.network_and_flags(arguments, *flags)

    with pytest.MonkeyPatch.context() as patch:
        for spy in (parse, network_and_flags):
            if hasattr(module, spy.__name__):
                patch.setattr(module, spy.__name__, spy)
        module.get_config("")
    assert found, f"configs/{name}.py reads its arguments by neither function of configs/_arguments.py"
    return ["", *(w for w in dict.fromkeys(found) if w != "quick")]


ROWS = [(name, word) for name in NAMES for word in words(name)]


@functools.cache
def abstract(name: str, channels: int, classes: int, rank: int, options: str):
    """(model, network, params, state), shapes alone."""
    model = create_model(name, in_channels=channels, num_classes=classes, rank=rank, abstract=True, **dict(json.loads(options)))
    return model, *functional.split(model)


@pytest.mark.parametrize("name,word", ROWS, ids=[f"{n}-{w or 'plain'}" for n, w in ROWS])
def test_every_word_of_a_config_makes_a_network_a_loss_and_an_optimiser(name, word):
    config = tree(name, word, {"data.root": "/where/the/data/are"})
    count = len(preflight.labels_of(config))
    outputs = feeds.outputs_of(config, tuple(f"class {i}" for i in range(count)), datasets.regions_of(config.data.dataset))
    model, network, params, state = abstract(
        config.model.name,
        setup.input_channels(config),
        outputs.num_classes,
        config.data.rank,
        json.dumps(config.model.options.to_dict()),
    )
    shape = setup.input_shape(config)
    model.check(shape)
    augmentations.build(tuple(config.train.augment), rank=config.data.rank)
    optimizers.build(
        params,
        name=config.optim.name,
        options=config.optim.options.to_dict(),
        groups=tuple(config.optim.groups),
        weight_decay=config.optim.weight_decay,
        clip_norm=config.optim.clip_norm,
    )
    options = config.schedule.options.to_dict()
    if config.schedule.name == "plateau":
        schedules.Plateau(lr=config.optim.lr, mode="min", **options)
    else:
        schedules.build(
            name=config.schedule.name,
            warmup=config.schedule.warmup,
            warmup_ratio=config.schedule.warmup_ratio,
            options=options,
            total_steps=100 * config.train.epochs,
            steps_per_epoch=100,
        )
    loss = setup.build_loss(config)
    if config.loss.aux_weights:  # as many as the network has outputs
        image = jax.ShapeDtypeStruct((1, *shape[1:]), np.float32)
        mask = jax.ShapeDtypeStruct(image.shape[:-1], np.int32)
        context = ForwardContext(train=True, key=jax.random.key(0))
        train = lambda p, s, x, m: loss(network.apply(p, s, x, context)[0], {"mask": m})[0]
        assert jax.eval_shape(train, params, state, image, mask).shape == ()
