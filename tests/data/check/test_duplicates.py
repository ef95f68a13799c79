"""Near copies are found by their look, and only between patients."""

import io

import numpy as np
import pytest
from PIL import Image

from jaxseg.data.check import duplicates


def smooth(seed: int, shape=(96, 128)) -> np.ndarray:
    """A picture of soft blobs, uint8 [H, W, 3]."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(shape[::-1], Image.BICUBIC))


def recompressed(image: np.ndarray) -> np.ndarray:
    """Darker, as a JPEG of another size, brought back."""
    out = io.BytesIO()
    Image.fromarray((image * 0.9 + 5).astype(np.uint8)).resize((90, 70)).save(out, "JPEG", quality=70)
    return np.asarray(Image.open(io.BytesIO(out.getvalue())).resize(image.shape[1::-1]))


def found(*images, patients: str) -> list[str]:
    copies = duplicates.Copies()
    for i, (image, patient) in enumerate(zip(images, patients)):
        copies.add(image, str(hash(image.tobytes())), f"c{i}", patient)
    return copies.warnings()


def test_a_copy_that_was_made_darker_and_saved_as_jpeg_is_near():
    one, other = smooth(0), smooth(1)
    (line,) = found(one, other, recompressed(one), patients="abc")
    assert line.startswith("2 cases hold nearly the same image as a case of another patient (c0 ~ c2): ")
    assert not found(one, other, recompressed(one), patients="aba")  # one person's
    (line,) = found(one, other, one, patients="abc")
    assert line.startswith("1 pairs of cases of different patients hold the same image (c0 = c2): ")
    assert not found(*map(smooth, range(40)), patients="abcdefghij" * 4)


def test_near_copies_in_different_splits_are_named_with_their_splits():
    copies, one = duplicates.Copies(), smooth(0)
    for i, image in enumerate((one, smooth(1), recompressed(one))):
        copies.add(image, str(i), f"c{i}", f"p{i}")
    copies.warnings()
    look = lambda **splits: duplicates.across(copies.near, copies.patients, splits)
    (line,) = look(train={"p0", "p1"}, val=set(), test={"p2"})
    assert line.startswith("1 pairs of nearly the same image lie in different splits (c0 (train) ~ c2 (test)): ")
    assert not look(train={"p0", "p2"}, test={"p1"}) and not look(train={"p0"}, test={"p1"})


def test_a_thumbnail_is_the_means_of_cells():
    image = np.random.default_rng(0).normal(size=(64, 32, 3)).astype(np.float32)
    cells = image.reshape(16, 4, 16, 2, 3).mean((1, 3, 4)).ravel()
    expected = (cells - cells.mean()) / (cells.std() * 16)
    np.testing.assert_allclose(duplicates.thumbnail(image), expected, atol=1e-6)
    volume = np.random.default_rng(0).normal(size=(16, 24, 8, 1)).astype(np.float32)
    assert duplicates.thumbnail(volume).shape == (512,)
    assert duplicates.thumbnail(np.ones((5, 7, 1))) is None
    small = np.arange(35.0).reshape(5, 7, 1)  # fewer pixels than cells
    np.testing.assert_allclose(duplicates.thumbnail(small), (np.arange(35) - 17) / np.linalg.norm(np.arange(35) - 17), atol=1e-6)


def test_almost_empty_slices_are_not_compared():
    images = [np.zeros((64, 64, 1), np.uint8) for _ in range(2)]
    for i, image in enumerate(images):
        image[30:36, 30:36] = 200 + i
    assert not found(*images, patients="ab")


def test_large_sets_are_thinned_and_the_line_says_so(monkeypatch):
    monkeypatch.setattr(duplicates, "LIMIT", 4)
    images = [*map(smooth, range(8)), recompressed(smooth(4)), recompressed(smooth(1))]  # images 0, 4 and 8 are left
    (line,) = found(*images, patients="abcdefghij")
    assert line.startswith("2 cases hold nearly the same image as a case of another patient (of every 4th image) (c4 ~ c8): ")


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_to_compare_is_no_warning(count):
    assert not found(*map(smooth, range(count)), patients="a")
