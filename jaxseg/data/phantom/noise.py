"""Periodic random fields: made once by FFT, then cut and rolled, so that a slice of texture costs a copy."""

import numpy as np
from scipy import fft


def smooth_field(rng: np.random.Generator, shape: tuple[int, ...], length: tuple[float, ...], band: bool = False) -> np.ndarray:
    """White noise blurred by a Gaussian, periodic, mean 0 and standard deviation 1.

    Args:
      shape: size of the field.
      length: standard deviation of the blur along each axis, in samples.
      band: subtract a blur twice as wide, which leaves one dominant wavelength (folds) instead of blobs.
    Returns:
      float32 of `shape`.
    """
    exponent = np.zeros((), np.float32)
    for axis, (n, sigma) in enumerate(zip(shape, length)):
        frequency = fft.rfftfreq(n) if axis == len(shape) - 1 else fft.fftfreq(n)
        term = (2 * np.pi**2 * sigma**2 * frequency**2).astype(np.float32)
        exponent = exponent + term.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    gain = np.exp(-exponent)
    if band:
        gain = gain - np.exp(-4 * exponent)
    field = fft.irfftn(fft.rfftn(rng.standard_normal(shape, np.float32)) * gain, s=shape)
    field -= field.mean()
    return (field / field.std()).astype(np.float32)


class Textures:
    """The random fields from which all textures of a data set are cut.

    Attributes:
      step: millimetres between samples, in plane.
      fields: name -> [Z, n, n] float32; Z samples are `z_step` mm apart.
      grain: [m, size, size] quantum noise at the resolution of the images, standard deviation 1.
    """

    def __init__(self, rng: np.random.Generator, n: int, size: int, fov: float, z_step: float):
        self.step, depth = fov / n, 40
        names = {"big": (22.0, False), "mid": (7.0, False), "fold": (3.4, True), "fine": (1.6, False)}
        self.fields = {
            name: smooth_field(rng, (depth, n, n), (0.8 * mm / z_step, mm / self.step, mm / self.step), band)
            for name, (mm, band) in names.items()
        }
        self.grain = smooth_field(rng, (8, size, size), (0.0, 0.75, 0.75))

    def view(self, rng: np.random.Generator) -> "View":
        """The same fields as one patient sees them: shifted and mirrored at random."""
        return View(
            self,
            {name: tuple(int(v) for v in rng.integers(0, f.shape)) for name, f in self.fields.items()},
            bool(rng.integers(2)),
            bool(rng.integers(2)),
        )


class View:
    """One patient's view of the textures."""

    def __init__(self, textures: Textures, shifts: dict[str, tuple[int, ...]], flip: bool, turn: bool):
        self.textures, self.shifts, self.flip, self.turn = textures, shifts, flip, turn

    def __call__(self, name: str, k: int) -> np.ndarray:
        """[n, n] of the field `name` at the k-th depth."""
        z, y, x = self.shifts[name]
        field = self.textures.fields[name]
        plane = np.roll(field[(k + z) % len(field)], (y, x), (0, 1))
        plane = plane[:, ::-1] if self.flip else plane
        return plane.T if self.turn else plane
