"""Mistakes end before any compilation with one line that names value, rule and remedy, and with the right exit code."""

import gzip
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from jaxseg.data import datasets
from tests.hostile import special

ROOT = Path(__file__).parent.parent
CONFIG = "--config=configs/ich_segnext.py:quick"
SMALL = (CONFIG, "--config.model.name=unet_test")  # for what is found once the network has been built


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def program(program, cache):
    return lambda *flags, **options: program.run(*flags, environment=environment(cache), **options)


def environment(cache: Path) -> dict[str, str]:
    return {**os.environ, "JAXSEG_CACHE": str(cache), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}


def refused(done, code: int) -> str:
    """Standard error of a run that must have ended with `code`, checked to be one line without a traceback."""
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr and "compiled" not in done.stdout
    lines = [line for line in done.stderr.strip().splitlines() if line.startswith("jaxseg:")]
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.mark.parametrize(
    "flags, words",
    [
        ((CONFIG, "--config.train.epoch=3"), ("epoch",)),
        ((CONFIG, "--config.nothing=3"), ("'nothing'", "configs/_base.py")),
        ((CONFIG, "--config.nothing.at=3"), ("'nothing'", "configs/_base.py")),
        ((CONFIG, "--config.model.options.dropout=0.5"), ("--config.model.options=\"{'dropout': value}\"",)),
        ((CONFIG, "--config.train.epochs=three"), ("epochs", "three")),
        ((CONFIG, "--config.model.name=segnxt_t"), ("segnxt_t", "segnext_t")),
        ((CONFIG, "--config.train.augment=(('hflipp', 0.5, {}),)"), ("hflipp", "hflip")),
        ((CONFIG, "--config.loss.terms=(('dise', 1.0),)"), ("dise", "dice")),
        ((CONFIG, "--mode=summary", "--config.loss.terms=(('dise', 1.0),)"), ("dise", "dice")),
        ((CONFIG, "--mode=check", "--config.train.augment=(('hflipp', 0.5, {}),)"), ("hflipp", "hflip")),
        ((*SMALL, "--mode=check", "--config.data.regions=dataset"), ("data.regions", "defines no regions")),
        ((CONFIG, "--mode=trian"), ("trian", "train")),
        ((CONFIG + "k",), ("quickk", "quick")),
        (("--config=configs/none.py",), ("configs/none.py",)),
        (("--config=README.md",), ("the file is not valid Python", "README.md")),
        (("--config=configs/_base.py",), ("get_config",)),
        ((CONFIG, "--num_processes=0", "--process_id=0", "--coordinator=localhost:1"), ("--num_processes=0", "at least 1")),
        (("--mode=train",), ("--config",)),
        ((*SMALL, "--config.train.batch_size=1000"), ("batch_size=1000",)),
        ((*SMALL, "--config.data.root=/nowhere"), ("/nowhere",)),
        (("--mode=predict", "--workdir=/nowhere", "--input=x", "--output=y"), ("/nowhere",)),
    ],
)
def test_a_mistake_on_the_command_line(program, tmp_path, flags, words):
    code = 66 if "--mode=predict" in flags else 65 if any("nowhere" in f for f in flags) else 64
    line = refused(program(*flags, *(() if "--workdir=/nowhere" in flags else (f"--workdir={tmp_path / 'run'}",))), code)
    for word in words:
        assert word in line


