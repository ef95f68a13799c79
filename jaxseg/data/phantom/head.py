"""A head in Hounsfield units, painted slice by slice from formulas in millimetres.

Coordinates are the patient's: x to the left, y to the back, z to the top, origin between the lateral ventricles.
Every structure is a signed distance (positive inside) turned into an opacity by a ramp one pixel wide, painted in the
order of depth. Numbers are typical adult sizes and attenuations; nothing is traced from a scan.
"""

import dataclasses

import numpy as np

AIR, FAT, SKIN, MUSCLE, CSF = -1000.0, -90.0, 60.0, 62.0, 7.0

# Lateral ventricle of one side, as tapering tubes: (start, end, radius at start, radius at end), x outwards.
LATERAL = (
    ((7, -33, 3), (9, -12, 13), 4.5, 6.0),  # frontal horn
    ((9, -12, 13), (13, 18, 17), 6.0, 6.0),  # body
    ((13, 18, 17), (24, 37, 6), 6.0, 8.0),  # atrium
    ((24, 37, 6), (21, 58, 2), 6.5, 2.5),  # occipital horn
    ((27, 33, 0), (34, 2, -15), 4.0, 2.5),  # temporal horn
)

DEEP_GREY = (  # centre and half-axes of thalamus, lentiform nucleus, head of the caudate, insula
    ((11, 6, 4), (8, 14, 10)),
    ((24, -5, 2), (6.5, 16, 10)),
    ((12, -24, 7), (5, 9, 10)),
    ((31, 0, 2), (2.5, 18, 12)),
)


@dataclasses.dataclass(frozen=True)
class Head:
    """What distinguishes one patient's head from another's.

    Attributes:
      half: half-axes of the inside of the skull (x, y, z), mm.
      square: 2 for an ellipse in plane, smaller for a squarer outline.
      egg: how much wider the back is than the front (fraction).
      bone, scalp: thickness in mm; wobble: relative amplitude of the outline's irregularity.
      turn, tilt, lean: rotation about z, x and y, radians; shift: of the head in the field of view, mm.
      ventricle: radius factor (left, right); sulcus: width of the folds' fluid, in units of the fold field.
      grey, white: HU; cup: brightening towards the skull, HU; streak: amplitude of the petrous streaks, HU.
      swelling: blood under the scalp, outside the skull: (angle, thickness mm, HU).
      fracture: angle of a skull fracture, or None. calcified: strength of pineal, plexus, basal ganglia, falx (0 = none).
    """

    half: tuple[float, float, float]
    square: float
    egg: float
    bone: float
    scalp: float
    wobble: float
    turn: float
    tilt: float
    lean: float
    shift: tuple[float, float]
    ventricle: tuple[float, float]
    sulcus: float
    grey: float
    white: float
    cup: float
    streak: float
    swelling: tuple[float, float, float]
    fracture: float | None
    calcified: tuple[float, float, float, float]


def draw_head(rng: np.random.Generator, fracture: bool) -> Head:
    """Draw a random head."""
    u, n = rng.uniform, rng.normal
    age = u(0.6, 1.7)
    calcified = tuple(float(u(0.4, 1.0)) if rng.random() < p else 0.0 for p in (0.8, 0.7, 0.4, 0.25))
    return Head(
        half=(u(63, 71), u(80, 89), u(74, 82)),
        square=u(1.5, 1.9),
        egg=u(0.03, 0.10),
        bone=u(4.5, 7.5),
        scalp=u(5.0, 9.0),
        wobble=u(0.006, 0.014),
        turn=n() * 0.07,
        tilt=n() * 0.09,
        lean=n() * 0.04,
        shift=(n() * 3.0, n() * 3.0),
        ventricle=(age * u(0.85, 1.15), age * u(0.85, 1.15)),
        sulcus=0.10 + 0.13 * (age - 0.6),
        grey=u(36, 41),
        white=u(26, 30),
        cup=u(6, 14),
        streak=u(6, 14),
        calcified=calcified,
        fracture=u(-np.pi, np.pi) if fracture else None,
        swelling=(u(-np.pi, np.pi), u(10, 18) if rng.random() < 0.9 else 0.0, u(57, 75)),
    )


