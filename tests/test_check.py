"""`--mode=check` ends as training on the same data begins: with the same error, or without one."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxseg import described, modes
from jaxseg.data import datasets
from jaxseg.train import setup
from jaxseg.train.log import Log
from jaxseg.types import JaxsegError
from tests.train import tiny_volumes as tiny

N = 10


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXSEG_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def pictures(root: Path) -> Path:
    """N grey pictures of noise, 40 x 48, with a square of one class."""
    for i in range(N):
        image, mask = np.random.default_rng(i).integers(0, 200, (40, 48)).astype(np.uint8), np.zeros((40, 48), np.uint8)
        mask[10:20, 5 + i : 15 + i] = 255
        for part, array in (("images", image), ("masks", mask)):
            (root / part).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(root / part / f"p{i}.png")
    return root


def truncate(root: Path, numbers=(3,)) -> None:
    for i in numbers:
        path = root / "images" / f"p{i}.png"
        path.write_bytes(path.read_bytes()[:200])


def copy_image(root: Path, one: int, other: int) -> None:
    shutil.copy(root / "images" / f"p{one}.png", root / "images" / f"p{other}.png")


def blank(root: Path, numbers) -> None:
    for i in numbers:
        Image.fromarray(np.zeros((40, 48), np.uint8)).save(root / "masks" / f"p{i}.png")


def keep(root: Path, n: int) -> None:
    for path in root.rglob("p*.png"):
        if int(path.stem[1:]) >= n:
            path.unlink()


def ends(act) -> tuple:
    """How a call ends: (exit code, the error's code, its line), or ()."""
    try:
        act()
    except JaxsegError as error:
        return error.exit_code, getattr(error, "code", ""), str(error)
    return ()


def both(config, workdir: Path) -> tuple[tuple, tuple]:
    """The ends of training before its first step, and of the check."""

    def train():
        log, filled = Log(workdir), described.fill(config).config
        setup.build(filled, workdir, setup.load_data(filled, log, workdir), log)

    return ends(train), ends(lambda: modes.check(modes.Call(config, workdir)))


SPLIT = {name: [f"p{i}" for i in numbers] for name, numbers in {"train": range(6), "val": (6, 7), "test": (8, 9)}.items()}
SKIP = {"data__bad_cases": "skip", "data__bad_share": 0.2}
REFUSED = {
    "a bad case": (truncate, {}, "p3.png"),
    "more bad cases than allowed": (lambda root: truncate(root, (1, 3, 5)), SKIP, "3 or more of 10 cases"),
    "fewer patients than splits": (lambda root: keep(root, 2), {}, "2 patients for 3 splits"),
    "a batch larger than the split": (None, {"train__batch_size": 64}, "train.batch_size=64"),
    "a warm-up longer than the run": (None, {"schedule__warmup": 10**6}, "warmup=1000000"),
    "no foreground": (lambda root: blank(root, range(N)), {}, "without any foreground pixel"),
    "a copy in two splits": (lambda root: copy_image(root, 0, 6), {"split": SPLIT}, "p0 = p6"),
    "no foreground in one split": (lambda root: blank(root, (6, 7)), {"split": SPLIT}, "split 'val'"),
    "an unknown patient": (None, {"split": SPLIT | {"val": ["p6", "p7", "p77"]}}, "p77"),
    "only bad cases in a split": (lambda root: truncate(root, (6, 7)), {**SKIP, "split": SPLIT}, "val split is empty"),
    "weights that are not there": (None, {"model__init": "/nowhere"}, "config.model.init"),
    "patches of twice the pictures": (None, {"kind": "patches,quick", "data__size": (96, 96)}, "mostly padding"),
    "a copy in two splits of patches": (
        lambda root: copy_image(root, 0, 6),
        {"kind": "patches,quick", "data__size": (32, 32), "split": SPLIT},
        "p0 = p6",
    ),
}
ACCEPTED = {
    "sound": (None, {}),
    "bad cases within the share": (lambda root: truncate(root, (1, 3)), SKIP),
    "a copy in one split": (lambda root: copy_image(root, 0, 1), {"split": SPLIT}),
    "patches": (None, {"kind": "patches,quick", "data__size": (48, 32), "data__per_volume": 4}),
}


def set_up(tmp_path, damage, changes):
    root, changes = pictures(tmp_path / "set"), dict(changes)
    if damage:
        damage(root)
    if split := changes.pop("split", None):
        (tmp_path / "split.json").write_text(json.dumps(split))
        changes |= {"data__split": "file", "data__split_file": str(tmp_path / "split.json")}
    kind = changes.pop("kind", "quick")
    sizes = {"data__size": (16, 16), "train__batch_size": 4, "schedule__warmup": 0}
    return tiny.config("folder", kind, **{"data__root": str(root), "data__phantom": None, **sizes, **changes})


@pytest.mark.parametrize("what", REFUSED)
def test_what_training_refuses_is_refused_alike(tmp_path, what, capsys):
    damage, changes, words = REFUSED[what]
    trained, checked = both(set_up(tmp_path, damage, changes), tmp_path / "run")
    assert trained == checked and words in trained[-1]
    assert "labels   background: " in capsys.readouterr().out  # the report is printed all the same


@pytest.mark.parametrize("what", ACCEPTED)
def test_what_training_accepts_is_accepted(tmp_path, what, capsys):
    assert both(set_up(tmp_path, *ACCEPTED[what]), tmp_path / "run") == ((), ())
    text = capsys.readouterr().out
    assert what != "sound" or "scale    a training step reads 2 KiB in its process" in text  # 4 x (16 x 16 + 16 x 16) bytes
    assert "training train" in text
    if "bad" in what:
        assert "warning  2 of 10 cases are bad and left out" in text and "error    p1: [DATA" in text
    if "copy" in what:
        assert "hold the same image (p0 = p1)" in text


@pytest.mark.parametrize(
    "name, changes, damage, words",
    [
        ("brats_unet3d", {"data__per_volume": 1}, False, ""),
        ("brats_unet3d", {"data__per_volume": 1}, True, "seg"),
        ("brats_unet3d", {"data__size": (256, 256, 256)}, False, "mostly padding"),
        ("brats_roi", {}, False, ""),
        ("brats_roi", {"train__batch_size": 64}, False, "train.batch_size=64"),
    ],
)
def test_volumes_are_treated_alike(tmp_path, name, changes, damage, words):
    root = Path(shutil.copytree(datasets.phantom("brats", "quick"), tmp_path / "data"))
    if damage:
        mask = min(root.rglob("*seg*"))
        mask.write_bytes(mask.read_bytes()[:100])
    given = {
        "data__size": (16, 16, 16),
        "data__root": str(root),
        "data__phantom": None,
        "schedule__warmup": 0,
        "train__batch_size": 1,
    }
    trained, checked = both(tiny.config(name, "quick", **given | changes), tmp_path / "run")
    assert trained == checked and (words in trained[-1] if words else not trained)


def test_what_the_sides_are_called_and_where_the_picture_lies_is_said(tmp_path, capsys):
    config = set_up(tmp_path, None, {"data__structures": ("left eye",)})
    modes.check(modes.Call(config, tmp_path / "run", output=str(tmp_path / "out")))
    text = capsys.readouterr().out
    assert f"pictures 10 prepared slices with their masks: {tmp_path / 'out' / 'examples.png'}" in text
    assert Image.open(tmp_path / "out" / "examples.png").size == (6 * 128, 2 * 128)
    assert "'hflip' exchanges left and right, but the classes left eye are named by their side" in text
