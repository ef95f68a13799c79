"""What nnU-Net itself predicts for the set-ups: writes expected/NAME.npz. Needs an environment with nnunetv2 (`make nnunet`).

python -m tests.importing.live
"""

import tempfile
from pathlib import Path

import nibabel
import numpy as np
import torch
from nibabel import orientations
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

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


def main() -> None:
    EXPECTED.mkdir(exist_ok=True)
    for name, setup in setups.SETUPS.items():
        with tempfile.TemporaryDirectory() as scratch:
            model = setups.write_model(Path(scratch) / "model", name)
            images = setups.write_case(Path(scratch) / "imagesTs", name)
            predictor = nnUNetPredictor(device=torch.device("cpu"), use_mirroring=True, allow_tqdm=False)
            predictor.initialize_from_trained_model_folder(str(model), setup["folds"])
            out = Path(scratch) / "out"
            predictor.predict_from_files(
                str(images), str(out), True, num_processes_preprocessing=1, num_processes_segmentation_export=1
            )
            labels = setups.read_labels(out, name)
            probabilities = as_stored(np.load(out / "drawn.npz")["probabilities"], images, setup["plans"]["image_reader_writer"])
            one = predictor.configuration_manager.preprocessor_class(verbose=False)
            files = [str(p) for p in sorted(images.glob("drawn_*"))]
            prepared, _, _ = one.run_case(
                files, None, predictor.plans_manager, predictor.configuration_manager, predictor.dataset_json
            )
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
        )
        print(name, labels.shape, np.bincount(labels.ravel()), prepared.shape, logits.std())


if __name__ == "__main__":
    main()
