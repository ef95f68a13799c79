"""The source archive makes a wheel; installed, it finds its configs from any folder and trains."""

import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_an_installed_wheel_works_in_another_folder(tmp_path):
    source = tmp_path / "source"  # building writes beside what it builds
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in filter(None, files):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    pytest.importorskip("build", reason="pip install -e '.[test]'")
    subprocess.run([sys.executable, "-m", "build", "-q", "--outdir", tmp_path, source], check=True, timeout=300)
    (archive,), (wheel,) = tmp_path.glob("*.tar.gz"), tmp_path.glob("*.whl")  # the wheel is built from the archive
    name = archive.name.removesuffix(".tar.gz")
    assert name == wheel.name.partition("-py3")[0]
    with tarfile.open(archive) as opened:
        missing = {f"{name}/{file}" for file in files if file and not file.startswith(".")} - set(opened.getnames())
    assert not missing, "MANIFEST.in leaves these out"
    with zipfile.ZipFile(wheel) as opened:
        tops = {name.partition("/")[0] for name in opened.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"jaxseg"}

    place = tmp_path / "elsewhere"
    place.mkdir()
    venv.create(tmp_path / "venv", with_pip=True)
    (installed,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    (installed / "packages.pth").write_text(str(Path(jax.__file__).parents[1]))  # what jaxseg needs, from this environment
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(place), "JAXSEG_CACHE": str(place / "cache")}

    def run(*command) -> str:
        program = tmp_path / "venv" / "bin" / command[0]
        done = subprocess.run([program, *command[1:]], cwd=place, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout

    run("pip", "install", "-q", "--no-deps", "--no-index", wheel)
    assert f"in {installed}/jaxseg; configs in {installed}/jaxseg/recipes/configs" in run("jaxseg", "doctor")
    assert "unet_test" in run("jaxseg", "zoo", "unet_test")
    run("jaxseg", "train", "folder:quick")
    assert (place / "runs" / "folder-quick" / "evaluation.json").is_file() and not (place / "configs").exists()
    assert "1 of 1 written" in run(
        "jaxseg",
        "predict",
        "runs/folder-quick",
        f"--input={next(place.glob('cache/phantom-folder-*/images/*.png'))}",
        "--output=out",
    )
