"""The picture of examples shows the prepared images in the colours of their classes."""

import numpy as np
from PIL import Image

from jaxseg.data.check.sheet import TILES, Sheet
from jaxseg.utils.pictures import COLOURS


def test_a_tile_is_the_image_with_its_mask(tmp_path):
    image, mask = np.full((20, 30, 1), 100, np.uint8), np.zeros((20, 30), np.uint8)
    mask[5:10, 5:10] = 1
    sheet = Sheet()
    sheet.add(image, mask)
    found = np.asarray(Image.open(sheet.write(tmp_path / "a.png")))
    assert found.shape == (80, 120, 3)  # four pixels for one
    found = found[1::4, 2::4]
    assert (found[mask == 0] == 100).all() and (found[mask == 1] == tuple(50 + c // 2 for c in COLOURS[0])).all()


def test_volumes_show_their_fullest_slice_and_rows_are_y(tmp_path):
    image, mask = np.zeros((8, 12, 5, 2), np.float32), np.zeros((8, 12, 5), np.uint8)
    image[2, 3, 4, 0], mask[6, 10, 4], mask[6, 9, 1] = 4.0, 1, 1
    mask[6, 11, 4] = 1
    sheet = Sheet()
    sheet.add(image, mask)
    found = np.asarray(Image.open(sheet.write(tmp_path / "a.png")))
    assert found.shape == (120, 80, 3)
    found = found[::10, ::10]
    assert (found[3, 2] == 255).all()
    assert [tuple(p) for p in np.argwhere(found[..., 0] == 115)] == [(10, 6), (11, 6)]


def test_many_examples_are_thinned_and_large_ones_are_shrunk(tmp_path):
    sheet = Sheet()
    for i in range(300):
        sheet.add(np.zeros((512, 300, 1), np.uint8), np.full((512, 300), i % 2, np.uint8))
    assert sheet.of == 300 and TILES <= len(sheet.tiles) <= 4 * TILES and sheet.tiles[0].shape == (256, 150, 3)
    assert Image.open(sheet.write(tmp_path / "a.png")).size == (6 * 150, 3 * 256)
