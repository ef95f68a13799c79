"""A head CT data set made from formulas, in the layout of PhysioNet CT-ICH 1.3.1, for tests, demonstrations and tuning.

The volumes have what makes the real task hard for a threshold: a skull whose blurred edge passes through every
attenuation of blood, muscle and dura as dense as blood, calcified look-alikes, beam hardening, noise, bleeds almost as
dense as brain. They are no substitute for patients: a network trained on them has learnt this generator.

Layout: ct_scans/049.nii ..., masks/049.nii ... (0 and 255; 059 to 065 absent, as in the real set),
hemorrhage_diagnosis_raw_ct.csv (slices count from 1), Patient_demographics.csv (two header rows), README.txt.
"""

import csv
import dataclasses
import io
from pathlib import Path

import nibabel
import numpy as np
from scipy.ndimage import gaussian_filter

from jaxseg.data.phantom import bleeds as blood
from jaxseg.data.phantom import head as anatomy
from jaxseg.data.phantom.noise import Textures
from jaxseg.types import ConfigError
from jaxseg.utils.files import build_folder, cache_root
from jaxseg.utils.lookup import lookup

VERSION = 2  # part of the cache folder's name: raise it whenever the bytes change
SLICE_MM = 5.0

PLANS = (  # what each patient has, in turn; shuffled over the patients
    ("deep",),
    ("lobar",),
    (),
    ("epidural",),
    ("deep", "ventricle"),
    ("lobar",),
    ("subdural",),
    (),
    ("lobar", "subarachnoid"),
    ("deep",),
    ("lobar",),
    (),
    ("epidural", "contusion"),
    ("deep",),
    ("lobar",),
    ("ventricle", "lobar"),
    ("deep",),
    (),
    ("lobar",),
    ("deep",),
    (),
    ("lobar",),
    ("lobar",),
    ("deep",),
    ("epidural",),
    (),
    ("lobar",),
    ("deep",),
    (),
    ("subdural",),
    ("lobar",),
    ("deep", "ventricle"),
    (),
    ("epidural",),
    ("lobar",),
    (),
)


@dataclasses.dataclass(frozen=True)
class Size:
    """Extent of a data set: patients, pixels along each side, slices (fewest, most), working grid."""

    patients: int
    pixels: int
    slices: tuple[int, int]
    grid: int


KINDS = {"default": Size(36, 512, (12, 14), 256), "quick": Size(8, 128, (6, 6), 64)}


def phantom(kind: str = "default") -> Path:
    """Return the folder of the phantom, generated on the first call and kept under the cache root."""
    lookup("phantom", kind, KINDS)
    return build_folder(cache_root() / f"phantom-ct-ich-{VERSION}-{kind}", lambda folder: write_phantom(folder, kind=kind))


def write_phantom(folder: str | Path, *, kind: str = "default", seed: int = 0) -> None:
    """Write the data set into an existing or new folder; the same seed gives the same bytes on the same machine.

    Args:
      folder: the target folder.
      kind: "default" (36 patients, 512 x 512, about 0.35 GB) or "quick" (8 patients, 128 x 128 x 6).
      seed: random seed.
    Raises:
      ConfigError: unknown kind.
    """
    size = lookup("phantom", kind, KINDS)
    if seed < 0:
        raise ConfigError(f"got seed={seed}; must be 0 or more")
    folder = Path(folder)
    for part in ("ct_scans", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, 0])
    textures = Textures(rng, size.grid, size.pixels, fov=232.0, z_step=SLICE_MM / 2)
    plans = [PLANS[i % len(PLANS)] for i in range(size.patients)]
    plans = [plans[i] for i in rng.permutation(size.patients)]
    rows, people = [], []
    for i, plan in enumerate(plans):
        number = 49 + i if i < 10 else 56 + i  # 059 to 065 are absent
        rng = np.random.default_rng([seed, number])
        scan, masks, fractured, affine = make_patient(rng, size, textures, plan)
        mask = np.zeros(scan.shape, np.uint8)
        for name in blood.KINDS:
            if name in masks:
                mask[masks[name]] = 255
        for part, array in (("ct_scans", scan), ("masks", mask)):
            image = nibabel.Nifti1Image(array.transpose(2, 1, 0), affine)
            image.header.set_xyzt_units("mm")
            image.to_filename(folder / part / f"{number:03d}.nii")
        present = {name: m.any(axis=(1, 2)) for name, m in masks.items()}
        for z in range(len(scan)):
            flags = [int(name in present and present[name][z]) for name in blood.KINDS]
            rows.append([number, z + 1, *flags, int(not any(flags)), int(fractured[z])])
        whole = [int(name in present and present[name].any()) for name in blood.KINDS]
        people.append([number, int(rng.integers(18, 85)), rng.choice(["Male", "Female"]), *whole, int(fractured.any())])
    _write_csv(
        folder / "hemorrhage_diagnosis_raw_ct.csv",
        [["PatientNumber", "SliceNumber", *blood.KINDS, "No_Hemorrhage", "Fracture_Yes_No"], *rows],
    )
    _write_csv(
        folder / "Patient_demographics.csv",
        [
            ["Patient Number", "Age", "Gender", "Hemorrhage type", "", "", "", "", "Fracture"],
            ["", "(years)", "", *blood.KINDS, "(yes 1/no 0)"],
            *people,
        ],
    )
    (folder / "README.txt").write_text(
        f"synthetic: generated by jaxseg.data.phantom.ct_ich version {VERSION}, kind {kind}, seed {seed}.\n"
        "The layout is that of PhysioNet CT-ICH 1.3.1; the images are made from formulas and show no patient.\n"
    )