class Plane:
    """Coordinates and textures of one plane.

    Attributes:
      x, y, z: [n, n] head coordinates, mm; depth: mm below the inner table (negative: in bone and beyond).
      px: pixel size; noise: name -> [n, n].
    """

    def __init__(self, head: Head, view, n: int, px: float, z_mm: float, k: int):
        axis = ((np.arange(n, dtype=np.float32) + 0.5) - n / 2) * np.float32(px)
        x, y = axis[None, :] - np.float32(head.shift[0]), axis[:, None] - np.float32(head.shift[1])
        c, s = np.float32(np.cos(head.turn)), np.float32(np.sin(head.turn))
        x, y = c * x + s * y, c * y - s * x
        self.z = np.float32(z_mm) + np.float32(head.tilt) * y + np.float32(head.lean) * x
        self.x, self.y, self.px = x, y, np.float32(px)
        self.noise = {name: view(name, k) for name in view.textures.fields}
        self.depth = depth_below_skull(head, self.x, self.y, self.z, self.noise["big"])

    def ramp(self, distance: np.ndarray, width: float = 1.0) -> np.ndarray:
        """Opacity 0..1 of a signed distance in mm over an edge of `width` pixels."""
        return np.clip(distance / (self.px * np.float32(width)) + np.float32(0.5), 0, 1)


def depth_below_skull(head: Head, x, y, z, wobble) -> np.ndarray:
    """Millimetres below the inner table along the ray to the centre; negative outside."""
    a, b, c = head.half
    c = np.where(z > 0, np.float32(c), np.float32(1.6 * c))
    width = np.float32(a) * (1 + np.float32(head.egg / b) * y)
    u, v, w = (x / width) ** 2, (y / np.float32(b)) ** 2, (z / c) ** 2
    rho = np.sqrt(np.sqrt(u * u + v * v + np.float32(head.square) * u * v) + w) * (1 + np.float32(head.wobble) * wobble)
    radius = np.sqrt(x * x + y * y + z * z)
    return radius * (1 / np.maximum(rho, np.float32(1e-3)) - 1)


def mix(image: np.ndarray, opacity: np.ndarray, value) -> None:
    """Paint `value` over `image` in place."""
    image += opacity * (value - image)


def tube(x, y, z, a, b, ra: float, rb: float) -> np.ndarray:
    """Signed distance (positive inside) to a tapering tube from a to b, mm."""
    d = np.subtract(b, a).astype(np.float32)
    t = np.clip(((x - a[0]) * d[0] + (y - a[1]) * d[1] + (z - a[2]) * d[2]) / np.dot(d, d), 0, 1)
    gap = np.sqrt((x - a[0] - t * d[0]) ** 2 + (y - a[1] - t * d[1]) ** 2 + (z - a[2] - t * d[2]) ** 2)
    return np.float32(ra) + t * np.float32(rb - ra) - gap


