"""Convert a trained model of another program into run folders: jaxseg import nnunet|monai MODEL --output=RUN.

    jaxseg import nnunet nnUNet_results/Dataset001_Balls/nnUNetTrainer__nnUNetPlans__3d_fullres --output=runs/balls
    jaxseg import nnunet MODEL_FOLDER --output=runs/balls --folds=0,1
    jaxseg import nnunet exported.zip --output=runs/balls --configuration=3d_fullres
    jaxseg predict runs/balls/fold_0 --input=imagesTs --output=predictions

    jaxseg import monai brats_mri_segmentation --output=runs/brats
    jaxseg import monai model.pt --network=segresnet --option width=32 --output=runs/liver --spacing=1.5,1.5,2 \\
        --orientation=ras --intensity=range,-57,164,0,1 --window=96,96,96 --overlap=0.5 --blend=gaussian \\
        --activation=softmax --classes=liver,tumour

The last line of the output is the command that predicts with the imported runs. No code in the model's files is run; PyTorch,
MONAI and nnU-Net are not needed. Exit codes: 0 success; 64 wrong command line, or a setting that must be given; 65 unusable file;
66 no weights; 74 storage; 78 the model uses something that jaxseg does not support, or its weights do not fit.
"""

import argparse
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxseg.cli import recipes
from jaxseg.importing import monai, nnunet, places
from jaxseg.importing.bundles import preprocessing
from jaxseg.types import ConfigError
from jaxseg.utils import command
from jaxseg.weights.convert import option


def main(arguments: Sequence[str] | None = None) -> int:
    """Import one model and print what was written."""
    parser = command.Parser(prog="jaxseg import", description=__doc__.splitlines()[0], allow_abbrev=False)
    what = "the program that trained the model"
    programs = parser.add_subparsers(dest="program", required=True, metavar=" | ".join(PROGRAMS), help=what)
    for name, (add, _) in PROGRAMS.items():
        one = programs.add_parser(name, allow_abbrev=False)
        add(one)
        one.add_argument(
            "--config", type=Path, default=None, help="a config with the settings that the model lacks: training, evaluation"
        )
    chosen = parser.parse_args(arguments)
    print(f"next: jaxseg predict {PROGRAMS[chosen.program][1](chosen)} --input=imagesTs --output=predictions")
    return 0


def _nnunet_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="the model's folder (Trainer__Plans__Configuration) or its exported .zip")
    parser.add_argument("--output", type=Path, required=True, help="the folder in which the run folders are written")
    parser.add_argument("--folds", default="", help="0,1,... or all (nnU-Net's fold_all); default: every numbered fold")
    parser.add_argument(
        "--configuration", default="", help="2d, 3d_fullres, 3d_lowres or 3d_cascade_fullres, if there are several"
    )
    what = "the checkpoint of each fold, as for nnUNetv2_predict -chk: checkpoint_best.pth; default: the final one"
    parser.add_argument("--checkpoint", default="", help=what)
    what = "for 3d_cascade_fullres: folder of its first stage's model; default: the folder beside it"
    parser.add_argument("--previous", type=Path, default=None, help=what)
    what = "nnU-Net's splits_final.json, the cases of each fold; default: the one in the model's folder or its parent"
    parser.add_argument("--splits", type=Path, default=None, help=what)


def _nnunet(chosen: argparse.Namespace) -> str:
    folds = [fold for fold in chosen.folds.split(",") if fold]
    if chosen.checkpoint and not places.CHECKPOINT.fullmatch(chosen.checkpoint):
        raise ConfigError(f"got --checkpoint={chosen.checkpoint}; must be a file's name in fold_N, such as checkpoint_best.pth")
    if not all(fold == "all" or fold.isdecimal() for fold in folds) or len(set(folds)) < len(folds):
        raise ConfigError(f"got --folds={chosen.folds}; give distinct numbers of folds, such as 0,1,2, or the word all")
    with places.model_folder(chosen.model, chosen.configuration) as folder:
        tree = _tree(chosen.config, "nnunet.py")
        given = {"folds": folds, "previous": chosen.previous, "splits": chosen.splits, "chosen": chosen.checkpoint}
        runs = nnunet.import_model(folder, chosen.output, tree, **given)
    return f"{runs[0]}" + (f' --config.infer.ensemble="{tuple(map(str, runs[1:]))}"' if runs[1:] else "")


