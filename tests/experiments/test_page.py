"""The page of a comparison in a real browser, without a network: nothing is asked for, sorting sorts, a phone shows it whole."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from jaxseg.experiments import page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)


def written(folder: Path, script: str = "") -> Path:
    """A page of three models, with a script of the test's own at its end."""
    models = ["unet3d_xs", "a_network_with_a_rather_long_name_for_a_chart", "segnext_t"]
    results = [
        {"model_name": m, "seed": s, "fold": "", "test_dice": 0.5 + 0.1 * i + 0.01 * s, "run": f"{m}_seed_{s}"}
        for i, m in enumerate(models)
        for s in (1, 2)
    ]
    summary = [
        {"model_name": m, "test_dice_mean": 0.515 + 0.1 * i, "test_dice_std": 0.0071, "runs": 2} for i, m in enumerate(models)
    ]
    cases = [
        {"case": f"case{k}", "patient": f"p{k}", "unet3d_xs": d, "segnext_t": 0.9} for k, d in enumerate((0.5, "", 0.125, 0.75))
    ]
    epochs = [
        {"model_name": m, "seed": 1, "fold": "", "epoch": e, "val_dice": 0.1 * e + 0.05 * i}
        for i, m in enumerate(models)
        for e in range(1, 6)
    ]
    facts = {"sentences": ["a is better than b.", "More."], "failed": {}, "finished": models, "runs": dict.fromkeys(models, "x")}
    path = folder / "report.html"
    path.write_text(
        page.of_comparison(facts, summary, results, cases, epochs).replace("</body>", f"<script>{script}</script></body>")
    )
    return path


def shown(path: Path, folder: Path, *, width: int) -> tuple[str, str]:
    """(the document after its scripts ran, what the browser's console said)."""
    if CHROMIUM is None:
        pytest.skip("no Chromium: apt-get install chromium")
    command = [CHROMIUM, *QUIET.split(), f"--user-data-dir={folder / 'profile'}", f"--window-size={width},900"]
    command += ["--enable-logging=stderr", "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


def test_a_column_sorts_down_then_up_with_empty_cells_last(tmp_path):
    click = """
      const table = document.querySelector("table[aria-label=cases]"), button = table.tHead.rows[0].cells[2].firstElementChild;
      const order = () => [...table.tBodies[0].rows].map((row) => row.cells[0].textContent).join(" ");
      button.click(); const down = order(); button.click();
      document.title = down + " | " + order();
    """
    document, console = shown(written(tmp_path, click), tmp_path, width=1200)
    assert re.search("<title>(.*?)</title>", document)[1] == "case3 case0 case2 case1 | case2 case0 case3 case1"
    assert console == ""


def test_a_phone_needs_no_scrolling_sideways_and_nothing_is_fetched(tmp_path):
    measure = """
      const fetched = performance.getEntriesByType("resource").length;
      document.title = document.documentElement.scrollWidth + " " + innerWidth + " " + fetched;
    """
    document, console = shown(written(tmp_path, measure), tmp_path, width=500)  # the narrowest window of a headless Chromium
    content, window, fetched = map(int, re.search("<title>(.*?)</title>", document)[1].split())
    assert content <= window and fetched == 0 and console == ""
