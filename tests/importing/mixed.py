"""A data set that is hard to import, models that nnU-Net trains on it, and what it predicts. Needs an environment with nnunetv2.

python -m tests.importing.mixed FOLDER

Four channels with four normalisations, regions whose order is not that of their labels, an ignore label, thick slices along the
files' first axis (nnU-Net transposes), much black around the heads (nnU-Net crops), NRRD files, oblique.

FOLDER/raw, pre, res    the three folders of nnU-Net: data sets, prepared data, model folders
FOLDER/theirs/NAME      labels that nnU-Net predicts for the test cases:
  folds, folds-processed   three folds in 3-D with residual encoders; with a post-processing that removes components
  step                     the same without mirroring and with steps of 0.7 of a window
  best, final              fold_all in 2-D: its two checkpoints
"""

import json
import pickle
import sys
from pathlib import Path

import numpy as np
from scipy import ndimage

from tests.importing import trained

NAME, PLANS = "Dataset104_Mixed", "nnUNetResEncUNetMPlans"
STEPS = 12  # so few that many labels are undecided, and there are components to remove
LABELS = {"background": 0, "whole": [1, 2, 3], "core": [1, 3], "active": 3, "ignore": 4}
CHANNELS = ("noNorm", "CT", "T2", "rescale_to_0_1")
STEP = 0.7  # of a window
VOLUME, PLANE = (f"{NAME}/{trained.PLAIN}__{PLANS}__{which}" for which in ("3d_fullres", "2d"))


def write(root: Path) -> None:
    """Twelve cases, of which nine are for training."""
    import SimpleITK

    about = {"channel_names": {str(c): name for c, name in enumerate(CHANNELS)}, "labels": LABELS}
    about |= {"regions_class_order": [2, 1, 3], "numTraining": 9, "file_ending": ".nrrd"}
    place = trained._folder(root, NAME, about)
    for i, codes in enumerate(["ILP", "SLP", "IRP", "ILP", "IPL", "ILA", "ILP", "SRA", "ILP", "ILP", "SPR", "LPI"]):
        random = np.random.default_rng(300 + i)
        edges = {"L": (48, 56, 0.9), "P": (52, 60, 0.8), "I": (14, 18, 4.2)}
        shape, spacing = trained._grid(random, codes, edges, 1 + 0.05 * (i % 3))
        mask = np.array([0, 2, 1, 3], np.uint8)[trained.balls(random, shape, spacing, 2 if i % 4 == 1 else 3)]
        grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
        head = sum(g**2 for g in grid) < 0.62  # the rest is black
        mask[~head] = 0
        gains = ([0, 0.6, 0.3, 1.1], [0, 320, 200, 420], [0, 90, 200, 160], [0, 60, 40, 110])
        levels, noises = (1.5, -150, 400, 70), (0.35, 90, 60, 18)
        to_world, part = trained.affine(codes, spacing, 0.12 * (i % 3), i % 3), "Tr" if i < 9 else "Ts"
        for channel, (gain, level, noise) in enumerate(zip(gains, levels, noises)):
            grain = ndimage.gaussian_filter(random.normal(0, 1, shape), 0.7) * noise * 2
            array = (level + grain + np.array(gain)[mask]) * head
            array = np.round(array).astype(np.int16) if channel == 1 else array.astype(np.float32)
            _save(SimpleITK, array, to_world, place / f"images{part}/mixed_{i:03d}_{channel:04d}.nrrd")
        if part == "Tr":
            mask[:, :3] = 4  # a strip that nobody labelled
            _save(SimpleITK, mask, to_world, place / f"labelsTr/mixed_{i:03d}.nrrd")


def _save(sitk, array: np.ndarray, to_world: np.ndarray, path: Path) -> None:
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    to_lps = np.diag([-1, -1, 1]) @ to_world[:3]
    spacing = np.linalg.norm(to_lps[:, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((to_lps[:, :3] / spacing).ravel().tolist())
    image.SetOrigin(to_lps[:, 3].tolist())
    sitk.WriteImage(image, str(path), True)


def smaller(configurations: dict) -> None:
    """Small batches and patches in plans, so that a case has several windows along every axis."""
    for name, patch in (("3d_fullres", [8, 32, 24]), ("2d", [32, 24])):
        configurations[name] |= {"batch_size": 4, "patch_size": patch}


def post_processing(model: Path) -> None:
    """The file of a post-processing that keeps the largest component of all regions, then that of the innermost."""
    from nnunetv2.postprocessing.remove_connected_components import remove_all_but_largest_component_from_segmentation as keep

    given = [{"labels_or_regions": [(1, 2, 3), (1, 3), 3]}, {"labels_or_regions": [3], "background_label": 0}]
    (model / "postprocessing.pkl").write_bytes(pickle.dumps(([keep, keep], given)))


def predict(model: Path, folds, images: Path, out: Path, *, checkpoint="checkpoint_final.pth", step=0.5, mirror=True) -> Path:
    """What nnUNetv2_predict -chk CHECKPOINT -step_size STEP (--disable_tta) gives."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(step, use_mirroring=mirror, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), folds, checkpoint)
    out.mkdir(parents=True)
    predictor.predict_from_files_sequential(str(images), str(out))
    return out


def main() -> None:
    root = Path(sys.argv[1]).resolve()
    program, theirs, images = trained.Nnunet(root), root / "theirs", root / "raw" / NAME / "imagesTs"
    write(root)
    program.plan(104, NAME, PLANS, ["3d_fullres", "2d"], 3, smaller)
    plans = json.loads((root / "pre" / NAME / f"{PLANS}.json").read_text())
    full = plans["configurations"]["3d_fullres"]
    print(
        plans["transpose_forward"], full["normalization_schemes"], full["use_mask_for_norm"], full["patch_size"], full["spacing"]
    )
    program.train(NAME, PLANS, "3d_fullres", (0, 1, 2), validate=False, steps=STEPS)
    volume, plane = root / "res" / VOLUME, root / "res" / PLANE
    predict(volume, (0, 1, 2), images, theirs / "folds")
    predict(volume, (0, 1, 2), images, theirs / "step", step=STEP, mirror=False)
    post_processing(volume)
    _processed(volume, theirs / "folds", theirs / "folds-processed")
    program.train(NAME, PLANS, "2d", ("all",), validate=False, steps=STEPS)
    fold = plane / "fold_all"
    (fold / "checkpoint_final.pth").rename(fold / "earlier.pth")
    program.train(NAME, PLANS, "2d", ("all",), validate=False, steps=2 * STEPS)
    (fold / "earlier.pth").replace(fold / "checkpoint_best.pth")  # that of one epoch is the final one
    for which in ("best", "final"):
        predict(plane, ("all",), images, theirs / which, checkpoint=f"checkpoint_{which}.pth")


def _processed(model: Path, found: Path, out: Path) -> None:
    from nnunetv2.postprocessing.remove_connected_components import apply_postprocessing_to_folder

    steps = pickle.loads((model / "postprocessing.pkl").read_bytes())
    apply_postprocessing_to_folder(str(found), str(out), *steps, str(model / "plans.json"), str(model / "dataset.json"), 1)


if __name__ == "__main__":
    main()
