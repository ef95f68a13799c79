"""The page of a run: from its folder alone, in a real browser, without a network."""

import json
import re

import numpy as np
import pytest

from jaxseg.reports import run
from jaxseg.reports.cases import pictures
from jaxseg.types import ConfigError
from tests.reports import browser, material


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    return material.run(tmp_path_factory.mktemp("volumes") / "run")


@pytest.fixture(scope="module")
def slices(tmp_path_factory):
    return material.run(tmp_path_factory.mktemp("slices") / "run", (40, 30), (1.0, 2.0), count=8)


def page(folder, *, names="plain", with_pictures=True, megabytes=25.0):
    read = run.read_run(folder, "", names)
    return run.page_of(read, folder, with_pictures=with_pictures, megabytes=megabytes)[0]


PIXELS = """
  const canvases = () => [...document.querySelectorAll("#planes canvas")];
  const look = () => canvases().map((canvas) => canvas.toDataURL());
  const drawn = () => document.getElementById("planes").dataset.drawn;
  const settled = async (change) => {
    const before = drawn();
    change();
    while (drawn() === before) await pause(20);
    return look();
  };
  const differ = (a, b) => a.map((one, i) => one !== b[i]);
  const shows = async (number) => { while (document.body.dataset.shows !== number) await pause(20); await pause(200); };
  await shows("0");
  const press = (key, shiftKey = false) => document.activeElement.dispatchEvent(
    new KeyboardEvent("keydown", { key, shiftKey, bubbles: true, cancelable: true }));
  const slide = (id, value) => { const s = document.getElementById(id); s.value = value; s.dispatchEvent(new Event("input")); };
  const where = () => document.getElementById("where").textContent;
"""


def test_the_viewer_of_volumes_follows_keys_and_sliders_on_a_phone(volumes, tmp_path):
    steps = (
        PIXELS
        + """
      const first = look();
      const ratio = canvases().map((c) => c.height / c.width);
      canvases()[0].focus();
      const start = where();
      const paged = await settled(() => press("PageUp"));
      const place = where();
      const moved = await settled(() => press("ArrowRight", true));
      const end = where();
      const level = await settled(() => slide("level", 60));
      const faint = await settled(() => slide("opacity", 0));
      const title = () => document.getElementById("case").selectedOptions[0].textContent;
      const before = title();
      press("]");
      await shows("1");
      const after = title(), card = document.querySelector("button[data-case='2']");
      card.click();
      await shows("2");
      const changes = { paged: [first, paged], moved: [paged, moved], level: [moved, level], faint: [level, faint] };
      for (const [name, pair] of Object.entries(changes)) changes[name] = differ(...pair);
      const focused = document.activeElement.tagName, planes = canvases().length;
      return { ...changes, ratio, start, place, end, before, after, clicked: title(), focused, planes };
    """
    )
    found = browser.driven(page(volumes), tmp_path, steps, width=browser.NARROWEST)
    assert found["planes"] == 3 and found["focused"] == "CANVAS"
    assert found["ratio"] == pytest.approx([26 / 24, 36 / 24, 36 / 26], rel=0.02)  # 24 x 26 x 18 voxels of 1 x 1 x 2 mm
    number = lambda said: [int(n) for n in re.search(r"voxel (\d+), (\d+), (\d+)", said).groups()]
    x, y, z = number(found["start"])
    assert number(found["place"]) == [x, y, z + 1] and number(found["end"]) == [min(24, x + 10), y, z + 1]
    for what in ("paged", "moved", "level"):
        assert any(found[what]), what
    assert found["level"] == [True] * 3
    names = [case["case"] for case in json.loads((volumes / "evaluations/test@9/pictures/pictures.json").read_text())["cases"]]
    assert [found["before"], found["after"], found["clicked"]] == names[:3]


def test_the_surfaces_of_a_volume_turn_by_keys_and_show_one_structure(volumes, tmp_path):
    steps = (
        PIXELS
        + """
      const holder = document.getElementById("surfaces"), pair = () => [...document.querySelectorAll("#surface-pair canvas")];
      const pictures = () => pair().map((canvas) => canvas.toDataURL());
      const after = async (change) => {
        const before = holder.dataset.drawn;
        change();
        while (holder.dataset.drawn === before) await pause(20);
        return pictures();
      };
      document.getElementById("after").click();
      await shows("1");
      const first = pictures();
      pair()[0].focus();
      const turned = await after(() => press("ArrowLeft"));
      const larger = await after(() => press("+"));
      const reset = await after(() => press("Home"));
      const structure = document.getElementById("structure");
      const one = await after(() => { structure.value = 1; structure.onchange(); });
      const errors = await after(() => document.getElementById("errors").click());
      return { turned: differ(first, turned), larger: differ(turned, larger), reset: differ(first, reset),
        one: differ(reset, one),
        errors: differ(one, errors), names: pair().map((c) => c.getAttribute("aria-label")), choices: structure.length };
    """
    )
    found = browser.driven(page(volumes), tmp_path, steps, width=browser.NARROWEST)
    assert found["turned"] == found["larger"] == [True, True] and found["reset"] == [False, False]
    assert any(found["one"]) and any(found["errors"]) and found["choices"] == 4
    assert ["truth" in name for name in found["names"]] == [True, False]


