"""Data sets and runs for the tests of config keys, made when they are asked for."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np

from jaxseg.config import resolve
from jaxseg.infer import postprocess
from jaxseg.types import JaxsegError
from tests import untrained

RANK = {"slices": 2, "volumes": 3, "whole": 3, "cascade": 3}
PLAIN = {
    "train.augment": (),
    "loss.terms": (("bce", 1.0),),
    "optim.name": "adam",
    "train.epochs": 4,
}  # small programs, four steps


class World:
    """A set of pictures and one of volumes, and, once they are asked for, runs with initial weights."""

    def __init__(self, top: Path, facets: dict):
        self.top, self._facets, self._runs, self._found = top, facets, {}, {}
        self.sets = {rank: untrained.write(top / f"set{rank}", rank) for rank in (2, 3)}
        for rank, suffix in ((2, "png"), (3, "nii.gz")):  # with a file that cannot be read; with two more cases
            untrained.write(top / f"bad{rank}", rank)
            (top / f"bad{rank}" / "images" / f"7.{suffix}").write_bytes(b"no image")
            untrained.write(top / f"more{rank}", rank, count=10)
        (top / "arrays").mkdir()
        for part in ("train", "val", "test"):
            np.save(top / "arrays" / f"{part}_images.npy", np.full((2, 24, 20, 4), 2, np.float32))
            np.save(top / "arrays" / f"{part}_labels.npy", np.zeros((2, 24, 20), np.uint8))
            for kind in ("images", "labels"):
                (top / "boxes" / part.replace("val", "valid") / kind).mkdir(parents=True)
            shutil.copy(
                self.sets[2] / "images" / "0.png", top / "boxes" / part.replace("val", "valid") / "images" / f"{part}.png"
            )
        names = [str(i) for i in range(8)]
        for file, parts in (("a.json", (names[:4], names[4:6], names[6:])), ("b.json", (names[4:], names[2:4], names[:2]))):
            (top / file).write_text(json.dumps(dict(zip(("train", "val", "test"), parts))))

    def config(self, base: str, given: dict, typed: tuple[str, ...] = ()):
        """The resolved config of a base with other values, as a file and a command line give it."""
        given = {key: self.path(value) for key, value in given.items()}
        given = PLAIN | ({"data.whole": True, "data.fit": "stretch"} if base == "whole" else {}) | given
        if RANK[base] == 3:
            given = {"data.per_volume": 1} | given
        given |= {"infer.roi": str(self.run("whole"))} if base == "cascade" and "infer.roi" not in given else {}
        tree = untrained.config(self.sets[RANK[base]], RANK[base])
        tree = tree.copy_and_resolve_references().unlock()
        for key, value in given.items():
            group, _, leaf = key.rpartition(".")
            place = tree[group] if group else tree
            with place.ignore_type():
                place[leaf] = value
        return resolve(tree, name="test", overridden=list(typed))

    def path(self, value):
        """ "<name>" is a file or folder of this world, "<run of a base>" a run of it."""
        if isinstance(value, tuple):
            return tuple(self.path(v) for v in value)
        if not isinstance(value, str) or not value.startswith("<"):
            return value
        name = value.strip("<>")
        return str(self.run(name.removeprefix("run "))) if name.startswith("run ") else str(self.top / name)

    def run(self, name: str) -> Path:
        """A run of a base, made at the first call; "other <base>" has another seed."""
        if name not in self._runs:
            base = name.rpartition(" ")[2]
            tree = self.config(base if base != "cascade" else "volumes", {"seed": 1} if name != base else {})
            try:
                with jax.disable_jit():
                    self._runs[name] = untrained.make(self.top / "runs" / name.replace(" ", "_"), tree)
            except JaxsegError as error:  # no facet of a key
                raise AssertionError(f"the run {name!r} cannot be made: {error}") from error
            step = {"step": "remove_small", "options": {"min_mm3": 1e9}, "dice": [0.0, 0.0]}
            (self._runs[name] / postprocess.FILE).write_text(json.dumps([step]))
        return self._runs[name]

    def facet(self, name: str, base: str, given: dict, typed: tuple[str, ...] = ()):
        """A facet's value; equal calls are answered once."""
        key = json.dumps([name, base, given, typed], default=str)
        if key not in self._found:
            try:
                self._found[key] = self._facets[name](self, base, self.config(base, given, typed))
            except JaxsegError as error:
                self._found[key] = error
        return self._found[key]
