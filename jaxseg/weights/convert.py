"""Convert PyTorch weights into a file or folder for config.model.init, and back.

    python -m jaxseg.convert --model=segformer_b0 --classes=1 --input=segformer.b0.pth --output=weights/b0.safetensors
    python -m jaxseg.convert --model=pspnet_r50 --option=bins=6,3,2,1 --input=pspnet50_ADE20K.pth --output=weights/pspnet50
    python -m jaxseg.convert --to-torch --input=runs/ich_segnext --like=theirs.pth --output=ours_in_their_names.pth

An output that ends in .safetensors, .pth or .pt is one file with jaxseg's names and PyTorch's layouts; any other output is a run
folder with one checkpoint. With --to-torch the input is a run, a checkpoint or a weight file, and the output is a state dict
with jaxseg's names, or with the names of --like, a file of the other implementation (tensors that jaxseg does not have, such as
num_batches_tracked, are copied from it). No code in a file is run. The report lists what was done with every tensor.
Exit codes: 0 success; 64 wrong command line; 65 unusable file; 66 no usable checkpoint; 74 storage; 78 tensors differ.
"""

import argparse
import ast
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxseg import checkpoint
from jaxseg.models import Segmenter, create_model, functional
from jaxseg.types import CheckpointError, ConfigError, DataError
from jaxseg.utils import code, command, guard
from jaxseg.utils.files import make_folder
from jaxseg.weights import from_torch, torch_files, torch_write

FILES = (".safetensors", ".pth", ".pt")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = command.Parser(prog="python -m jaxseg.convert", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument(
        "--input", type=Path, required=True, help="file of PyTorch weights; with --to-torch: run, checkpoint or file"
    )
    parser.add_argument("--output", type=Path, required=True, help="file (.safetensors, .pth, .pt) or run folder to write")
    parser.add_argument("--model", help="name of the network (jaxseg zoo); not needed if the input is a run folder")
    parser.add_argument("--channels", type=int, help="image channels; the first layer is adapted if the file has another number")
    parser.add_argument("--classes", type=int, help="classes; the classifier is newly initialised if the file has another number")
    parser.add_argument("--rank", type=int, choices=(2, 3), help="spatial axes, for networks that exist for both")
    parser.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="an option of the network")
    parser.add_argument("--key-mapping", help="the implementation whose tensor names the file (or --like) has; default: detected")
    parser.add_argument("--keys", type=Path, help='JSON [["regular expression", "replacement" or null], ...] to rename tensors')
    parser.add_argument("--only", default="", help="read only tensors whose jaxseg names start with this, such as encoder.")
    parser.add_argument("--under", default="", help="the entry of the file that holds the weights, such as state_dict_ema")
    parser.add_argument("--to-torch", action="store_true", help="write a state dict for PyTorch")
    parser.add_argument(
        "--allow_code", action="store_true", help="import a run's own module even if its files have changed since training"
    )
    parser.add_argument("--like", type=Path, help="with --to-torch: a state dict file whose names and shapes are used")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Convert one file or run, and print the report."""
    chosen = parse(arguments)
    if chosen.like and not chosen.to_torch:
        raise ConfigError(f"got --like={chosen.like} without --to-torch; add --to-torch, or leave --like out")
    if chosen.to_torch and chosen.output.suffix not in FILES:
        raise ConfigError(f"got --output={chosen.output}: the name of a state dict must end in {' or '.join(FILES)}")
    if chosen.output.exists():
        raise ConfigError(f"--output={chosen.output} exists; delete it, or give another --output")
    if chosen.allow_code:
        code.allow()
    model = build(chosen)
    make_folder(chosen.output.parent, f"--output={chosen.output}")
    print(read(model, chosen))
    if chosen.to_torch:
        torch_write.write(chosen.output, named(model, chosen))
    elif chosen.output.suffix in FILES:
        torch_write.write(chosen.output, from_torch.export(model))
    else:
        _, params, state = functional.split(model)
        with checkpoint.Checkpoints(chosen.output / checkpoint.CHECKPOINTS) as checkpoints:
            checkpoints.save(
                0,
                {"params": params, "state": state},
                {"evaluated": "params", "next_batch": 0, "converted_from": str(chosen.input)},
            )
    print(f"written: {chosen.output}")
    return 0


def build(chosen: argparse.Namespace) -> Segmenter:
    """Build the network of --model, or of the input run's record, with its options."""
    options = dict(option(text) for text in chosen.option)
    if chosen.model:
        return create_model(chosen.model, in_channels=chosen.channels, num_classes=chosen.classes, rank=chosen.rank, **options)
    run = next((p for p in (chosen.input, *chosen.input.parents) if (p / "run.json").is_file()), None)
    if not chosen.to_torch or run is None:
        raise ConfigError(f"--input={chosen.input} does not name its network; give --model=NAME")
    record = checkpoint.read_record(run)
    about = record["model"]
    with code.recorded_alone():
        code.check(record["code"], run)
        return create_model(
            about["name"],
            in_channels=about["in_channels"],
            num_classes=about["num_classes"],
            rank=about["rank"],
            **{**about["options"], **options},
        )


def read(model: Segmenter, chosen: argparse.Namespace):
    """Load the input's weights into the model; returns the report."""
    if chosen.input.is_dir():
        if not chosen.to_torch:
            raise ConfigError(
                f"--input={chosen.input} is a folder: give it to config.model.init directly, or add --to-torch to convert it"
            )
        params, state, _ = checkpoint.load_weights(chosen.input)
        functional.assign(model, params, state)
        numbers = sum(v.size for v in (params | state).values())
        return f"weights of {chosen.input}: {numbers:,} numbers in {len(params | state)} tensors"
    if chosen.to_torch and not chosen.input.exists():
        raise CheckpointError(f"--input={chosen.input}: there is no such run, checkpoint or weight file")
    return from_torch.load(
        model,
        chosen.input,
        key_mapping=None if chosen.to_torch else chosen.key_mapping,
        only=chosen.only,
        under=chosen.under,
        adapt=chosen.channels is not None or chosen.classes is not None,
        keys=() if chosen.to_torch else table(chosen.keys),
    )


def named(model: Segmenter, chosen: argparse.Namespace) -> Mapping[str, np.ndarray]:
    """The model's arrays with the names of --like, or with jaxseg's."""
    if chosen.like is None:
        return from_torch.export(model)
    theirs = torch_files.read(chosen.like)
    return theirs | from_torch.export(model, names=theirs, key_mapping=chosen.key_mapping, keys=table(chosen.keys))


def table(path: Path | None) -> list:
    """Read the table of --keys."""
    if path is None:
        return []
    try:
        rows = guard.read_json(path)
    except DataError as error:
        raise DataError(f"--keys: unreadable table: {error}", code=error.code) from error
    if not isinstance(rows, list):
        raise DataError(f'--keys={path}: must hold [["regular expression", "replacement" or null], ...]', code="DATA_FORMAT")
    return rows


def option(text: str) -> tuple[str, object]:
    """("bins", (6, 3, 2, 1)) of "bins=6,3,2,1"; a value that is not a Python literal is kept as a string."""
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--option={text}: must be KEY=VALUE")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value