def make_patient(rng: np.random.Generator, size: Size, textures: Textures, plan: tuple[str, ...]):
    """Generate one examination.

    Returns:
      (scan int16 HU [Z, Y, X], masks {kind: bool [Z, Y, X]}, fractured bool [Z], affine 4x4 of the [X, Y, Z] array).
    """
    n, view = size.grid, textures.view(rng)
    head = anatomy.draw_head(rng, fracture="epidural" in plan or rng.random() < 0.08)
    pixel = (2 * (head.half[1] + 1.25 * head.bone + head.scalp) + rng.uniform(10, 22)) / size.pixels  # the head fills the field
    count = int(rng.integers(size.slices[0], size.slices[1] + 1))
    step = SLICE_MM if size.pixels == 512 else 10.0
    lowest = rng.uniform(-35, -12)
    middle = lowest + step * (count - 1) / 2 + rng.uniform(-6, 6)
    bleeds = blood.draw_bleeds(rng, plan, middle, head.half)
    if head.fracture is not None:  # a fracture lies over the epidural blood it tore
        where = next((b.centre for b in bleeds if b.kind == "Epidural"), None)
        head = dataclasses.replace(head, fracture=float(np.arctan2(where[1], where[0])) if where else head.fracture)
    sigma = rng.uniform(3.0, 7.0)
    px = pixel * size.pixels / n
    scan = np.empty((count, size.pixels, size.pixels), np.int16)
    masks = {b.kind: np.zeros(scan.shape, bool) for b in bleeds}
    grains = rng.integers(0, textures.grain.shape, (count, 3))
    for k in range(count):
        image, truth = np.zeros((n, n), np.float32), {}
        for j in (0, 1):  # two planes a slice: partial volume along z
            here = anatomy.Plane(head, view, n, px, lowest + step * (k + (j - 0.5) / 2), 2 * k + j)
            plane, opacity = _plane(head, bleeds, here, n, px)
            image += 0.5 * plane
            for name, value in opacity.items():
                truth[name] = truth.get(name, 0) + 0.5 * value
        image = _upsample(gaussian_filter(image, 0.75, mode="nearest", truncate=3), size.pixels)
        z, y, x = grains[k]
        noise = np.roll(textures.grain[z], (y, x), (0, 1))
        image += np.float32(sigma) * (0.6 + 0.4 * _upsample(np.clip((here.depth + 20) / 40, 0, 1), size.pixels)) * noise
        scan[k] = np.rint(np.clip(image, -1024, 3071))
        for name, value in truth.items():
            found = _upsample(value, size.pixels) > 0.5
            if found.sum() * pixel * pixel >= 12.0:  # mm2: no reader marks less
                masks[name][k] = found
    middle_index = (size.pixels - 1) / 2
    affine = np.diag([-pixel, -pixel, step, 1.0])
    affine[:3, 3] = pixel * middle_index, pixel * middle_index, lowest
    return scan, masks, np.full(count, head.fracture is not None), affine


def _plane(head, bleeds, here, n: int, px: float) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return HU, and the opacity of blood by kind, in one plane."""
    image, ventricle, fluid = anatomy.paint_brain(head, here, *blood.displace(bleeds, here))
    truth = blood.paint(bleeds, here, image, ventricle, fluid)
    anatomy.paint_artefacts(head, here, image)
    left = anatomy.paint_bone(head, here, image)
    anatomy.paint_table(here, image, n, px)
    return image, {name: value * left for name, value in truth.items()}


def _upsample(image: np.ndarray, size: int) -> np.ndarray:
    """Upsample bilinearly by 2 to [size, size], with samples at pixel centres."""
    for axis in (0, 1):
        a = np.moveaxis(np.asarray(image, np.float32), axis, 0)
        before, after = np.concatenate([a[:1], a[:-1]]), np.concatenate([a[1:], a[-1:]])
        out = np.empty((2 * len(a), *a.shape[1:]), np.float32)
        out[0::2], out[1::2] = 0.75 * a + 0.25 * before, 0.75 * a + 0.25 * after
        image = np.moveaxis(out, 0, axis)
    if image.shape != (size, size):
        raise ValueError(
            f"the working grid is upsampled to {image.shape}, but images are {size} x {size}; it must have half their size"
        )
    return image


def _write_csv(path: Path, rows: list[list]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    path.write_text(text.getvalue())
