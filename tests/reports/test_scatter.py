"""The cloud of runs: keys turn it, a key names the runs, and it holds the table's numbers."""

from jaxseg.reports import scatter
from tests.reports import browser

RESULTS = [
    {"model_name": m, "run": f"{m}_seed_{s}", "total_params": n, "flops": 900 * n, "test_dice": 0.6 + 0.1 * i + 0.02 * s}
    for i, (m, n) in enumerate((("unet3d_xs", 150_000), ("unet3d_s</script>", 1_200_000), ("unetr", 92_000_000)))
    for s in (1, 2)
]


def test_keys_turn_the_cloud_and_name_its_runs(tmp_path):
    steps = """
      const canvas = document.getElementById("scatter");
      const press = (key) => { canvas.dispatchEvent(new KeyboardEvent("keydown", { key })); return canvas.toDataURL(); };
      const pictures = [canvas.toDataURL(), press("ArrowLeft"), press("ArrowUp"), press("+"), press("n")];
      return { different: new Set(pictures).size, said: document.getElementById("said").textContent };
    """
    missing = {**RESULTS[0], "run": "unfinished", "test_dice": ""}
    found = browser.driven(scatter.page([*RESULTS, missing]), tmp_path, steps, width=browser.NARROWEST)
    assert found["different"] == 5
    assert found["said"] == "unet3d_xs_seed_1: parameters 150 k, multiply-accumulates 135 M, test Dice 0.6200"


def test_names_are_escaped_and_no_finished_run_is_said():
    content = scatter.page(RESULTS)
    assert content.count("<script") == content.count("</script>")
    assert "No run is finished yet" in scatter.page([{**RESULTS[0], "test_dice": ""}])