def ball(x, y, z, centre, radii) -> np.ndarray:
    """Signed distance (positive inside, approximate) to an ellipsoid, mm."""
    q = np.sqrt(((x - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2 + ((z - centre[2]) / radii[2]) ** 2)
    return (1 - q) * np.float32(min(radii))


def ventricles(head: Head, x, y, z) -> tuple[np.ndarray, np.ndarray]:
    """Signed distances (mm, positive inside) of the lateral ventricles, and of the third and fourth."""
    out, side = np.abs(x), np.where(x > 0, np.float32(head.ventricle[0]), np.float32(head.ventricle[1]))
    lateral = np.full(x.shape, -99, np.float32)
    for a, b, ra, rb in LATERAL:
        lateral = np.maximum(lateral, tube(out, y, z, a, b, ra, rb) + (side - 1) * np.float32(0.8 * ra))
    lateral = np.minimum(lateral, out - 1.0)
    mean = 0.5 * sum(head.ventricle)
    third = np.minimum(np.minimum(1.8 * mean - out, 14 - np.abs(y - 1)), 11 - np.abs(z + 3))
    fourth = ball(x, y, z, (0, 36, -36), (8 * mean, 5 * mean, 11))
    return lateral, np.maximum(third, fourth)


def paint_brain(head: Head, here: Plane, x, y, z) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Paint the inside of the skull.

    Args:
      here: the plane.
      x, y, z: where each pixel's tissue comes from (the plane's coordinates after displacement by masses).
    Returns:
      (HU [n, n], opacity of ventricular fluid, opacity of fluid around the brain).
    """
    ramp, depth, noise, out = here.ramp, here.depth, here.noise, np.abs(x)
    fold, fine = noise["fold"], noise["fine"]
    below = ramp(tent(out, y) - z, 3) * ramp(y - 8, 6)  # cerebellum
    image = np.float32(head.white) + 1.6 * noise["mid"] + 1.2 * noise["big"] + 0.9 * fine
    grey = np.float32(head.grey) + 1.2 * noise["mid"] + 0.9 * fine
    rim = 3.0 + 1.5 * head.sulcus
    banks = np.minimum(3.2 * (np.float32(0.62 + head.sulcus) - np.abs(fold)), 24 + 7 * noise["mid"] - depth)
    cortex = np.maximum(rim + 2.2 - depth, banks)
    mix(image, ramp(cortex, 2), grey)
    for centre, radii in DEEP_GREY:
        mix(image, 0.9 * ramp(ball(out, y, z, centre, radii) + 0.8 * noise["mid"], 3), grey)
    mix(image, below * 0.9, grey - 3 + 3.5 * np.sin(fold * 5))
    mix(image, ramp(ball(out, y, z, (0, 16, -40), (15, 13, 30)), 3), np.float32(head.white) + 1 + noise["mid"])  # brain stem

    width = np.float32(head.sulcus) * (1 - 0.6 * below) * (1 + 0.5 * noise["big"])
    folds = np.minimum(4.0 * (width - np.abs(fold)), 15 + 8 * noise["mid"] - depth)
    outside = ramp(np.maximum(folds, 0.2 + 2.5 * head.sulcus + 0.5 * noise["mid"] - depth), 2)
    line = y + 10 + 0.75 * (z + 5) - 0.35 * (out - 40) + 2.5 * noise["mid"]
    sylvian = np.minimum(0.8 + 7 * head.sulcus - np.abs(line) + 1.2 * fold, np.minimum(out - 32, 16 - np.abs(z)))
    suprasellar = np.minimum(11 - np.sqrt(x * x + (y + 14) ** 2) + 3 * np.cos(5 * np.arctan2(x, -(y + 14))), 7 - np.abs(z + 26))
    ring = np.abs(np.sqrt((x / 1.15) ** 2 + (y - 16) ** 2) - 17 - 1.5 * noise["mid"])
    ambient = 1.2 + 3 * head.sulcus + 0.8 * fold - ring - 0.5 * np.abs(z + 18)
    middle = np.minimum(1.0 + 2.5 * head.sulcus + 0.5 * fold - out, 42 - depth) * (z > -14)
    outside = np.maximum(outside, ramp(np.maximum(np.maximum(sylvian, suprasellar), np.maximum(ambient, middle)), 2))
    mix(image, outside, np.float32(CSF) + fine)
    lateral, others = ventricles(head, x, y, z)
    lateral += 0.5 * noise["mid"]
    inside = ramp(np.maximum(lateral, others), 1.5)
    mix(image, 0.45 * ramp(lateral + 5, 5) * (1 - inside), np.float32(head.white - 8))  # periventricular lucency
    mix(image, inside, np.float32(CSF - 2) + 0.8 * fine)
    artery = 2.6 - np.sqrt((out - 36) ** 2 + (y + 16 + 0.2 * z) ** 2) - 0.4 * np.abs(z)
    mix(image, ramp(artery, 2), 52.0)  # middle cerebral artery
    mix(image, ramp(2.4 - np.sqrt(x * x + (y + 8) ** 2) - 0.2 * np.abs(z + 30), 2), 50.0)  # basilar artery
    paint_dura(head, here, image, x, y, z)
    paint_calcium(head, here, image, out, y, z)
    return image, inside, outside * (1 - inside)


def tent(out: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Height of the tentorium: a ridge along the midline that falls to the back and the sides."""
    return np.maximum(8 - 0.45 * np.maximum(y - 28, 0) - 0.42 * out, -28)


def paint_dura(head: Head, here: Plane, image, x, y, z) -> None:
    """Falx, tentorium and venous sinuses: thin, slightly dense, at home in the places where blood also lies."""
    ramp, depth, out = here.ramp, here.depth, np.abs(x + 0.8 * here.noise["big"])
    falx = np.minimum(np.minimum(1.1 - out, 36 - depth), z + 12)
    mix(image, 0.85 * ramp(falx, 1.5), 56 + 5 * here.noise["mid"])
    if head.calcified[3]:
        mix(image, ramp(np.minimum(falx + 0.5, 0.4 * (here.noise["mid"] - 1.3)), 1.5), 90 + 140 * head.calcified[3])
    sheet = 1.7 - np.abs(z - tent(out, y) + here.noise["mid"])
    sheet = np.minimum(np.minimum(sheet, y - 6), np.sqrt(x * x + (y - 14) ** 2) - 19)
    mix(image, 0.75 * ramp(sheet, 2), 56.0)
    sagittal = np.minimum(5.5 - out - 0.7 * np.maximum(depth, 0), y + 30)
    lateral = np.minimum(np.minimum(4.8 - np.maximum(depth, 0), 4.5 - np.abs(z + 27 + 0.1 * y)), y - 18)
    mix(image, ramp(np.maximum(sagittal, lateral), 1.5), 60 + 3 * here.noise["mid"])


def paint_calcium(head: Head, here: Plane, image, out, y, z) -> None:
    """Pineal gland, choroid plexus, basal ganglia: dense spots that are no blood."""
    ramp, fine = here.ramp, here.noise["fine"]
    pineal, plexus, ganglia, _ = head.calcified
    if pineal:
        gland = ball(out, y, z, (0, 21, 1), (1.5 + 2 * pineal, 2 + 2.5 * pineal, 5))
        mix(image, ramp(gland, 1.5), 70 + 170 * pineal + 25 * fine)
    if plexus:
        tuft = ball(out, y, z, (20, 34, 9), (2 + 2 * plexus, 3 + 3 * plexus, 8)) + 0.6 * fine
        mix(image, ramp(tuft, 2), 55 + 120 * plexus + 25 * fine)
    if ganglia:
        patch = ball(out, y, z, (20, -4, 2), (3.5, 4 + 5 * ganglia, 6)) + 1.3 * here.noise["mid"]
        mix(image, 0.8 * ramp(patch, 3), 55 + 75 * ganglia + 10 * fine)


def paint_bone(head: Head, here: Plane, image: np.ndarray) -> np.ndarray:
    """Skull, scalp, skull base and the air around, over the brain in place; returns where brain is left, 0..1."""
    ramp, x, y, z, out, noise = here.ramp, here.x, here.y, here.z, np.abs(here.x), here.noise
    depth = here.depth
    thick = np.float32(head.bone) * (1 + 0.22 * noise["big"] * 0.5 + 0.25 * np.clip(np.abs(y) / 80 - 0.6, 0, 1))
    temporal = 12.0 * np.exp(-(((y + 32) / 22) ** 2) - ((np.minimum(z, 40) + 8) / 30) ** 2) * (out > 35)
    nape = 14.0 * np.clip((y - 40) / 30, 0, 1) * np.clip((-2 - z) / 12, 0, 1)
    angle, swell, density = head.swelling
    away = np.arctan2(y, x) - np.float32(angle)
    swell = np.float32(swell) * np.exp(-((2 - 2 * np.cos(away)) / 0.8) - ((z - 10) / 45) ** 2) * (1 + 0.15 * noise["mid"])
    scalp = np.float32(head.scalp) * (1 + 0.2 * noise["big"]) + temporal + nape + swell
    up = -depth  # millimetres outside the inner table
    layer = up / np.maximum(thick, 1)
    bone = 1250 - 620 * np.exp(-(((layer - 0.5) / 0.26) ** 2)) + 90 * noise["fine"]
    soft = np.full(image.shape, FAT, np.float32) + 12 * noise["fine"]
    under = up - thick
    muscle = np.maximum(temporal, 1.2 * nape) - 1.0 - under
    mix(soft, ramp(muscle, 2), MUSCLE + 4 * noise["fine"])
    mix(soft, 0.9 * ramp(2.2 - under, 1.5), 50.0)  # galea and periosteum
    mix(soft, ramp(np.minimum(swell - 1.5, swell + 1.5 - under), 2), density + 4 * noise["mid"])
    mix(soft, ramp(under - scalp + 3.2, 1.5), SKIN)
    mix(image, ramp(up), bone)
    mix(image, ramp(up - thick), soft)
    ridge = 10 - 0.12 * (70 - out) - 0.8 * np.abs(y - 10 + 0.55 * (out - 40))
    petrous = np.minimum(np.minimum(ridge, -33 - z + 0.25 * out - 8) + 2 * noise["mid"], out - 16)
    petrous = np.where(depth > 0, petrous, -9)
    mix(image, ramp(petrous, 2), 1300 + 250 * noise["fine"])
    mix(image, ramp(np.minimum(np.where(out > 42, petrous - 3, -9), 2 * noise["fine"] + 0.5), 1.5), -600.0)  # mastoid air
    line = y + 34 - 0.25 * (out - 20) + 0.006 * (out - 30) ** 2 - 0.8 * (z + 30)
    wing = np.minimum(np.minimum(2.4 - np.abs(line) + 0.8 * noise["mid"], -26 - z), out - 12)
    wing = np.where(depth > 0, wing, -9)
    mix(image, ramp(wing, 2), 900.0)
    face = np.where(depth > 0, np.minimum(-y - 40, -z - 31 - 0.12 * (y + 40)), -9)
    mix(image, ramp(face, 2), -70 + 12 * noise["fine"])  # orbital fat
    mix(image, ramp(np.minimum(face, 12 - np.sqrt((out - 30) ** 2 + (y + 66) ** 2 + 0.6 * (z + 45) ** 2)), 2), 14.0)
    mix(image, ramp(np.minimum(face, 2.2 - np.abs(out - 16 - 0.3 * (y + 60))), 2), 48.0)  # eye muscles
    mix(image, ramp(np.minimum(face, 14 - out + 2 * noise["mid"]), 2), np.where(noise["mid"] > 0.9, 300.0, -700.0))
    sinus = np.minimum(np.minimum(thick * 0.28 - np.abs(up - 0.5 * thick), 24 - out), np.minimum(-y - 55, -8 - z))
    mix(image, ramp(np.where(y < 0, sinus, -9), 1.5), -800.0)  # frontal sinus
    if head.fracture is not None:
        angle = np.arctan2(y, x) - np.float32(head.fracture) + 0.004 * z + 0.02 * noise["mid"]
        line = 0.9 - np.abs(np.sin(angle)) * np.sqrt(x * x + y * y)
        mix(image, 0.9 * ramp(np.minimum(line, np.where((np.cos(angle) > 0) & (up > 0), thick - up, -9)), 1.2), 60.0)
    mix(image, ramp(up - thick - scalp, 1.5), AIR)
    return ramp(depth) * (1 - ramp(np.maximum(np.maximum(petrous, wing), face), 2))


def paint_artefacts(head: Head, here: Plane, image: np.ndarray) -> None:
    """Beam hardening: cupping under the skull, and streaks between the petrous bones."""
    depth, inside = here.depth, here.depth > 0
    image += np.where(inside, np.float32(head.cup) * np.exp(-np.maximum(depth, 0) / 5) - 1.5, 0)
    near = np.exp(-(((here.z + 36) / 11) ** 2) - ((here.y - 8) / 26) ** 2) * inside
    wave = np.sin(here.y * 0.55 + 0.08 * np.abs(here.x) + 1.5 * here.noise["big"]) - 0.5
    image += np.float32(head.streak) * near * wave


def paint_table(here: Plane, image: np.ndarray, n: int, px: float) -> None:
    """The head holder: a thin curved shell behind the head, in the scanner's own frame."""
    axis = ((np.arange(n, dtype=np.float32) + 0.5) - n / 2) * np.float32(px)
    x, y = axis[None, :], axis[:, None]
    shell = 1.6 - np.abs(np.sqrt(x * x + (y + 6) ** 2) - 112)
    mix(image, here.ramp(np.where((y > 45) & (image < -900), shell, -9), 1.5), 40.0)
