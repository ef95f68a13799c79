"""What nnU-Net itself predicts for the set-ups: writes expected/NAME.npz. Needs an environment with nnunetv2 (`make nnunet`).

python -m tests.importing.live [NAME ...]
"""

import sys
import tempfile
from pathlib import Path

import nibabel
import numpy as np
import torch
from nibabel import orientations
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.label_handling.label_handling import convert_labelmap_to_one_hot

from tests.importing import setups

EXPECTED = Path(__file__).parent / "expected"


def as_stored(probabilities: np.ndarray, images: Path, reader: str) -> np.ndarray:
    """nnU-Net's [K, Z, Y, X] in the axes of the case's file: [K, X, Y, Z], of a picture [K, H, W]."""
    if reader == "NaturalImage2DIO":
        return probabilities[:, 0]
    found = probabilities.transpose(0, 3, 2, 1)
    if reader != "NibabelIOWithReorient":
        return found
    there = orientations.io_orientation(nibabel.load(images / "drawn_0000.nii.gz").affine)
    back = orientations.ornt_transform(orientations.axcodes2ornt("RAS"), there)
    return np.stack([orientations.apply_orientation(one, back) for one in found])


def opened(model: Path, folds: tuple[int, ...]) -> nnUNetPredictor:
    """nnU-Net's predictor with these folds."""
    predictor = nnUNetPredictor(device=torch.device("cpu"), use_mirroring=True, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), folds)
    return predictor


def predicted(predictor: nnUNetPredictor, images: Path, out: Path, previous: Path | None = None) -> Path:
    """Its predictions, with probabilities; `previous`: those of a cascade's first stage."""
    one = {"num_processes_preprocessing": 1, "num_processes_segmentation_export": 1}
    first = None if previous is None else str(previous)
    predictor.predict_from_files(str(images), str(out), True, folder_with_segs_from_prev_stage=first, **one)
    return out


def main() -> None:
    EXPECTED.mkdir(exist_ok=True)
    for name, setup in setups.SETUPS.items():
        if name not in (sys.argv[1:] or setups.SETUPS):
            continue
        with tempfile.TemporaryDirectory() as scratch:
            model = setups.write_model(Path(scratch) / "model", name)
            images = setups.write_case(Path(scratch) / "imagesTs", name)
            predictor, first = opened(model, setup["folds"]), None
            if "previous" in setup:
                coarse = opened(model.parent / f"nnUNetTrainer__nnUNetPlans__{setup['previous']}", setup["folds"])
                first = predicted(coarse, images, Path(scratch) / "first")
            out = predicted(predictor, images, Path(scratch) / "out", first)
            labels = setups.read_labels(out, name)
            stage_labels = None if first is None else setups.read_labels(first, name)
            probabilities = as_stored(np.load(out / "drawn.npz")["probabilities"], images, setup["plans"]["image_reader_writer"])
            one = predictor.configuration_manager.preprocessor_class(verbose=False)
            files = [str(p) for p in sorted(images.glob("drawn_*"))]
            stage = None if first is None else str(first / "drawn.nii.gz")
            prepared, masks, _ = one.run_case(
                files, stage, predictor.plans_manager, predictor.configuration_manager, predictor.dataset_json
            )
            if first is not None:
                found = convert_labelmap_to_one_hot(masks[0], predictor.label_manager.foreground_labels, prepared.dtype)
                prepared = np.concatenate([prepared, found])
            window = predictor.configuration_manager.patch_size
            cut = prepared[:, 0] if len(window) == 2 else prepared
            cut = cut[(slice(None), *(slice(0, n) for n in window))]
            with torch.no_grad():
                predictor.network.load_state_dict(predictor.list_of_parameters[0])
                logits = predictor.network.eval()(torch.from_numpy(np.ascontiguousarray(cut))[None])[0].numpy()
        np.savez_compressed(
            EXPECTED / f"{name}.npz",
            labels=labels,
            probabilities=probabilities.astype(np.float16),
            prepared=prepared.astype(np.float32),
            logits=logits.astype(np.float32),
            **({} if first is None else {"first": stage_labels}),
        )
        print(name, labels.shape, np.bincount(labels.ravel()), prepared.shape, logits.std())


if __name__ == "__main__":
    main()
