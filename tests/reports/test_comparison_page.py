"""The page of a comparison in a real browser: sorting sorts, a phone shows it whole."""

from jaxseg.reports import comparison
from tests.reports import browser


def page() -> str:
    """Of three models."""
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
    return comparison.of_comparison(facts, summary, results, cases, epochs)


def test_a_column_sorts_down_then_up_with_empty_cells_last_on_a_phone_that_shows_the_page_whole(tmp_path):
    steps = """
      const table = document.querySelector("table[aria-label=cases]"), button = table.tHead.rows[0].cells[2].firstElementChild;
      const order = () => [...table.tBodies[0].rows].map((row) => row.cells[0].textContent).join(" ");
      button.click(); const down = order(); button.click();
      return { down, up: order() };
    """
    found = browser.driven(page(), tmp_path, steps, width=browser.NARROWEST)
    assert found == {"down": "case3 case0 case2 case1", "up": "case2 case0 case3 case1"}