def _monai_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="a bundle's folder, or with --network a weight file (.pt, .pth, .ts)")
    parser.add_argument("--output", type=Path, required=True, help="the run folder to write")
    parser.add_argument(
        "--network", default="", help="for weights without a bundle: monai_unet, unetr, swin_unetr, segresnet, dynunet, basicunet"
    )
    parser.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="an option of the network")
    for key, how in monai.FLAGS.items():
        parser.add_argument(f"--{key}", default=None, help=f"if the bundle does not state it: {how}")
    parser.add_argument("--channels", default=None, help="names of the input channels in order: --channels=t1,flair")
    parser.add_argument("--threshold", default=None, help="probability threshold for sigmoid outputs")


def _monai(chosen: argparse.Namespace) -> str:
    named = (chosen.network, dict(option(text) for text in chosen.option)) if chosen.network else None
    if chosen.option and not named:
        raise ConfigError(
            f"--option={chosen.option[0]}: needs --network=NAME; for a bundle leave it out, because the bundle states its network"
        )
    run = monai.import_model(chosen.model, chosen.output, _tree(chosen.config, "_monai.py"), given=_given(chosen), network=named)
    return str(run)


def _given(chosen: argparse.Namespace) -> dict[str, Any]:
    """The settings given on the command line, as fields of `bundle.Settings`."""
    given: dict[str, Any] = {}
    for key in (*monai.FLAGS, "channels", "threshold"):
        text = getattr(chosen, key)
        if text is None:
            continue
        try:
            value = _VALUES[key](text)
        except ValueError as error:
            raise ConfigError(
                f"got --{key}={text}; must be: {monai.FLAGS.get(key, 'a number, or names separated by commas')}"
            ) from error
        given |= value if isinstance(value, dict) else {key: value}
    return given


def _three(kind: Callable[[str], Any]) -> Callable[[str], tuple]:
    def parse(text: str) -> tuple:
        values = tuple(map(kind, text.split(",")))
        if len(values) != 3 or min(values) <= 0:
            raise ValueError(text)
        return values

    return parse


def _one_of(*known: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in known:
            raise ValueError(text)
        return text

    return parse


def _intensity(text: str) -> dict[str, Any]:
    rule, *numbers = text.split(",")
    if rule == "range":
        low, high, first, last = map(float, numbers)
        return preprocessing.range_rule(low, high, first, last, clip=True)
    if rule == "percentiles":
        low, high, first, last = map(float, numbers)
        if not (0 <= low < high <= 100 and first < last):
            raise ValueError(text)
        return {"intensity": rule, "statistics": (low, high, first, last), "together": False}
    if numbers or rule not in ("zscore", "zscore_own_nonzero", "rescale_to_01", "none"):
        raise ValueError(text)
    return {"intensity": rule, "statistics": (), "together": False}


_VALUES: dict[str, Callable[[str], Any]] = {
    "spacing": lambda text: () if text == "scan" else _three(float)(text),
    "orientation": _one_of("ras", "lps", "file"),
    "intensity": _intensity,
    "window": lambda text: _three(int)(f"{text},1" if text.count(",") == 1 else text),
    "overlap": float,
    "blend": _one_of("constant", "gaussian"),
    "activation": _one_of("softmax", "sigmoid"),
    "classes": lambda text: tuple(text.split(",")),
    "channels": lambda text: tuple(text.split(",")),
    "threshold": float,
}
PROGRAMS: dict[str, tuple[Callable, Callable[[argparse.Namespace], str]]] = {
    "nnunet": (_nnunet_flags, _nnunet),
    "monai": (_monai_flags, _monai),
}


def _tree(path: Path | None, default: str):
    """The config tree of a file."""
    path = path or recipes.folder() / default
    if not path.is_file():
        raise ConfigError(f"--config={path}: no such file; leave it out, or give one like configs/{default}")
    recipes.importable()
    spec = importlib.util.spec_from_file_location("config_of_import", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()
