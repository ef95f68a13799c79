"""Runs as training leaves them, with initial weights and the smallest network: of dark pictures, and of small CT volumes."""

from pathlib import Path

import nibabel
import numpy as np
import tiny_volumes as tiny
from PIL import Image

from jaxseg import checkpoint, described
from jaxseg.models import functional
from jaxseg.train import setup
from jaxseg.train.log import Log

PICTURES = {
    "data__size": (16, 16),
    "data__channels": 1,
    "data__mean": (),
    "data__std": (),
    "data__window": (22.0, 44.0),
    "eval__thresholds": (0.5,),
}
VOLUMES = {"data__size": (8, 8, 8), "data__window": (22.0, 44.0), "data__spacing": (1.5, 1.5, 1.5), "infer__overlap": 0.0}
FRACTIONS = {"data__fractions": (0.4, 0.3, 0.3), "train__batch_size": 2}


def write(root: Path, rank: int, count: int = 8, shape: tuple[int, ...] = ()) -> Path:
    """Pictures of 30 x 44 pixels, or volumes of 12 x 10 x 9 voxels, with values up to 44, and masks of one class."""
    shape = shape or {2: (30, 44), 3: (12, 10, 9)}[rank]
    random = np.random.default_rng(rank)
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True, exist_ok=True)
    for i in range(count):
        mask = np.zeros(shape, np.uint8)
        mask[tuple(slice(n // 4, n // 4 + n // 2) for n in shape)] = 1
        image = random.integers(0, 30, shape).astype(np.uint8) + 14 * mask
        if rank == 2:
            Image.fromarray(image).save(root / "images" / f"{i}.png")
            Image.fromarray(mask * np.uint8(255)).save(root / "masks" / f"{i}.png")
        else:
            affine = np.diag([-1.0, 1.0, 2.0, 1.0])
            nibabel.save(nibabel.Nifti1Image(image.astype(np.int16), affine), root / "images" / f"{i}.nii.gz")
            nibabel.save(nibabel.Nifti1Image(mask, affine), root / "masks" / f"{i}.nii.gz")
    return root


def config(root: Path, rank: int, **changes):
    """The resolved config of such a run."""
    words, given = ("quick", PICTURES) if rank == 2 else ("volumes,quick", VOLUMES)
    tree = tiny.config("folder", words, data__root=str(root), data__phantom=None, **{**given, **FRACTIONS, **changes})
    return described.fill(tree).config


def make(folder: Path, tree) -> Path:
    """A run folder with the initial weights of a config, the classifier's scaled so that half of the voxels are foreground."""
    folder.mkdir(parents=True)
    log = Log(folder, quiet=True)
    data = setup.load_data(tree, log, folder)
    job = setup.build(tree, folder, data, log)
    checkpoint.write_record(folder, setup.record_of(tree, data, 1))
    network, _, _ = functional.split(setup.build_model(tree, 1, abstract=True))
    params = {name: np.asarray(value) for name, value in job.state["params"].items()}
    image = np.asarray(data.store.image(0))[None]
    image = image[:, *(slice(0, n // 4 * 4) for n in image.shape[1:-1])]  # the smallest network takes multiples of 4
    image = image / np.float32(255) if image.dtype == np.uint8 else image
    weight, bias = (next(name for name in params if name.startswith("head") and name.endswith(end)) for end in ("weight", "bias"))
    params[weight] = params[weight] * 20
    logits = network.apply(params, job.state["state"], image)[0].logits
    params[bias] = params[bias] - np.median(np.asarray(logits))
    job.checkpoints.save(1, {**job.state, "params": params}, {"evaluated": "params"})
    job.checkpoints.wait()
    log.close()
    return folder
