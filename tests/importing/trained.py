"""Small data sets, the models that nnU-Net trains on them, and what it predicts with them. Needs an environment with nnunetv2.

python -m tests.importing.trained FOLDER [png mri ct barely]

FOLDER/raw, pre, res    the three folders of nnU-Net: data sets, prepared data, model folders
FOLDER/theirs/NAME      labels that nnU-Net predicts for the test cases of a model; NAME-processed with its post-processing
FOLDER/exported.zip     the model of pictures, as nnUNetv2_export_model_to_zip writes it

mri   two channels, oblique, residual encoders of the M preset, three folds, regions and an ignore label, mirroring
ct    one channel, oblique, no mirroring: 3d_lowres and 3d_cascade_fullres of two folds, 3d_fullres of fold_all
png   natural colour pictures, 2-D
barely  residual encoders of all presets, in 2-D and 3-D, after so few steps that rounding decides many labels; see BARELY

Networks are narrower than planned, and trained for a few steps. `test_trained.py` compares; `make nnunet` runs both.
"""

import json
import multiprocessing
import multiprocessing.pool
import os
import shutil
import sys
import types
from pathlib import Path

import nibabel
import numpy as np
from PIL import Image
from scipy import ndimage

STEPS, FEW = 60, 8  # of training
CODES = "LRPAIS"
MARGIN = 10  # mm around the organ in the task of several models
PLAIN, NO_MIRRORING = "nnUNetTrainer", "nnUNetTrainerNoMirroring"
BARELY = {  # name: (data set, preset of the residual encoders, configuration, folds, trainer)
    "large": ("Dataset101_Mri", "L", "3d_fullres", (0, 1, 2), PLAIN),
    "largest": ("Dataset101_Mri", "XL", "3d_fullres", (0, 1, 2), NO_MIRRORING),
    "planes": ("Dataset102_Ct", "M", "2d", (0, 1), PLAIN),
    "colour": ("Dataset103_Png", "L", "2d", (0, 1), PLAIN),
}


