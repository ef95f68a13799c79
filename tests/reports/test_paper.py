"""The figures of a comparison: their names, their labels, and that they show something."""

import numpy as np
import pytest
from PIL import Image

from jaxseg.reports import paper
from tests.reports import material

pytest.importorskip("matplotlib", reason="pip install 'matplotlib>=3.8'")


def test_every_figure_is_written_with_labels_and_units_as_png_and_svg(tmp_path, monkeypatch):
    monkeypatch.setattr(paper, "DPI", 50)
    models = ("unet3d_xs", "unet<3d>_s")
    empty = dict.fromkeys(("pam_train", "pam_inference", "inference_latency_ms"), "")
    results = [
        {"model_name": m, "test_dice": 0.6 + 0.1 * i + 0.02 * s, "val_dice": 0.7, "precision": 0.8, "recall": 0.5, **empty}
        | {"total_params": 10 ** (6 + i), "flops": 10 ** (9 + i)}
        for i, m in enumerate(models)
        for s in (1, 2)
    ]
    results[0]["pam_train"] = 2**30
    results = [row | {"test_wt": 0.9, "test_tc": 0.7, "test_et": ""} for row in results]
    epochs = [
        {"model_name": m, "epoch": e, "train_loss": 1 / e, "val_loss": 1.2 / e, "val_dice": 1 - 1 / e + 0.01 * s}
        | {"val_wt": 1 - 0.9 / e, "val_tc": 1 - 1 / e, "val_et": ""}
        for m in models
        for s in (1, 2)
        for e in range(1, 5)
    ]
    run = material.run(tmp_path / "run", shape=(20, 22, 9), count=2, keep=1)
    paper.write(tmp_path, results, epochs, {models[1]: run / "evaluations" / "test@9"})
    texts = {
        "learning_curves": ("validation Dice", "epoch", "loss"),
        "wt_tc_et_validation_curves": ("validation Dice of TC", models[0]),
        "wt_tc_et_summary": ("WT", "test Dice", models[0]),
        "model_comparison_chart": ("parameters, millions", "memory of training, MiB", models[0]),
        "parameter_efficiency": ("multiply-accumulates, 10⁹", "test Dice"),
        "confusion_matrix_unet_3d__s": ("predicted class", "true class", "NCR", "background"),
        "qualitative_examples_unet_3d__s/unet_3d__s_example_01": ("truth", "prediction", "input", "ED"),
        "qualitative_examples_unet_3d__s/unet_3d__s_example_02": ("Dice",),
    }
    for name, said in texts.items():
        picture = np.asarray(Image.open(tmp_path / f"{name}.png").convert("L"))
        assert picture.std() > 10 and min(picture.shape) > 100
        drawn = (tmp_path / f"{name}.svg").read_text()
        assert all(word in drawn for word in said), name
    assert "latency" not in (tmp_path / "model_comparison_chart.svg").read_text()  # nothing was measured
    assert {path.stem for path in tmp_path.rglob("*.png")} == {name.rpartition("/")[2] for name in texts}
