"""Record the hardware and software on which a run's rounding depends, and compare them when the run is resumed.

The order in which sums are rounded depends on the number of devices and of XLA's CPU threads, the processor's vector width and
the version of the compiler. The steps and samples of a resumed run never depend on them.
"""

from pathlib import Path

from jaxseg import checkpoint
from jaxseg.programs.conditions import hardware
from jaxseg.train.log import Log
from jaxseg.utils import code

NAME = "surroundings"  # in run.json
_WORDS = {
    "platform": "platform",
    "processor": "processor",
    "devices": "devices",
    "cpu_threads": "CPU threads of XLA",
    "jaxlib": "jaxlib",
}


def compare(workdir: Path, log: Log, *, resumed: bool) -> None:
    """Log in one line what has changed since the run's last start, if anything has."""
    if not resumed:
        return
    record = checkpoint.read_record(workdir)
    before, now = record[NAME], hardware()
    changed = [f"{word} {before.get(key)} before, {now[key]} now" for key, word in _WORDS.items() if before.get(key) != now[key]]
    if changed:
        log.say(
            f"WARNING {'; '.join(changed)}: the run continues with the same steps and samples, but sums are rounded in another "
            "order, so the last digits will differ from those of an uninterrupted run"
        )
    for module in code.changed(record["code"]):
        log.say(f"WARNING the module {module!r} has changed since the run was started: the run continues with the new content")
