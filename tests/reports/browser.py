"""A page in a real browser, without a network."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# Virtual time passes at once while a script waits, but images are decoded in real time: a small budget is spent before they are.
QUIET = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --virtual-time-budget=600000"
)
NARROWEST = 500  # pixels of a headless window


def driven(page: str, folder: Path, steps: str, *, width: int) -> dict[str, Any]:
    """What a script of the test's own found in a page.

    The console must have stayed silent, nothing may have been fetched, and the page must not be wider than the window.

    Args:
      steps: body of an async function that returns an object.
    """
    if CHROMIUM is None:
        pytest.skip("no Chromium: apt-get install chromium")
    script = f"""
      (async () => {{
        const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
        const found = await (async () => {{ {steps} }})();
        found.fetched = performance.getEntriesByType("resource").filter((entry) => !entry.name.startsWith("data:")).length;
        found.wide = document.documentElement.scrollWidth - innerWidth;
        document.title = JSON.stringify(found);
      }})().catch((error) => document.title = JSON.stringify({{ error: String(error) }}));
    """
    path = folder / "driven.html"
    path.write_text(page.replace("</body>", f"<script>{script}</script></body>"))
    command = [CHROMIUM, *QUIET.split(), f"--user-data-dir={folder / 'profile'}", f"--window-size={width},900"]
    done = subprocess.run(
        [*command, "--enable-logging=stderr", "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not said, said
    found = json.loads(html.unescape(re.search("<title>(.*?)</title>", done.stdout, re.DOTALL)[1]))
    assert found.pop("fetched") == 0 and found.pop("wide") <= 0, found
    return found
