"""The source archive makes a wheel that holds the library with its configs inside, and nothing else at the top."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_an_installed_wheel_finds_its_configs_from_anywhere(tmp_path):
    source = tmp_path / "source"  # building writes beside what it builds
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in filter(None, files):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    pytest.importorskip("build", reason="pip install -e '.[test]'")
    subprocess.run([sys.executable, "-m", "build", "-q", "--outdir", tmp_path, source], check=True, timeout=300)
    (archive,), (wheel,) = tmp_path.glob("*.tar.gz"), tmp_path.glob("*.whl")  # the wheel is built from the archive
    assert archive.name.removesuffix(".tar.gz") == wheel.name.partition("-py3")[0]
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.partition("/")[0] for name in archive.namelist()}
        archive.extractall(tmp_path / "site")
    assert {top for top in tops if not top.endswith(".dist-info")} == {"jaxseg"}
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import jaxseg; assert jaxseg.__file__.startswith(sys.argv[1]);"
        "from jaxseg import dispatch; dispatch.run(['jaxseg', 'summary', 'ich_segnext:quick'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "site")], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0 and "GMAC" in done.stdout, done.stderr
    assert "parameters" in done.stdout and not (tmp_path / "configs").exists()
