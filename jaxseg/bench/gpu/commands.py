"""A user's commands on this machine's accelerator: train, evaluate again, predict, export and run the exported file.

python -m jaxseg.bench.gpu.commands                                                   # the main job to its end
python -m jaxseg.bench.gpu.commands --config=configs/brats_unet3d.py:quick
python -m jaxseg.bench.gpu.commands --config=configs/ich_segnext.py:quick --deploy    # predict and export too
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CONFIG = "configs/ich_segnext.py"
THRESHOLD = "--config.eval.threshold=0.1"  # the quick form hardly learns anything: at 0.5 all labels are 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default=CONFIG)
    parser.add_argument("--deploy", action="store_true", help="predict a scan, export the run, predict with the exported file")
    parser.add_argument("--quick", action="store_true", help="the quick form of the config")
    parser.add_argument("--results", default="", help="file to which the figures are appended as a line of JSON")
    options = parser.parse_args()
    config = options.config + (":quick" if options.quick and ":" not in options.config else "")
    found = {"stage": "main", "config": config, "code": 0}
    with tempfile.TemporaryDirectory() as folder:
        for name, command in commands(config, Path(folder), options.deploy).items():
            start = time.perf_counter()
            done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
            found[f"{name}_s"] = round(time.perf_counter() - start, 1)
            print(f"-- {' '.join(command)}", done.stdout[-6000:], done.stderr[-6000:], sep="\n", flush=True)
            if done.returncode:
                found |= {"code": done.returncode, "failed": name, "end": (done.stdout + done.stderr)[-1500:]}
                break
        scores = Path(folder, "run", "evaluation.json")
        found["evaluation"] = json.loads(scores.read_text()) if scores.exists() else None
        if options.deploy and not found["code"]:
            found["labels_that_differ"] = difference(Path(folder))
    if options.results:
        with open(options.results, "a") as file:
            file.write(json.dumps(found) + "\n")
    sys.exit(found["code"])


def commands(config: str, folder: Path, deploy: bool) -> dict[str, list[str]]:
    """{name: arguments of Python} of the commands, in their order; `deploy` writes a scan for them to `folder`."""
    run = str(folder / "run")
    found = {
        "train": ["-m", "jaxseg.main", f"--config={config}", f"--workdir={run}"],
        "evaluate": ["-m", "jaxseg", "evaluate", run, "--overwrite"],
    }
    if not deploy:
        return found
    scan, model = str(write_scan(folder)), str(folder / "model.jaxseg")
    return found | {
        "predict": ["-m", "jaxseg", "predict", run, f"--input={scan}", f"--output={folder / 'labels'}", THRESHOLD],
        "export": ["-m", "jaxseg", "export", run, f"--output={model}", THRESHOLD],
        "exported": [model, "--input", scan, "--output", str(folder / "exported.nii.gz")],
    }


def write_scan(folder: Path) -> Path:
    """A CT of 8 slices of 96 x 80 voxels with a bright ball in soft tissue, in HU."""
    import nibabel
    import numpy as np

    place = np.stack(np.meshgrid(*(np.arange(n) - n / 2 for n in (96, 80, 8)), indexing="ij"))
    ball = np.sqrt((place**2).sum(0)) < 12
    values = np.where(ball, 70.0, 30.0) + np.random.default_rng(0).normal(0, 5, ball.shape)
    path = folder / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(values.astype(np.int16), np.diag([0.5, 0.5, 5.0, 1.0])), path)
    return path


def difference(folder: Path) -> str:
    """How many labels of the exported file differ from those of `jaxseg predict`."""
    import nibabel
    import numpy as np

    (path,) = [p for p in (folder / "labels").rglob("*.nii.gz") if "prob" not in p.name]
    ours, exported = (np.asarray(nibabel.load(p).dataobj) for p in (path, folder / "exported.nii.gz"))
    return f"{int((ours != exported).sum())} of {ours.size}"


if __name__ == "__main__":
    main()