def test_a_picture_pages_through_cases_and_the_table_sorts(slices, tmp_path):
    steps = (
        PIXELS
        + """
      const title = () => document.getElementById("case").selectedOptions[0].textContent;
      const one = canvases()[0], ratio = one.height / one.width;
      one.focus();
      const before = title();
      press("PageDown");
      await shows("1");
      const after = title();
      const truth = look(), without = await settled(() => press("t"));
      const errors = await settled(() => press("e"));
      const table = document.querySelector("table[aria-label=cases]");
      const column = [...table.tHead.rows[0].cells].findIndex((cell) => cell.textContent.startsWith("Dice"));
      table.tHead.rows[0].cells[column].firstElementChild.click();
      const dice = [...table.tBodies[0].rows].map((row) => Number(row.cells[column].textContent));
      const mark = document.querySelector("[data-tip]");
      mark.dispatchEvent(new PointerEvent("pointermove", { bubbles: true }));
      const alts = [...document.images].every((image) => image.alt.includes("Dice"));
      return { ratio, before, after, dice, alts, truth: differ(truth, without), errors: differ(without, errors),
        tip: document.querySelector(".tip").textContent, unnamed: document.querySelectorAll("svg:not([aria-label])").length };
    """
    )
    found = browser.driven(page(slices), tmp_path, steps, width=1200)
    assert found["ratio"] == pytest.approx(30 * 1.0 / (40 * 2.0), rel=0.02)  # rows of 1 mm, columns of 2 mm
    assert found["before"] != found["after"] and found["truth"] == [True] and found["errors"] == [True]
    assert found["dice"] == sorted(found["dice"], reverse=True) and len(found["dice"]) == 8
    assert found["alts"] and found["unnamed"] == 0 and "Dice" in found["tip"]


def test_nothing_in_a_name_ends_an_element_and_no_path_is_told(volumes):
    content = page(volumes)
    assert "/secret/place" not in content and "…/brats" in content
    assert '<img src="x">' not in content and "&lt;/script&gt;&lt;img" in content
    assert content.count("<script") == content.count("</script>")
    data = re.search(r'<script type="application/json" id="cases">(.*?)</script>', content)[1]
    assert material.NAMES[0] in [case["title"] for case in json.loads(data)["cases"]]


def test_hashed_names_are_nowhere_and_the_same_in_every_page_of_the_same_data(volumes):
    content = page(volumes, names="hash")
    assert "…/brats" not in content  # the name of a folder of data may be a name too
    for name in material.NAMES:
        assert name not in content and name.replace("<", "\\u003c") not in content
    titles = lambda text: json.loads(re.search(r'id="cases">(.*?)</script>', text)[1])["cases"]
    assert titles(content)[0]["title"] == titles(page(volumes, names="hash", megabytes=9.0))[0]["title"]


def test_pictures_stop_where_the_page_is_full_and_can_be_left_out(volumes):
    assert page(volumes).count('id="pixels-') == 6
    assert page(volumes, megabytes=0.01).count('id="pixels-') < 6
    without = page(volumes, with_pictures=False)
    assert "data:image" not in without and "config.report.pictures" in without


def test_a_run_without_kept_pictures_or_without_an_evaluation_names_the_command(tmp_path):
    folder = material.run(tmp_path / "run", count=3, keep=0)
    content = page(folder)
    assert "--config.eval.keep=10" in content and "Learning curves" in content and 'aria-label="scores"' in content
    (folder / "evaluation.json").unlink()
    content = page(folder)
    assert "jaxseg evaluate run" in content and "Learning curves" in content
    with pytest.raises(ConfigError, match="test@9"):
        run.read_run(folder, "other", "plain")
    assert run.read_run(folder, "test", "plain").found


def test_the_figures_are_those_of_the_evaluation(volumes):
    content, found = page(volumes), json.loads((volumes / "evaluation.json").read_text())
    assert f"<b>{found['mean_dice']:.4f}</b>" in content and f"<td>{found['scores']['TC']['dice']['mean']:.4f}</td>" in content
    for reason in ("missed", "boundary", "wrong class", "fragment"):
        assert f"{reason} 100" in content  # a card for each


def test_a_mosaic_holds_every_voxel_where_the_script_looks_for_it():
    volume = np.random.default_rng(0).integers(0, 255, (5, 4, 7), np.uint8)
    columns = 3
    mosaic = pictures._mosaic(volume, columns)
    for x, y, z in np.ndindex(volume.shape):
        assert mosaic[z // columns * 4 + y, z % columns * 5 + x] == volume[x, y, z]
