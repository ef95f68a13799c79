"""jaxseg import nnunet MODEL_FOLDER --output=RUNS: a trained model of another program as run folders.

    jaxseg import nnunet nnUNet_results/Dataset001_Balls/nnUNetTrainer__nnUNetPlans__3d_fullres --output=runs/balls
    jaxseg import nnunet MODEL_FOLDER --output=runs/balls --folds=0,1
    jaxseg import nnunet exported.zip --output=runs/balls --configuration=3d_fullres
    jaxseg predict runs/balls/fold_0 --input=imagesTs --output=predictions

What is printed last is the command that predicts with all imported folds. Nothing of the model's files is run; PyTorch and
nnU-Net are not needed. Exit codes: 0 done; 64 bad command line; 65 a file that cannot be used; 66 no checkpoint; 74 storage;
78 something in the model has no counterpart here, or its weights do not fit its plans.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from jaxseg.cli import recipes
from jaxseg.importing import nnunet, places
from jaxseg.types import ConfigError
from jaxseg.utils import command

CONFIG = "_nnunet.py"


def main(arguments: Sequence[str] | None = None) -> int:
    """Import one model; what became of it is printed."""
    parser = command.Parser(prog="jaxseg import", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("program", choices=["nnunet"], help="whose model it is")
    parser.add_argument("model", type=Path, help="the model's folder, Trainer__Plans__Configuration, or its exported .zip")
    parser.add_argument("--output", type=Path, required=True, help="the folder of the run folders")
    parser.add_argument("--folds", default="", help="0,1,... or all, nnU-Net's fold_all; left out: every numbered fold")
    parser.add_argument("--configuration", default="", help="2d, 3d_fullres, 3d_lowres: which, where the folder holds several")
    parser.add_argument("--config", type=Path, default=None, help="a config with what the plans do not say: training, evaluation")
    chosen = parser.parse_args(arguments)
    folds = [fold for fold in chosen.folds.split(",") if fold]
    if not all(fold == "all" or fold.isdecimal() for fold in folds) or len(set(folds)) < len(folds):
        raise ConfigError(f"got --folds={chosen.folds}; numbers of folds, each once (0,1,2), or all")
    with places.model_folder(chosen.model, chosen.configuration) as folder:
        runs = nnunet.import_model(folder, chosen.output, _tree(chosen.config or recipes.folder() / CONFIG), folds=folds)
    others = f' --config.infer.ensemble="{tuple(map(str, runs[1:]))}"' if runs[1:] else ""
    print(f"next: jaxseg predict {runs[0]}{others} --input=imagesTs --output=predictions")
    return 0


def _tree(path: Path):
    """The tree of a config file."""
    if not path.is_file():
        raise ConfigError(f"--config={path}: no such file; leave it out, or give one like configs/{CONFIG}")
    recipes.importable()
    spec = importlib.util.spec_from_file_location("config_of_import", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()
