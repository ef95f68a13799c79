"""A network that is no better than intensity alone is named, with what to type."""

from jaxseg.evaluate import baseline


def test_a_network_below_the_best_intensity_rule_is_told_what_to_change():
    figures = {"threshold": 0.2, "band": 0.4}
    assert baseline.verdict(0.41, figures, steps=9, root="a") == []
    (line,) = baseline.verdict(0.0, figures, steps=192, root="my data")
    assert line.startswith("WARNING mean Dice 0.0000 after 192 steps is not above that of the best intensity band, 0.4000")
    assert "jaxseg plan folder --config.data.root='my data' --config.plan.minutes=60 --output=longer.py" in line
    assert "jaxseg plan" not in baseline.verdict(0.0, figures, steps=192, root="")[0]
