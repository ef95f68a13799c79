"""A complete training run as a user starts it, on this machine's accelerator: seconds, time to the first step, score."""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--results", default="")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = "configs/ich_segnext.py" + (":quick" if options.quick else "")
        command = [sys.executable, "-m", "jaxseg.main", f"--config={config}", f"--workdir={folder}/run"]
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True)
        seconds = time.perf_counter() - start
        print(done.stdout[-6000:], done.stderr[-6000:], flush=True)
        scores = Path(folder, "run", "evaluation.json")
        found = {
            "stage": "main",
            "seconds": seconds,
            "code": done.returncode,
            "end": (done.stdout + done.stderr)[-1500:],
            "evaluation": json.loads(scores.read_text()) if scores.exists() else None,
        }
    if options.results:
        with open(options.results, "a") as file:
            file.write(json.dumps(found) + "\n")
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
