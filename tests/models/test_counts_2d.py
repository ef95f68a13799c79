"""Trainable parameters (for the BraTS networks Keras' totals) equal the published and derived figures, to the last number."""

import math

import pytest

from jaxseg.models import create_model, functional
from jaxseg.models.functional import parameter_count

# 1 channel 1 class: all, encoder, head; 3 channels 150 classes
SEGFORMER = {
    "b0": (3_711_265, 3_316_256, 395_009, 3_752_694),
    "b1": (13_671_233, 13_145_152, 526_081, 13_715_798),
    "b2": (27_341_121, 24_190_016, 3_151_105, 27_461_974),
    "b3": (47_216_961, 44_065_856, 3_151_105, 47_337_814),
    "b4": (63_987_521, 60_836_416, 3_151_105, 64_108_374),
    "b5": (84_587_841, 81_436_736, 3_151_105, 84_708_694),
}
# trunk, unused conv_head with its norm; all with decoder width 32, with 64; features; blocks
EFFISEGNET = {
    "b0": (3_595_388, 412_160, 4_156_860, 4_308_220, (16, 24, 40, 112, 320), 16),
    "b1": (6_101_024, 412_160, 6_662_496, 6_813_856, (16, 24, 40, 112, 320), 23),
    "b2": (7_202_562, 498_432, 7_864_130, 8_029_314, (16, 24, 48, 120, 352), 23),
    "b3": (10_103_336, 592_896, 10_877_800, 11_061_416, (24, 32, 48, 136, 384), 26),
    "b4": (16_742_216, 806_400, 17_757_832, 17_969_096, (24, 32, 56, 160, 448), 32),
    "b5": (27_288_112, 1_052_672, 28_577_648, 28_816_560, (24, 40, 64, 176, 512), 39),
    "b6": (39_403_992, 1_331_712, 41_002_520, 41_271_384, (32, 40, 72, 200, 576), 45),
    "b7": (62_143_440, 1_643_520, 64_083_728, 64_382_544, (32, 48, 80, 224, 640), 55),
}
# (network, input channels): Keras' total, which counts running statistics
BRATS = {
    ("unet2d", 4): 31_032_516,
    ("unet2d", 3): 31_031_940,
    ("unet2d_nobridge", 4): 15_826_116,
    ("attention_unet2d", 4): 31_870_853,
    ("resunetpp", 4): 4_092_868,
    ("unet3p", 4): 8_907_396,
    ("unet3p_bridge", 4): 26_983_812,
    ("unet3p_3conv", 5): 12_046_212,
    ("unet3p_3conv", 4): 12_045_636,
    ("unet2d_3conv", 4): 46_774_852,
    ("unet2d_3conv", 5): 46_775_428,
    ("unet2d_3conv_nobridge", 4): 22_117_956,
    ("unet2d_3conv_nobridge", 5): 22_118_532,
    ("unet2d_dilated", 4): 31_379_716,
    ("unet2d_dilated_nobridge", 4): 15_911_684,
}
# with the auxiliary head, without; 3 classes
PSPNET = {"pspnet_r50": (49_067_718, 46_707_139), "pspnet_r101": (68_059_846, 65_699_267)}
PSPNET_150 = {"pspnet_r50": 49_180_908, "pspnet_r101": 68_173_036}


def build(name, **options):
    return create_model(name, abstract=True, **options)


def under(model, prefix):
    _, params, _ = functional.split(model)
    return sum(math.prod(v.shape) for n, v in params.items() if n.startswith(prefix))


@pytest.mark.parametrize("size", SEGFORMER)
def test_segformer(size):
    small, encoder, head, full = SEGFORMER[size]
    variant = build(f"segformer_{size}_ich")
    assert parameter_count(variant) == small
    assert under(variant, "encoder.") == encoder and small - under(variant, "encoder.") == head
    assert parameter_count(build(f"segformer_{size}")) == full
    assert parameter_count(build(f"segformer_{size}", in_channels=1, num_classes=1)) == small


@pytest.mark.parametrize("size", EFFISEGNET)
def test_effisegnet(size):
    trunk, unused, narrow, _, features, blocks = EFFISEGNET[size]
    model = build(f"effisegnet_{size}")
    assert parameter_count(model) == narrow
    assert under(model, "encoder.") == trunk + unused
    assert under(model, "encoder.conv_head.") + under(model, "encoder.bn1.") == unused
    assert model.encoder.channels == features and len(model.encoder.blocks) == blocks


@pytest.mark.parametrize("size", ["b0", *(pytest.param(size, marks=pytest.mark.full) for size in EFFISEGNET if size != "b0")])
def test_effisegnet_in_its_other_width_and_without_the_unused_head(size):
    _, unused, narrow, wide, *_ = EFFISEGNET[size]
    name = f"effisegnet_{size}"
    assert parameter_count(build(name, width=64)) == wide
    assert parameter_count(build(name, conv_head=False)) == narrow - unused
    assert parameter_count(build(name, width=64, conv_head=False)) == wide - unused


@pytest.mark.parametrize("name, channels", BRATS)
def test_brats_totals_as_keras_counts_them(name, channels):
    _, params, state = functional.split(build(name, in_channels=channels))
    count = lambda tree: sum(math.prod(v.shape) for v in tree.values())
    assert count(params) + count(state) == BRATS[name, channels]
    if name == "resunetpp":  # printed in the source's notebook
        assert (count(params), count(state)) == (4_086_404, 6_464)


@pytest.mark.parametrize("name", PSPNET)
def test_pspnet(name):
    with_aux, without = PSPNET[name]
    assert parameter_count(build(name, num_classes=3)) == with_aux
    assert parameter_count(build(name, num_classes=3, aux=False)) == without
    assert under(build(name, num_classes=3), "aux.") == with_aux - without == 2_360_579
    assert parameter_count(build(name)) == PSPNET_150[name]
