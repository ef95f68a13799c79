"""Bleeds: the five kinds of intracranial haemorrhage, and their effects on the surrounding tissue.

Each kind has an opacity and an attenuation of blood in one plane; the true mask is where the opacity exceeds one half.
"""

import dataclasses

import numpy as np

from jaxseg.data.phantom.head import Plane, ball, mix

KINDS = ("Intraventricular", "Intraparenchymal", "Subarachnoid", "Epidural", "Subdural")  # the columns' order


@dataclasses.dataclass(frozen=True)
class Bleed:
    """One collection of blood.

    Attributes:
      kind: one of KINDS.
      centre: mm, head coordinates; for epidural and subdural the direction from the origin matters.
      size: half-axes in mm (intraparenchymal); (thickness, reach along the skull, reach along z) for the extra-axial;
        (fluid level along y, side or 0 for both, unused) for intraventricular; (reach, unused, unused) for subarachnoid.
      rough: irregularity of the outline, mm per standard deviation of the texture.
      density: HU; contrast: HU of the clots and fluid inside.
      oedema: width of the lucent rim, mm.
    """

    kind: str
    centre: tuple[float, float, float]
    size: tuple[float, float, float]
    rough: float
    density: float
    contrast: float
    oedema: float


def draw_bleeds(rng: np.random.Generator, plan: tuple[str, ...], middle: float, half: tuple) -> tuple[Bleed, ...]:
    """Draw random bleeds of the kinds in `plan`, around the height `middle` (mm).

    Args:
      plan: words from "deep", "lobar", "ventricle", "epidural", "subdural", "subarachnoid", "contusion".
      half: half-axes of the inside of the skull.
    """
    u = rng.uniform
    side = 1 if rng.random() < 0.5 else -1
    bleeds = []
    for word in plan:
        age = rng.random()  # most are acute, the rest older and closer to brain
        density = u(58, 80) if age < 0.85 or word == "subdural" else u(52, 58)
        contrast = u(2, 7) if rng.random() < 0.7 else u(7, 12)
        z = middle + u(-5, 5)
        if word == "deep":
            where = (side * u(18, 27), u(-14, 14), float(np.clip(z, -6, 22)))
            axes = (u(18, 24), u(25, 33), u(23, 30))
            bleeds.append(Bleed("Intraparenchymal", where, axes, u(1.2, 2.4), density, contrast, u(4, 9)))
        elif word == "lobar":
            angle = u(-1.25, 1.35) + (np.pi if side < 0 else 0)  # not at the midline
            reach = u(0.48, 0.62)
            where = (half[0] * reach * np.cos(angle), half[1] * reach * np.sin(angle), z)
            r = u(22, 30)
            axes = (r, r * u(1.0, 1.45), r * u(0.9, 1.2))
            bleeds.append(Bleed("Intraparenchymal", where, axes, u(1.2, 2.8), density, contrast, u(4, 10)))
        elif word == "ventricle":
            level, only = (u(-60, 0), side) if rng.random() < 0.6 else (u(0, 20), 0)
            bleeds.append(Bleed("Intraventricular", (0, 0, z), (level, only, 0), 0.0, max(density, 54), contrast, 0.0))
        elif word in ("epidural", "subdural"):
            angle = u(-0.9, 0.9) + (np.pi if side < 0 else 0)
            where = (half[0] * np.cos(angle), half[1] * np.sin(angle), z)
            if word == "epidural":
                bleeds.append(Bleed("Epidural", where, (u(25, 35), u(36, 48), u(26, 36)), 0.8, density, contrast, 0.0))
            else:
                bleeds.append(Bleed("Subdural", where, (u(16, 21), u(0.85, 1.1), u(27, 35)), 0.7, density, contrast, 0.0))
        elif word == "subarachnoid":
            where = (side * u(35, 50), u(-25, 20), z)
            bleeds.append(Bleed("Subarachnoid", where, (u(22, 34), 0, 0), 0.0, u(52, 66), 3.0, 0.0))
        else:  # contusion: small, frontal or temporal, at the surface
            angle = u(-1.3, -0.6) if side > 0 else np.pi + u(0.6, 1.3)
            where = (half[0] * 0.76 * np.cos(angle), half[1] * 0.76 * np.sin(angle), z + u(-6, 6))
            bleeds.append(Bleed("Intraparenchymal", where, (u(6, 11), u(6, 11), u(7, 11)), 2.5, density, contrast, u(3, 6)))
        side = -side if word == "contusion" else side
    return tuple(bleeds)


