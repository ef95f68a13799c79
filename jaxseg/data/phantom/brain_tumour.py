"""A brain tumour data set made from formulas, in the layouts of BraTS, for tests, demonstrations and tuning.

Heads are skull-stripped ellipsoids with folded cortex, ventricles and deep nuclei in four sequences; tumours are nested:
oedema around an enhancing rim around a necrotic core, with outlines deformed by noise. What makes the real task hard for a
threshold is there too: vessels, plexus and dura enhance like tumour, fluid is as bright as oedema in T2, white matter
lesions are as bright in FLAIR, receive coils shade every image, and each scanner has a scale of its own. They are no
substitute for patients: a network trained on them has learnt this generator.

A case depends on the seed and its own number alone, not on the other cases.
"""

import csv
import json
from pathlib import Path
from typing import NamedTuple

import nibabel
import numpy as np
from scipy.ndimage import gaussian_filter

from jaxseg.data.phantom.head import ball, mix, tube
from jaxseg.data.phantom.noise import smooth_field
from jaxseg.types import ConfigError
from jaxseg.utils.files import build_folder, cache_root
from jaxseg.utils.lookup import lookup

VERSION = 3  # part of the cache folder's name: raise it whenever the bytes change
SEQUENCES = ("t1", "t1ce", "t2", "flair")
KINDS = {"default": (24, (64, 64, 48)), "quick": (6, (40, 40, 32))}  # cases, voxels
GRADES = ("HGG", "LGG", "HGG")  # in turn
VALUES = {  # tissue: brightness in t1, t1ce, t2, flair; white matter in T1 is 1
    "white": (1.00, 1.00, 0.62, 0.70),
    "grey": (0.76, 0.80, 0.84, 0.92),
    "fluid": (0.36, 0.38, 1.55, 0.30),
    "lesion": (0.84, 0.86, 1.20, 1.42),
    "plexus": (0.70, 1.52, 1.10, 0.85),
    "vessel": (0.72, 1.62, 0.50, 0.55),
    "base": (0.88, 1.05, 1.00, 1.42),
    "oedema": (0.78, 0.80, 1.24, 1.27),
    "core": (0.60, 0.62, 1.30, 1.12),
    "rim": (0.82, 1.55, 1.02, 1.18),
    "cavity": (0.36, 0.38, 1.60, 0.32),
}
HORNS = (  # of a lateral ventricle, as tapering tubes: start, end, radii; x outwards
    ((2.6, -12, 2.5), (3.0, 4, 6), 1.9, 2.1),
    ((3.0, 4, 6), (8.0, 13, 3), 2.1, 2.4),
    ((8.0, 13, 3), (10.5, 4, -6), 2.0, 1.1),
)
NCR, ED, ET, RC = 1, 2, 3, 4


class ReleaseLayout(NamedTuple):
    """Names in a release: case folders, separator of case and sequence, codes of the sequences; and the mask's values."""

    case: str
    join: str
    codes: tuple[str, ...]
    values: tuple[int, ...]  # of background, NCR, ED, ET, RC
    suffix: str = ".nii.gz"


_OLD, _NEW = ("t1", "t1ce", "t2", "flair"), ("t1n", "t1c", "t2w", "t2f")
LAYOUTS = {
    "2018": ReleaseLayout("{grade}/Brats18_SYN_{n}_1", "_", _OLD, (0, 1, 2, 4)),
    "2020": ReleaseLayout("BraTS20_Training_{n:03d}", "_", _OLD, (0, 1, 2, 4), ".nii"),
    "2021": ReleaseLayout("BraTS2021_{n:05d}", "_", _OLD, (0, 1, 2, 4)),
    "2023": ReleaseLayout("BraTS-GLI-{n:05d}-000", "-", _NEW, (0, 1, 2, 3)),
    "2024": ReleaseLayout("BraTS-GLI-{n:05d}-100", "-", _NEW, (0, 1, 2, 3, 4)),
    "msd": ReleaseLayout("BRATS_{n:03d}", "", ("FLAIR", "T1w", "t1gd", "T2w"), (0, 2, 1, 3)),
}


def phantom(kind: str = "default") -> Path:
    """Return the folder of the phantom in the layout of 2018, generated on the first call and kept under the cache root."""
    lookup("phantom", kind, KINDS)
    return build_folder(cache_root() / f"phantom-brats-{VERSION}-{kind}", lambda folder: write_phantom(folder, kind=kind))


