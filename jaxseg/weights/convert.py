"""Weights from PyTorch into a file or folder that config.model.init takes, and back.

    python -m jaxseg.convert --model=segformer_b0 --classes=1 --input=segformer.b0.pth --output=weights/b0.safetensors
    python -m jaxseg.convert --model=pspnet_r50 --option=bins=6,3,2,1 --input=pspnet50_ADE20K.pth --output=weights/pspnet50
    python -m jaxseg.convert --to-torch --input=runs/ich_segnext --like=theirs.pth --output=ours_in_their_names.pth

An output that ends in .safetensors, .pth or .pt is one file with our names in PyTorch's layouts; any other is a run folder
with one checkpoint. With --to-torch the input is a run, a checkpoint or a weight file, and the output a state dict: under
our names, or under those of --like, a file of the other implementation (whatever has no counterpart here, such as
num_batches_tracked, is copied from it). Nothing of a file is run. What became of every tensor is printed.
Exit codes: 0 done; 64 bad command line; 65 a file that cannot be used; 66 no usable checkpoint; 74 storage; 78 tensors differ.
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
    """The command line."""
    parser = command.Parser(prog="python -m jaxseg.convert", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--input", type=Path, required=True, help="what is read: see above")
    parser.add_argument("--output", type=Path, required=True, help="what is written: see above")
    parser.add_argument("--model", help="a registry name; not needed where the input is a run folder")
    parser.add_argument("--channels", type=int, help="of the image; the stem is adapted where the file has others")
    parser.add_argument("--classes", type=int, help="the classifier is initialised where the file has others")
    parser.add_argument("--rank", type=int, choices=(2, 3), help="spatial axes, for networks that exist for both")
    parser.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="a field of the network's Config")
    parser.add_argument("--key-mapping", help="whose names the file (or --like) uses; found by itself when left out")
    parser.add_argument("--keys", type=Path, help='JSON [["regular expression", "replacement" or null], ...] for unknown names')
    parser.add_argument("--only", default="", help="only our tensors whose names begin so, for instance encoder.")
    parser.add_argument("--under", default="", help="the entry of the file that holds the weights, for instance state_dict_ema")
    parser.add_argument("--to-torch", action="store_true", help="write a state dict for PyTorch")
    parser.add_argument(
        "--allow_code", action="store_true", help="import a run's own module though its files changed since its training"
    )
    parser.add_argument("--like", type=Path, help="with --to-torch: a state dict with the names and shapes to write")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Convert one file or run; the report is printed."""
    chosen = parse(arguments)
    if chosen.like and not chosen.to_torch:
        raise ConfigError(f"got --like={chosen.like} without --to-torch: it names the keys that are written for PyTorch")
    if chosen.to_torch and chosen.output.suffix not in FILES:
        raise ConfigError(f"got --output={chosen.output}: a state dict is a file that ends in {' or '.join(FILES)}")
    if chosen.output.exists():
        raise ConfigError(f"--output={chosen.output} exists; delete it or name another")
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
    """The network that is named, or that a run's record names, with its options."""
    options = dict(option(text) for text in chosen.option)
    if chosen.model:
        return create_model(chosen.model, in_channels=chosen.channels, num_classes=chosen.classes, rank=chosen.rank, **options)
    run = next((p for p in (chosen.input, *chosen.input.parents) if (p / "run.json").is_file()), None)
    if not chosen.to_torch or run is None:
        raise ConfigError(f"--input={chosen.input} does not say which network it belongs to: give --model=NAME")
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
    """Put the input's weights into the model; what can be said about them."""
    if chosen.input.is_dir():
        if not chosen.to_torch:
            raise ConfigError(
                f"--input={chosen.input} is a folder: config.model.init takes runs as they are; for PyTorch add --to-torch"
            )
        params, state, _ = checkpoint.load_weights(chosen.input)
        functional.assign(model, params, state)
        numbers = sum(v.size for v in (params | state).values())
        return f"weights of {chosen.input}: {numbers:,} numbers in {len(params | state)} tensors"
    if chosen.to_torch and not chosen.input.exists():
        raise CheckpointError(f"--input={chosen.input}: no such run, checkpoint or weight file")
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
    """The model's arrays under the names of --like, or under ours."""
    if chosen.like is None:
        return from_torch.export(model)
    theirs = torch_files.read(chosen.like)
    return theirs | from_torch.export(model, names=theirs, key_mapping=chosen.key_mapping, keys=table(chosen.keys))


def table(path: Path | None) -> list:
    """The rows of a table of keys."""
    if path is None:
        return []
    try:
        rows = guard.read_json(path)
    except DataError as error:
        raise DataError(f"--keys: no readable table: {error}", code=error.code) from error
    if not isinstance(rows, list):
        raise DataError(f'--keys={path}: must hold [["regular expression", "replacement" or null], ...]', code="DATA_FORMAT")
    return rows


def option(text: str) -> tuple[str, object]:
    """("bins", (6, 3, 2, 1)) of "bins=6,3,2,1"; what is no Python literal is a word."""
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--option={text}: must be written --option KEY=VALUE")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value