def displace(bleeds: tuple[Bleed, ...], here: Plane) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return where each pixel's tissue was before the mass effect displaced it (nothing moves at the skull)."""
    x, y, z = here.x, here.y, here.z
    free = np.clip(here.depth / 14, 0, 1)
    for b in bleeds:
        if b.kind in ("Intraventricular", "Subarachnoid"):
            continue
        reach = 1.5 * max(b.size[:2]) if b.kind == "Intraparenchymal" else 42.0
        strength = 0.30 if b.kind == "Intraparenchymal" else 0.16
        dx, dy, dz = x - b.centre[0], y - b.centre[1], z - b.centre[2]
        pull = free * np.float32(strength) * np.exp(-(dx * dx + dy * dy + dz * dz) / np.float32(2 * reach * reach))
        x, y = x - pull * dx, y - 0.6 * pull * dy
    return x, y, z


def shape(b: Bleed, here: Plane, ventricle: np.ndarray, fluid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the opacity of the blood, and of a lucent rim around it.

    Args:
      ventricle, fluid: opacities of the fluid in and around the brain.
    Returns:
      two arrays [n, n], 0..1.
    """
    x, y, z, depth, ramp = here.x, here.y, here.z, here.depth, here.ramp
    none = np.zeros_like(depth)
    if b.kind == "Intraparenchymal":
        distance = ball(x, y, z, b.centre, b.size) + b.rough * (here.noise["mid"] + 0.5 * here.noise["fold"])
        distance = np.minimum(np.minimum(distance, depth - 2), x * np.float32(np.sign(b.centre[0])) - 1.5)
        blood = ramp(distance, 1.2) * (1 - 0.8 * ventricle)
        return blood, ramp(distance + b.oedema * (1 + 0.3 * here.noise["big"]), 5) * (1 - blood) * (1 - ventricle) * (depth > 2)
    if b.kind == "Intraventricular":
        level, side, _ = b.size
        chosen = ramp(y - np.float32(level), 2)
        chosen = chosen if side == 0 else chosen * (x * side > -1)
        return ventricle * chosen, none
    if b.kind == "Subarachnoid":
        near = ball(x, y, z, b.centre, (b.size[0],) * 3) + 4 * here.noise["mid"]
        return np.clip(1.6 * fluid, 0, 1) * ramp(near, 5) * (depth > 0), none
    if b.kind == "Epidural":
        length = float(np.linalg.norm(b.centre))
        along = (x * b.centre[0] + y * b.centre[1] + z * b.centre[2]) / length
        lateral = np.sqrt(np.maximum(x * x + y * y + z * z - along * along, 0)) / b.size[1]
        lens = b.size[0] * (1 - lateral**2 - 0.15 * ((z - b.centre[2]) / b.size[2]) ** 2)
        distance = np.where(along > 0, lens, -9) - depth + b.rough * here.noise["mid"]
        return ramp(np.minimum(distance, depth), 1.2), none
    angle = np.arctan2(y, x) - np.arctan2(b.centre[1], b.centre[0])
    angle = np.abs(np.arctan2(np.sin(angle), np.cos(angle))) / b.size[1]
    crescent = b.size[0] * (1 - angle**4 - ((z - b.centre[2]) / b.size[2]) ** 4)
    distance = crescent - depth + b.rough * here.noise["mid"]
    same = x * np.float32(np.sign(b.centre[0])) - 2.0  # the falx stops it
    return ramp(np.minimum(np.minimum(distance, depth), same), 1.2), none


def paint(bleeds: tuple[Bleed, ...], here: Plane, image: np.ndarray, ventricle, fluid) -> dict[str, np.ndarray]:
    """Paint the bleeds over the brain in place; returns the opacity of the blood by kind."""
    truth: dict[str, np.ndarray] = {}
    shapes = [(b, *shape(b, here, ventricle, fluid)) for b in bleeds]
    for b, _, rim in shapes:
        if b.oedema:
            mix(image, 0.85 * rim, 18 + here.noise["mid"])
    for b, blood, _ in shapes:
        clots = np.float32(b.contrast) * (0.7 * here.noise["mid"] + 0.5 * here.noise["fold"])
        level = np.float32(0.12 * b.contrast) * (here.y - np.float32(b.centre[1])) if b.kind != "Intraventricular" else 0.0
        mix(image, blood, np.float32(b.density) + clots + np.clip(level, -6, 6))
        truth[b.kind] = np.maximum(truth[b.kind], blood) if b.kind in truth else blood
    return truth