def test_the_command_itself_ends_so(cache, tmp_path):
    command = [sys.executable, "-m", "jaxseg.main", CONFIG, "--config.train.epochs=0", f"--workdir={tmp_path / 'run'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, env=environment(cache))
    assert "config.train.epochs=0: must be at least 1" in refused(done, 64)


@pytest.fixture
def root(tmp_path, monkeypatch, cache):
    """A copy of the quick phantom to be damaged."""
    monkeypatch.setenv("JAXSEG_CACHE", str(cache))
    source = datasets.phantom("ct_ich", "quick")
    return Path(shutil.copytree(source, tmp_path / "data"))


def damage_truncate(root: Path, scan: Path) -> None:
    data = gzip.compress(scan.read_bytes())
    scan.unlink()
    scan.with_suffix(".nii.gz").write_bytes(data[: len(data) // 2])


def damage_crc(root: Path, scan: Path) -> None:
    data = bytearray(gzip.compress(scan.read_bytes()))
    data[-6] ^= 0x10
    scan.unlink()
    scan.with_suffix(".nii.gz").write_bytes(bytes(data))


def damage_dims(root: Path, scan: Path) -> None:
    data = bytearray(scan.read_bytes())
    data[42:48] = np.array([32767] * 3, "<i2").tobytes()
    scan.write_bytes(bytes(data))


def damage_nan(root: Path, scan: Path) -> None:
    image = nibabel.load(scan)
    array = np.asarray(image.dataobj, np.float32).copy()
    array[3, 4, 1] = np.nan
    nibabel.save(nibabel.Nifti1Image(array, image.affine), scan)


def damage_label(root: Path, scan: Path) -> None:
    path = root / "masks" / scan.name
    image = nibabel.load(path)
    array = np.asarray(image.dataobj).copy()
    array[0, 0, 0] = 100
    nibabel.save(nibabel.Nifti1Image(array, image.affine), path)


def damage_affine(root: Path, scan: Path) -> None:
    path = root / "masks" / scan.name
    image = nibabel.load(path)
    affine = image.affine.copy()
    affine[0] *= -1
    nibabel.save(nibabel.Nifti1Image(np.array(image.dataobj), affine), path)


def damage_shape(root: Path, scan: Path) -> None:
    path = root / "masks" / scan.name
    image = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image(np.array(image.dataobj)[:-1], image.affine), path)


def damage_missing(root: Path, scan: Path) -> None:
    (root / "masks" / scan.name).unlink()


@pytest.mark.parametrize(
    "damage",
    [damage_truncate, damage_crc, damage_dims, damage_nan, damage_label, damage_affine, damage_shape, damage_missing],
    ids=lambda d: d.__name__.removeprefix("damage_"),
)
@pytest.mark.fault("D1", "D2", "D5", "D14", "D15", "D16", "D19", "D20")
def test_a_damaged_data_set_is_refused_by_name(program, tmp_path, root, damage):
    scan = sorted((root / "ct_scans").glob("*.nii"))[2]
    damage(root, scan)
    line = refused(program(*SMALL, f"--config.data.root={root}", f"--workdir={tmp_path / 'run'}"), 65)
    assert scan.stem in line


@pytest.mark.parametrize("kind", ["pipe", "device", "socket", "folder"])
@pytest.mark.parametrize("place, code", [("config", 64), ("split", 65), ("weights", 65), ("record", 66), ("lock", 74)])
@pytest.mark.fault("D23")
def test_what_is_no_regular_file_is_refused_wherever_it_is_named(program, tmp_path, place, code, kind):
    if (place, kind) == ("weights", "folder"):
        pytest.skip("a folder is a run")
    run = tmp_path / "run"
    run.mkdir()
    path = special(kind, run / {"config": "c.py", "record": "run.json", "lock": ".lock"}.get(place, "x.png"))
    flags = {
        "config": (f"--config={path}",),
        "split": (*SMALL, "--config.data.split=file", f"--config.data.split_file={path}"),
        "weights": (*SMALL, f"--config.model.init={path}"),
        "record": SMALL,
        "lock": SMALL,
    }[place]
    assert str(path) in refused(program(*flags, f"--workdir={run}", seconds=100), code)


def test_a_clean_copy_is_accepted_by_the_check(program, tmp_path, root):
    done = program(*SMALL, f"--config.data.root={root}", "--mode=check", f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "cases    8 of 8" in done.stdout


def test_an_empty_split_is_refused(program, tmp_path):
    line = refused(program(*SMALL, "--config.data.fractions=(1.0, 0.0, 0.0)", f"--workdir={tmp_path / 'run'}"), 64)
    assert "val" in line and "fractions" in line and "config.train.best=last" in line