def affine(codes: str, spacing, angle: float, axis: int) -> np.ndarray:
    """Axes of a file that run to `codes`, turned by `angle` around a world axis."""
    matrix, turn = np.zeros((3, 3)), np.eye(3)
    for i, (code, step) in enumerate(zip(codes, spacing)):
        matrix[CODES.index(code) // 2, i] = step if code in "RAS" else -step
    a, b = (i for i in range(3) if i != axis)
    turn[a, a] = turn[b, b] = np.cos(angle)
    turn[b, a], turn[a, b] = np.sin(angle), -np.sin(angle)
    made = np.eye(4)
    made[:3, :3], made[:3, 3] = turn @ matrix, (-31.5, 12.25, 40.0)
    return made


def balls(random: np.random.Generator, shape, spacing, count: int) -> np.ndarray:
    """Nested balls: class 1 around class 2 around class 3."""
    grid = np.meshgrid(*(np.arange(n) * s for n, s in zip(shape, spacing)), indexing="ij")
    size = [n * s for n, s in zip(shape, spacing)]
    centre, radius = [random.uniform(0.4 * n, 0.6 * n) for n in size], random.uniform(0.24, 0.3) * min(size)
    away = sum((a - c) ** 2 for a, c in zip(grid, centre)) ** 0.5
    return sum((away < radius * (1 - 0.3 * k)).astype(np.uint8) for k in range(count))


def _folder(root: Path, name: str, about: dict) -> Path:
    place = root / "raw" / name
    for part in ("imagesTr", "labelsTr", "imagesTs"):
        (place / part).mkdir(parents=True, exist_ok=True)
    (place / "dataset.json").write_text(json.dumps(about))
    return place


def _grid(random, codes: str, edges: dict[str, tuple[int, int, float]], stretch: float):
    """(shape, spacing) of a case whose axes run to `codes`; `edges`: least and largest size and mm by world axis."""
    drawn = {key: (int(random.integers(low, high)), step * stretch) for key, (low, high, step) in edges.items()}
    of = [drawn["LPI"[CODES.index(code) // 2]] for code in codes]
    return tuple(n for n, _ in of), tuple(step for _, step in of)


def _save(array: np.ndarray, to_world: np.ndarray, path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(array, to_world), path)


def write_mri(root: Path) -> None:
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "active": [3], "ignore": 4}
    about = {"channel_names": {"0": "T1", "1": "T2"}, "labels": labels, "regions_class_order": [1, 2, 3]}
    place = _folder(root, "Dataset101_Mri", about | {"numTraining": 9, "file_ending": ".nii.gz"})
    for i, codes in enumerate(["LPS", "RAS", "LSP", "PSR", "LPS", "AIR", "LPS", "RAI", "LPS", "SRP", "LPS"]):
        random = np.random.default_rng(i)
        shape, spacing = _grid(random, codes, {"L": (42, 50, 0.95), "P": (46, 54, 1.1), "I": (13, 17, 3.3)}, 1 + 0.03 * (i % 4))
        mask = balls(random, shape, spacing, 2 if i % 4 == 1 else 3)
        grid = np.meshgrid(*(np.linspace(-1.1, 1.1, n) for n in shape), indexing="ij")
        head = sum(g**2 for g in grid) < 1
        mask[~head] = 0
        to_world, part = affine(codes, spacing, 0.15 * (i % 3), i % 3), "Tr" if i < 9 else "Ts"
        for channel, gains in enumerate(([60, 120, 180], [0, 0, 150])):
            noise = ndimage.gaussian_filter(random.normal(0, 1, shape), 0.7) * 40
            image = (300 + 60 * channel + noise + np.array([0, *gains])[mask]) * head
            _save(
                image.astype(np.float32 if i % 2 else np.int16), to_world, place / f"images{part}/mr_{i:03d}_{channel:04d}.nii.gz"
            )
        if part == "Tr":
            mask[:, :3] = 4  # a strip that nobody labelled
            _save(mask, to_world, place / f"labelsTr/mr_{i:03d}.nii.gz")


def write_ct(root: Path) -> None:
    labels = {"background": 0, "organ": 1, "lesion": 2}
    about = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 6, "file_ending": ".nii.gz"}
    place = _folder(root, "Dataset102_Ct", about)
    for i, codes in enumerate(["LPS", "RPI", "ILP", "RAS", "PIL", "LPS", "SAR", "LAS"]):
        random = np.random.default_rng(50 + i)
        shape, spacing = _grid(random, codes, {"L": (40, 48, 1.3), "P": (38, 46, 1.3), "I": (26, 32, 2.1)}, 1 + 0.04 * (i % 3))
        mask = balls(random, shape, spacing, 2)
        image = -300 + ndimage.gaussian_filter(random.normal(0, 1, shape), 0.7) * 90 + np.array([0, 320, 420])[mask]
        to_world, part = affine(codes, spacing, 0.2 * (i % 2), i % 3), "Tr" if i < 6 else "Ts"
        _save(np.round(image).astype(np.int16), to_world, place / f"images{part}/ct_{i:03d}_0000.nii.gz")
        if part == "Tr":
            _save(mask, to_world, place / f"labelsTr/ct_{i:03d}.nii.gz")


def write_png(root: Path) -> None:
    about = {"channel_names": {"0": "R", "1": "G", "2": "B"}, "labels": {"background": 0, "rim": 1, "core": 2}}
    place = _folder(root, "Dataset103_Png", about | {"numTraining": 6, "file_ending": ".png"})
    for i in range(9):
        random = np.random.default_rng(80 + i)
        shape = int(random.integers(70, 90)), int(random.integers(60, 100))
        mask = balls(random, shape, (1, 1), 2)
        colours = np.array([[120, 90, 70], [180, 90, 70], [140, 170, 70]])[mask] + random.normal(0, 18, (*shape, 3))
        part = "Tr" if i < 6 else "Ts"
        Image.fromarray(np.uint8(np.clip(colours, 0, 255))).save(place / f"images{part}/pic_{i:03d}_0000.png")
        if part == "Tr":
            Image.fromarray(mask).save(place / f"labelsTr/pic_{i:03d}.png")


class Nnunet:
    """nnU-Net, in the folders of `root`."""

    def __init__(self, root: Path):
        self.root = root
        names = {"nnUNet_raw": "raw", "nnUNet_preprocessed": "pre", "nnUNet_results": "res"}
        os.environ |= {key: str(root / value) for key, value in names.items()}
        os.environ |= {"nnUNet_n_proc_DA": "1", "nnUNet_compile": "f", "nnUNet_def_n_proc": "1"}
        threads = lambda processes=1, *given, **more: multiprocessing.pool.ThreadPool(1)  # each process would read torch anew
        multiprocessing.Pool, own = threads, multiprocessing.get_context
        multiprocessing.get_context = lambda how=None: types.SimpleNamespace(Pool=threads) if how == "spawn" else own(how)

    def plan(self, number: int, name: str, plans: str, configurations: list[str], folds: int, edit=lambda found: None) -> None:
        """Plan and prepare a data set with narrow networks and `folds` folds."""
        from nnunetv2.experiment_planning import plan_and_preprocess_api as api

        api.extract_fingerprints([number], num_processes=1, check_dataset_integrity=True, clean=False)
        preset = plans.partition("ResEncUNet")[2].removesuffix("Plans")
        api.plan_experiments([number], **({"experiment_planner_class_name": f"nnUNetPlannerResEnc{preset}"} if preset else {}))
        place = self.root / "pre" / name
        shutil.copy(self.root / "raw" / name / "dataset.json", place)
        found = json.loads((place / f"{plans}.json").read_text())
        edit(found["configurations"])
        for one in found["configurations"].values():
            if "architecture" in one:
                given = one["architecture"]["arch_kwargs"]
                given["features_per_stage"] = [max(4, n // 8) for n in given["features_per_stage"]]
        (place / f"{plans}.json").write_text(json.dumps(found))
        suffix = len("_0000")
        cases = sorted({p.name.split(".")[0][:-suffix] for p in (self.root / "raw" / name / "imagesTr").iterdir()})
        splits = [{"train": [c for c in cases if c not in cases[k::folds]], "val": cases[k::folds]} for k in range(folds)]
        (place / "splits_final.json").write_text(json.dumps(splits))
        api.preprocess([number], plans, configurations, num_processes=[1] * len(configurations))

    def train(
        self, name: str, plans: str, configuration: str, folds, trainer: str = PLAIN, *, validate=True, steps: int | None = None
    ) -> None:
        """Train folds for some steps (STEPS) without augmentation, and predict the cases of their validation."""
        import nnunetv2.training.nnUNetTrainer.nnUNetTrainer as base
        import torch
        from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoDA import nnUNetTrainerNoDA
        from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoMirroring import nnUNetTrainerNoMirroring

        os.environ["nnUNet_n_proc_DA"] = "0"  # in this process
        kind = {PLAIN: base.nnUNetTrainer, NO_MIRRORING: nnUNetTrainerNoMirroring}[trainer]
        kind.get_training_transforms = staticmethod(nnUNetTrainerNoDA.get_training_transforms)
        sizes = kind.configure_rotation_dummyDA_mirroring_and_inital_patch_size  # its third value is the size before augmentation
        kind.configure_rotation_dummyDA_mirroring_and_inital_patch_size = lambda self: (
            *(found := sizes(self))[:2],
            self.configuration_manager.patch_size,
            found[3],
        )
        place = self.root / "pre" / name
        for fold in folds:
            torch.manual_seed(1)
            np.random.seed(1)
            found, about = (json.loads((place / f"{file}.json").read_text()) for file in (plans, "dataset"))
            found["continue_training"] = False
            made = kind(plans=found, configuration=configuration, fold=fold, dataset_json=about, device=torch.device("cpu"))
            made.num_epochs, made.num_iterations_per_epoch, made.num_val_iterations_per_epoch = 1, steps or STEPS, 1
            made.run_training()
            if validate:
                made.perform_actual_validation(False)
        os.environ["nnUNet_n_proc_DA"] = "1"

    def find_post_processing(self, number: int, plans: str, configuration: str, folds, trainer: str = PLAIN) -> None:
        """What nnUNetv2_find_best_configuration does for one configuration: its post-processing comes to lie in its folder."""
        from nnunetv2.evaluation.find_best_configuration import find_best_configuration

        one = {"plans": plans, "configuration": configuration, "trainer": trainer}
        find_best_configuration(number, (one,), allow_ensembling=False, num_processes=1, folds=folds)

    def predict(self, model: Path, folds, images: Path, out: Path, *, mirror: bool = True, previous: Path | None = None) -> Path:
        """The labels of the cases in `images`."""
        import torch
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

        predictor = nnUNetPredictor(device=torch.device("cpu"), use_mirroring=mirror, allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(str(model), folds)
        out.mkdir(parents=True)
        first = None if previous is None else str(previous)
        predictor.predict_from_files_sequential(str(images), str(out), folder_with_segs_from_prev_stage=first)
        return out

    def process(self, found: Path, model: Path, out: Path) -> None:
        """What nnUNetv2_apply_postprocessing does."""
        from batchgenerators.utilities.file_and_folder_operations import load_pickle
        from nnunetv2.postprocessing.remove_connected_components import apply_postprocessing_to_folder

        (file,) = model.glob("crossval_results_folds_*/postprocessing.pkl")
        print(file.with_suffix(".json").read_text())
        apply_postprocessing_to_folder(
            str(found), str(out), *load_pickle(str(file)), str(model / "plans.json"), str(model / "dataset.json"), 1
        )


def coarse(configurations: dict) -> None:
    """Add a coarse first stage and its cascade to small plans."""
    full = configurations["3d_fullres"]
    given = full["architecture"]["arch_kwargs"]
    for key in ("features_per_stage", "kernel_sizes", "strides", "n_conv_per_stage"):
        given[key] = given[key][:4]
    given["n_conv_per_stage_decoder"], given["n_stages"] = given["n_conv_per_stage_decoder"][:3], 4
    low = json.loads(json.dumps(full))
    low |= {"data_identifier": "nnUNetPlans_3d_lowres", "spacing": [1.4 * s for s in full["spacing"]]}
    low |= {"next_stage": "3d_cascade_fullres", "patch_size": [16, 24, 24]}
    full |= {"patch_size": [16, 32, 32], "batch_dice": True}
    configurations["3d_lowres"] = low
    configurations["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}


def predict_task(program: Nnunet, full: Path, low: Path, images: Path, out: Path) -> None:
    """TotalSegmentator's way: cut around the organ of a first model, two models on the cut, their classes in one map."""
    scratch = out.parent / f"{out.name}-parts"
    first = program.predict(low, (0,), images, scratch / "first")
    (scratch / "cut").mkdir()
    out.mkdir()
    boxes = {}
    for path in sorted(images.iterdir()):
        image, name = nibabel.load(path), path.name.replace("_0000", "")
        where = np.argwhere(np.asarray(nibabel.load(first / name).dataobj) == 1)
        more = (MARGIN / np.array(image.header.get_zooms()[:3])).astype(int)
        low_corner, high_corner = np.maximum(where.min(0) - more, 0), np.minimum(where.max(0) + 1 + more, image.shape)
        boxes[name] = tuple(slice(a, b) for a, b in zip(low_corner, high_corner))
        nibabel.save(image.slicer[boxes[name]], scratch / "cut" / path.name)
    models = [(program.predict(low, (1,), scratch / "cut", scratch / "low"), (0, 7, 0))]
    models.append((program.predict(full, ("all",), scratch / "cut", scratch / "full"), (0, 300, 2)))
    for path in sorted(images.iterdir()):
        image, name = nibabel.load(path), path.name.replace("_0000", "")
        whole = np.zeros(image.shape, np.uint16)
        for folder, values in models:
            found = np.array(values)[np.asarray(nibabel.load(folder / name).dataobj).astype(int)]
            whole[boxes[name]][found > 0] = found[found > 0]
        _save(whole, image.affine, out / name)


def png(program: Nnunet, root: Path, theirs: Path) -> None:
    from nnunetv2.model_sharing.model_export import export_pretrained_model

    write_png(root)
    name = "Dataset103_Png"
    program.plan(103, name, "nnUNetPlans", ["2d"], 2)
    program.train(name, "nnUNetPlans", "2d", (0,))
    program.predict(
        root / "res" / name / "nnUNetTrainer__nnUNetPlans__2d", (0,), root / "raw" / name / "imagesTs", theirs / "png"
    )
    export_pretrained_model(name, str(root / "exported.zip"), ("2d",), folds=(0,))


def mri(program: Nnunet, root: Path, theirs: Path) -> None:
    write_mri(root)
    name, plans = "Dataset101_Mri", "nnUNetResEncUNetMPlans"
    model = root / "res" / name / f"nnUNetTrainer__{plans}__3d_fullres"
    program.plan(101, name, plans, ["3d_fullres"], 3)
    program.train(name, plans, "3d_fullres", (0, 1, 2))
    program.find_post_processing(101, plans, "3d_fullres", (0, 1, 2))
    program.predict(model, (0, 1, 2), root / "raw" / name / "imagesTs", theirs / "mri")
    program.process(theirs / "mri", model, theirs / "mri-processed")


def ct(program: Nnunet, root: Path, theirs: Path) -> None:
    write_ct(root)
    name, plans, images = "Dataset102_Ct", "nnUNetPlans", root / "raw" / "Dataset102_Ct" / "imagesTs"
    low, stacked, full = (
        root / "res" / name / f"{NO_MIRRORING}__{plans}__{which}" for which in ("3d_lowres", "3d_cascade_fullres", "3d_fullres")
    )
    program.plan(102, name, plans, ["3d_fullres", "3d_lowres"], 2, coarse)
    program.train(name, plans, "3d_lowres", (0, 1), NO_MIRRORING)
    program.find_post_processing(102, plans, "3d_lowres", (0, 1), NO_MIRRORING)
    program.train(name, plans, "3d_cascade_fullres", (0, 1), NO_MIRRORING, validate=False)
    program.train(name, plans, "3d_fullres", ("all",), NO_MIRRORING, validate=False)
    first = program.predict(low, (0, 1), images, theirs / "low")
    program.process(first, low, theirs / "low-processed")
    program.predict(stacked, (0, 1), images, theirs / "cascade", previous=first)
    program.predict(full, ("all",), images, theirs / "full")
    predict_task(program, full, low, images, theirs / "task")


def model_of(name: str) -> str:
    """The folder of a model of BARELY, below res."""
    data, preset, configuration, _, trainer = BARELY[name]
    return f"{data}/{trainer}__nnUNetResEncUNet{preset}Plans__{configuration}"


def barely(program: Nnunet, root: Path, theirs: Path) -> None:
    for name, (data, preset, configuration, folds, trainer) in BARELY.items():
        if not (root / "raw" / data).is_dir():
            {"Dataset101_Mri": write_mri, "Dataset102_Ct": write_ct, "Dataset103_Png": write_png}[data](root)
        plans, images = f"nnUNetResEncUNet{preset}Plans", root / "raw" / data / "imagesTs"
        program.plan(int(data[7:10]), data, plans, [configuration], 3 if data == "Dataset101_Mri" else 2)
        program.train(data, plans, configuration, folds, trainer, validate=False, steps=FEW)
        model = root / "res" / model_of(name)
        program.predict(model, folds, images, theirs / name)
        if trainer == PLAIN:
            program.predict(model, folds, images, theirs / f"{name}-plain", mirror=False)


PARTS = {"png": png, "mri": mri, "ct": ct, "barely": barely}


def main() -> None:
    root, *names = sys.argv[1:]
    folder = Path(root).resolve()
    program = Nnunet(folder)
    for name in names or PARTS:
        PARTS[name](program, folder, folder / "theirs")


if __name__ == "__main__":
    main()