def write_phantom(folder: str | Path, *, kind: str = "default", layout: str = "2018", seed: int = 0) -> None:
    """Write the data set into an existing or new folder; the same seed gives the same bytes on the same machine.

    Args:
      folder: the target folder.
      kind: "default" (24 cases of 64 x 64 x 48) or "quick" (6 cases of 40 x 40 x 32).
      layout: a key of LAYOUTS. In that of 2024 the tumours have been resected in part.
      seed: random seed.
    Raises:
      ConfigError: unknown kind or layout, negative seed.
    """
    (count, shape), names = lookup("phantom", kind, KINDS), lookup("layout", layout, LAYOUTS)
    if seed < 0:
        raise ConfigError(f"got seed={seed}; must be 0 or more")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    grades = {}
    for n in range(1, count + 1):
        rng = np.random.Generator(np.random.Philox(key=[seed, n]))
        grade = GRADES[n % len(GRADES)]
        images, classes = make_case(rng, shape, grade, resected=layout == "2024")
        truth = np.array(names.values, np.int16)[classes]
        case = names.case.format(grade=grade, n=n)
        grades[case] = grade
        if layout == "msd":
            order = [SEQUENCES.index(s) for s in ("flair", "t1", "t1ce", "t2")]
            _save(folder / "imagesTr" / (case + names.suffix), images[..., order])
            _save(folder / "labelsTr" / (case + names.suffix), truth)
            continue
        here, stem = folder / case, Path(case).name + names.join
        for c, code in enumerate(names.codes):
            _save(here / (stem + code + names.suffix), images[..., c])
        _save(here / (stem + "seg" + names.suffix), truth)
    if layout == "2020":
        rows = [("Grade", "BraTS_2020_subject_ID"), *((grade, case) for case, grade in grades.items())]
        with open(folder / "name_mapping.csv", "w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)
    if layout == "msd":
        (folder / "dataset.json").write_text(
            json.dumps(
                {
                    "name": "BRATS",
                    "modality": {str(i): code for i, code in enumerate(names.codes)},
                    "labels": {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"},
                },
                indent=1,
            )
        )
    (folder / "SYNTHETIC.txt").write_text(
        f"Generated from formulas by jaxseg.data.phantom.brain_tumour version {VERSION}, kind {kind}, seed {seed}; "
        "shows no patient.\n"
    )


def make_case(
    rng: np.random.Generator, shape: tuple[int, int, int], grade: str, resected: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Generate one examination.

    Args:
      shape: voxels along x (right to left), y (front to back), z (feet to head).
      grade: "HGG" (thick enhancing rim, much oedema) or "LGG" (large core that enhances in part).
      resected: whether part of the core has become a cavity.
    Returns:
      (int16 [X, Y, Z, 4] in the order of SEQUENCES, background 0, uint8 classes [X, Y, Z]).
    """
    place = Place(rng, shape)
    layers, ventricle = paint_brain(rng, place)
    tumour, classes = paint_tumour(rng, place, ventricle, grade, resected)
    layers = [*layers, *tumour]
    inside = place.depth > 0
    images = np.zeros((*shape, len(SEQUENCES)), np.int16)
    sharp = 0.55 * place.scale  # blur of the scanner, voxels
    for c in range(len(SEQUENCES)):
        image = np.float32(VALUES["white"][c]) + 0.02 * place.noise["mid"]
        for tissue, opacity in layers:
            mix(image, opacity, np.float32(VALUES[tissue][c]) + 0.04 * place.noise["mid"])
        image = gaussian_filter(image, sharp, mode="nearest")
        shade = np.exp(0.13 * smooth_field(rng, shape, tuple(0.28 * n for n in shape)))
        grain = smooth_field(rng, shape, (0.4, 0.4, 0.4))
        image = image * shade + np.float32(rng.uniform(0.03, 0.06)) * grain
        scale = rng.uniform(180, 900)  # scanners agree on no unit
        images[..., c] = np.where(inside, np.maximum(np.rint(scale * image), 1), 0)
    return images, np.where(inside, classes, 0).astype(np.uint8)


class Place:
    """Coordinates and textures of one head. Lengths are those of a head of 49 x 59 x 42 whatever the number of voxels.

    Attributes:
      x, y, z: [X, Y, Z], from the middle of the head to the left, the back and the top.
      depth: below the surface of the brain, negative outside.
      noise: name -> [X, Y, Z] of standard deviation 1.
      scale: voxels per unit of length.
    """

    def __init__(self, rng: np.random.Generator, shape: tuple[int, int, int]):
        u, self.scale = rng.uniform, shape[0] / 64
        scales = np.array(shape) / (64, 64, 48)
        axes = [(np.arange(n, dtype=np.float32) - (n - 1) / 2) / s - u(-0.8, 0.8) for n, s in zip(shape, scales)]
        x, y, z = np.meshgrid(*(a.astype(np.float32) for a in axes), indexing="ij")
        turn, tilt = u(-0.12, 0.12), u(-0.12, 0.12)
        x, y = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
        y, z = np.cos(tilt) * y + np.sin(tilt) * z, np.cos(tilt) * z - np.sin(tilt) * y
        lengths = {"big": (9.0, False), "mid": (2.6, False), "fold": (1.35, True), "finger": (1.7, True)}
        self.noise = {name: smooth_field(rng, shape, tuple(mm * s for s in scales), band) for name, (mm, band) in lengths.items()}
        self.half = (u(23.5, 25.5), u(28, 30), u(20, 21.5))
        a, b, c = self.half
        wide = a * (1 + 0.004 * y)  # the back is wider than the front
        squared = [np.abs(t) ** np.float32(2.3) for t in (x / wide, y / b, z / np.where(z > 0, c, 0.93 * c))]
        rho = sum(squared) ** np.float32(1 / 2.3)  # a little squarer than an ellipsoid
        radius = np.sqrt(x * x + y * y + z * z)
        self.x, self.y, self.z = x, y, z
        self.depth = radius * (1 / np.maximum(rho * (1 + 0.012 * self.noise["mid"]), np.float32(1e-3)) - 1)

    def ramp(self, distance: np.ndarray, width: float = 1.0) -> np.ndarray:
        """Opacity 0..1 of a signed distance over an edge of `width` voxels."""
        return np.clip(distance * np.float32(self.scale / width) + np.float32(0.5), 0, 1)


def paint_brain(rng: np.random.Generator, place: Place) -> tuple[list[tuple[str, np.ndarray]], np.ndarray]:
    """Return what is painted over white matter, in the order of painting.

    Returns:
      ([(tissue, opacity [X, Y, Z])], signed distance of the ventricles).
    """
    u, ramp, x, y, z = rng.uniform, place.ramp, place.x, place.y, place.z
    out, depth, fold, mid, big = np.abs(x), place.depth, place.noise["fold"], place.noise["mid"], place.noise["big"]
    age = u(0.6, 1.4)
    banks = np.minimum(2.2 * (0.75 - np.abs(fold)), 9.5 + 2 * mid - depth)
    cortex = np.maximum(2.6 - depth, banks)
    deep = np.maximum(ball(out, y, z, (4.6, 3, 1.5), (3.4, 5.2, 3.8)), ball(out, y, z, (9.5, -3, 1), (2.6, 6, 4)))
    deep = np.maximum(deep, ball(out, y, z, (4.2, -9.5, 3), (2.0, 3.6, 3.8))) + 0.4 * mid
    below = ramp(np.minimum(y - 6, -6.5 - z - 0.15 * out), 2)  # cerebellum
    stem = ball(out, y, z, (0, 6, -15), (4.2, 4, 10))
    width = 0.10 + 0.14 * age
    sulci = np.minimum(3.0 * (width - np.abs(fold)), 7.5 + 2.5 * mid - depth)
    fissure = np.minimum(np.minimum(0.5 + 0.35 * age + 0.3 * fold - out, 13 - depth), z + 5)
    sylvian = 0.6 + 0.7 * age - np.abs(y + 4 + 0.6 * z) + 0.4 * fold
    sulci = np.maximum(np.maximum(sulci, fissure), np.minimum(np.minimum(sylvian, out - 13), 6 - np.abs(z)))
    surface = 0.25 + 0.35 * age + 0.5 * mid - depth
    horns = np.stack([tube(out, y, z, *part) for part in HORNS]).max(0)
    lateral = np.minimum(horns + 1.1 * (age - 0.9) + 0.25 * mid, out - 0.5)
    third = np.minimum(np.minimum(0.8 * age - out, 4.5 - np.abs(y - 1)), 3.5 - np.abs(z + 1))
    ventricle = np.maximum(lateral, np.maximum(third, ball(out, y, z, (0, 12, -11), (2.4, 1.8, 3.5))))
    caps = np.minimum(lateral + 1.2 + 0.9 * age + 0.8 * mid, 0.8 * (big + 2.0))  # white matter lesions around the ventricles
    spots = np.minimum(1.5 * (place.noise["finger"] - (2.05 - 0.35 * age)), depth - 6.5)
    plexus = ball(out, y, z, (8.0 + u(-0.5, 0.5), 11.5, 2.6), (1.5, 2.6, 1.7)) + 0.3 * fold
    sinus = np.maximum(np.minimum(1.9 - np.hypot(out, depth - 1.2), y + 12), 1.8 - np.hypot(depth - 1.2, z + 7.5) - 5 * (y < 8))
    dura = np.minimum(np.minimum(0.75 - depth + 0.5 * mid, 1.2 * big + 0.4), z + 12)
    vessels = np.full(x.shape, -9, np.float32)
    for _ in range(9):  # arteries and cortical veins
        angle, height = u(-np.pi, np.pi), u(-12, 12)
        further = angle + u(-0.5, 0.5)
        a = (11 * np.cos(angle), 13 * np.sin(angle), height + u(-4, 4))
        b = (0.9 * place.half[0] * np.cos(further), 0.9 * place.half[1] * np.sin(further), height)
        vessels = np.maximum(vessels, tube(x + 0.7 * mid, y + 0.7 * big, z, a, b, 0.55, 1.0))
    base = np.minimum(np.minimum(4.5 + 2 * mid - depth, -6 - z), 1.6 * big + 2.6)  # flow and coil near the skull base
    leaves = 0.75 * below * (0.6 + 0.4 * np.sin(2.4 * z + fold))
    return [
        ("grey", ramp(cortex, 1.5)),
        ("grey", 0.9 * ramp(deep, 2)),
        ("grey", leaves),
        ("white", ramp(stem, 2)),
        ("lesion", 0.95 * ramp(np.maximum(caps, spots), 2)),
        ("base", 0.85 * ramp(base, 3)),
        ("fluid", ramp(np.maximum(sulci, surface), 1.5)),
        ("fluid", ramp(ventricle, 1.2)),
        ("plexus", ramp(plexus, 1.2)),
        ("vessel", ramp(np.maximum(np.maximum(sinus, vessels), dura), 1.2)),
    ], ventricle


def paint_tumour(
    rng: np.random.Generator, place: Place, ventricle: np.ndarray, grade: str, resected: bool
) -> tuple[list[tuple[str, np.ndarray]], np.ndarray]:
    """Draw a tumour, often with a satellite, from the outside in.

    Returns:
      ([(tissue, opacity [X, Y, Z])], classes [X, Y, Z]).
    """
    u, ramp, noise, high = rng.uniform, place.ramp, place.noise, grade == "HGG"
    oedema, core, dead, hole = (np.full(place.x.shape, -9, np.float32) for _ in range(4))
    lesions = 2 if rng.random() < 0.3 else 1
    side = 1 if rng.random() < 0.5 else -1
    for i in range(lesions):
        angle, reach = u(-1.2, 1.2) + (0 if side > 0 else np.pi), u(0.42, 0.62)
        centre = (place.half[0] * reach * np.cos(angle), place.half[1] * reach * np.sin(angle), u(-3, 9))
        shrink = 1.0 if i == 0 else u(0.4, 0.55)
        r = shrink * (u(5.6, 8.0) if high else u(6.2, 8.0))
        axes = r * rng.uniform(0.85, 1.25, 3)
        distance = ball(place.x, place.y, place.z, centre, axes) + 0.9 * shrink * noise["mid"] + 0.3 * noise["finger"]
        around = ball(place.x, place.y, place.z, centre, axes + shrink * (u(2.5, 5.5) if high else u(1.0, 3.0)))
        oedema = np.maximum(oedema, np.maximum(around + 1.0 * noise["finger"] + 0.8 * noise["mid"], distance))
        core = np.maximum(core, distance)
        thick = u(1.7, 2.6) if high else u(1.4, 2.0)
        dead = np.maximum(dead, distance - thick - 0.5 * noise["mid"])
        hole = np.maximum(hole, ball(place.x, place.y, place.z, centre, 0.72 * axes) + 0.5 * noise["mid"])
        side = -side if rng.random() < 0.3 else side
    patches = 1.2 * (noise["big"] + 0.9 * noise["mid"]) + (2.5 if high else 0.6)  # where the core enhances
    free = np.minimum(place.depth - 0.8, -0.6 - ventricle)
    folds = 2.0 * (1.15 - np.abs(noise["fold"])) + 3.0 * (core > 0)  # oedema follows white matter, the core does not
    oedema, core = np.minimum(np.minimum(oedema, free), folds), np.minimum(core, free)
    enhancing = np.minimum(np.minimum(core, -dead), patches)
    layers = [("oedema", ramp(oedema, 2)), ("core", ramp(core, 1.2)), ("rim", ramp(enhancing, 1.2))]
    classes = np.where(core > 0, NCR, np.where(oedema > 0, ED, 0))
    classes[enhancing > 0] = ET
    if resected:
        hole = np.minimum(hole, core)
        layers.append(("cavity", ramp(hole, 1.2)))
        classes[hole > 0] = RC
    return layers, classes


def _save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    affine[1, 3] = array.shape[1] - 1  # as 239 mm of BraTS: the last row lies at 0
    image = nibabel.Nifti1Image(array.astype(np.int16), affine)
    image.header.set_xyzt_units("mm")
    image.to_filename(path)
