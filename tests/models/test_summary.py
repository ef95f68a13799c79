"""Parameters and MACs equal the published and derived figures, to the last number or printed decimal."""

import pytest

from jaxseg.models import create_model
from jaxseg.models.functional import parameter_count
from jaxseg.models.summary import summarize
from jaxseg.types import ConfigError

# params 1 channel 1 class, encoder, true GMAC and printed GMAC at 640x640
ICH = {
    "segnext_t_ich": (4_804_481, 3_902_336, 16.4976, 16.5449),
    "segnext_s_ich": (14_595_585, 13_447_680, 31.6951, 31.7697),
    "segnext_b_ich": (27_554_817, 26_275_328, 53.1194, 53.2278),
    "segnext_l_ich": (46_177_025, 44_634_368, 87.1728, 87.3279),
    "unet_base": (31_042_369, None, 300.5743, 341.0395),
}
# params 3 channels 150 classes, 1 channel 1 class, GMAC at 512x512 with the resizes counted
OFFICIAL = {
    "segnext_t": (4_263_414, 4_224_833, 6.59),
    "segnext_s": (13_932_886, 13_894_017, 15.85),
    "segnext_b": (27_636_310, 27_559_297, 34.90),
    "segnext_l": (48_926_550, 48_773_249, 69.96),
}


def largest_apart(names):
    """The names, the largest networks as part of the long set."""
    return [pytest.param(name, marks=pytest.mark.full if name.startswith(("segnext_l", "segnext_b")) else ()) for name in names]


@pytest.mark.parametrize("name", largest_apart(ICH))
def test_printed_counts_of_the_projects(name):
    params, encoder, true, printed = ICH[name]
    summary = summarize(name, (1, 640, 640, 1))
    assert summary.params == params == sum(p.params for p in summary.parts)
    assert round(summary.macs / 1e9, 4) == true
    assert round(summary.macs_printed / 1e9, 4) == printed
    if encoder:
        assert {p.name: p.params for p in summary.parts}["encoder"] == encoder
        assert summary.state > 512 * 64  # the bases are state, never parameters
    assert summary.output_shape == (1, 640, 640, 1)


@pytest.mark.parametrize("name", largest_apart(OFFICIAL))
def test_official_counts(name):
    full, small, giga = OFFICIAL[name]
    summary = summarize(name, (1, 512, 512, 3))
    assert summary.params == full
    assert round(sum(summary.counts.values()) / 1e9, 2) == giga  # inference with 7 steps, as the authors counted
    assert parameter_count(create_model(name, in_channels=1, num_classes=1, abstract=True)) == small


def test_macs_scale_with_batch_and_params_do_not():
    one, two = (summarize("unet_test", (b, 16, 16, 1)) for b in (1, 2))
    assert two.macs == 2 * one.macs and two.params == one.params


def test_module_and_name_give_the_same_summary():
    by_name = summarize("segnext_test_ich", (1, 64, 64, 1))
    by_module = summarize(create_model("segnext_test_ich", in_channels=1), (1, 64, 64, 1))
    assert by_name._replace(name="") == by_module._replace(name="")


def test_text_has_every_part_and_both_figures():
    summary = summarize("unet_test", (1, 16, 16, 1))
    text = str(summary)
    assert all(f"{p.name} " in text and f"{p.params:,}" in text for p in summary.parts)
    assert f"{summary.macs / 1e9:.4f}" in text and f"{summary.macs_printed / 1e9:.4f}" in text


def test_unknown_option_is_named():
    with pytest.raises(ConfigError, match="dropuot.*dropout"):
        summarize("segnext_test", (1, 64, 64, 3), dropuot=0.1)
