"""Parameters of the 3-D networks equal those of the sources, measured or derived by hand, to the last number."""

import pytest

from jaxseg.models import create_model
from jaxseg.models.functional import parameter_count

SIZES = ("xs", "s", "m", "l")
BY_SIZE = {  # the source's networks at 2 inputs and 4 classes
    "unet3d_{}": (5_646_868, 22_579_236, 90_300_484, 361_169_028),
    "unet3d_stride_{}": (5_646_868, 22_579_236, 90_300_484, 361_169_028),
    "dualbranch_01_unet_{}": (5_484_316, 21_930_036, 95_932_644, 383_697_348),
    "dualbranch_02_unet_{}": (5_484_316, 21_930_036, 95_932_644, 383_697_348),
    "dualbranch_03_unet_{}": (5_769_852, 23_071_988, 100_500_068, 401_966_276),
    "dualbranch_04_unet_{}": (5_609_820, 22_106_804, 95_989_220, 382_622_660),
    "dualbranch_05_unet_{}": (5_604_508, 22_085_940, 95_906_532, 382_293_444),
    "dualbranch_06_unet_{}": (5_374_876, 21_135_156, 91_001_060, 362_521_028),
    "dualbranch_07_unet_{}": (6_122_764, 23_270_420, 91_451_556, 362_611_012),  # m, l: with the skip that fits
    "dualbranch_13_unet_{}": (5_478_460, 21_855_860, 24_340_068, 97_205_188),
    "dualbranch_14_mobilenetv2_expand2_{}": (4_820_796, 19_241_716, 21_234_660, 84_825_924),
    "dualbranch_14_ghostnet_{}": (5_113_988, 20_405_060, 22_825_860, 91_175_684),
    "dualbranch_14_dilated_{}": (13_882_444, 55_498_900, 66_339_748, 265_291_588),
    "dualbranch_14_convnext_{}": (5_685_148, 22_206_004, 25_060_580, 98_875_844),
    "dualbranch_14_shufflenetv2_{}": (4_837_820, 19_287_028, 21_223_012, 84_718_788),
    "dualbranch_14_shufflenetv2_dilated_{}": (4_906_484, 19_442_084, 21_422_532, 85_204_868),
    "dualbranch_14_shufflenetv2_lk_{}": (5_024_892, 19_661_172, 21_809_508, 85_891_780),
    "dualbranch_mobilenetv2_dilated_{}": (383_532, 1_455_540, 5_664_868, 22_344_900),
    "dualbranch_mobilenetv2_dilated_fixed_{}": (367_364, 1_390_532, 5_404_164, 21_300_740),
    "dualbranch_18_shufflenet_v1_{}": (503_602, 1_940_304, 7_613_068, 30_155_924),
}


def sizes(name, options, counts):
    """Rows of a network's four sizes: the smallest and the largest run by default, those between are the long set."""
    rows = [(name.format(size), 2, 4, options, n) for size, n in zip(SIZES, counts)]
    return [rows[0], *(pytest.param(*row, marks=pytest.mark.full) for row in rows[1:3]), rows[3]]


TABLE = [row for name, counts in BY_SIZE.items() for row in sizes(name, {}, counts)]
# a kernel of 3 in the dilated convolutions, as the source has it later
TABLE += sizes(
    "dualbranch_03_unet_{}", {"downs": (("dilated3",) * 2, ("stride",) * 2)}, (5_518_972, 22_068_468, 96_485_988, 385_909_956)
)
TABLE += sizes("dualbranch_14_dilated_{}", {"downs": (("dilated3",) * 3,) * 2}, (6_958_156, 27_801_748, 32_621_476, 130_418_500))
TABLE += [
    ("unet3d_2modal_s", 2, 4, {}, 22_579_236),
    ("unet3d_4modal_s", 4, 4, {}, 22_580_964),
    ("roi_unet3d_small", 7, 2, {}, 4_712_818),  # by the blocks' formulas: the source cannot run it
    ("dualbranch_2modal_unet_s", 2, 4, {}, 21_930_036),
    ("quadbranch_4modal_unet_s", 4, 4, {}, 21_935_556),
    ("quadbranch_4modal_attention_unet_s", 4, 4, {}, 21_940_924),
    ("nnunet_plain", 4, 3, {}, 31_198_991),
    *((f"nnunet_resenc_{size}", 4, 3, {}, 102_353_167) for size in ("m", "l", "xl")),  # dynamic-network-architectures 0.4.4
    (
        "nnunet_resenc_l",
        4,
        3,
        {"widths": (32, 64, 128, 256, 320, 320, 320), "convs": (1, 3, 4, 6, 6, 6, 6), "decoder_convs": (1,) * 6},
        141_893_330,
    ),
    ("mobile_unetr_3d", 2, 4, {}, 23_124_796),
    ("mobile_unetr_3d", 4, 4, {}, 23_125_660),
    ("roi_mobileunetr3d_tiny", 7, 2, {}, 23_126_922),
    ("mobile_unetr", 3, 1, {}, 14_157_673),  # of images, in the same project
    ("mobile_unetr", 3, 4, {}, 14_157_868),
    ("mobile_unetr_xs", 3, 1, {}, 5_663_697),
    ("mobile_unetr_xxs", 3, 1, {}, 3_006_073),
    ("unetr", 4, 4, {}, 102_222_404),
    ("unetr", 4, 4, {"image_size": 128}, 102_449_732),
    ("unetr", 1, 14, {}, 92_784_046),
    ("unetr", 4, 4, {"image_size": 128, "width": 32}, 111_472_516 - 18_432),  # MONAI 1.6's less its unused norms
    ("swin_unetr", 4, 4, {}, 62_191_990),
    ("swin_unetr", 4, 3, {}, 62_191_941),
    ("swin_unetr", 1, 14, {}, 62_187_296),
    ("swin_unetr", 4, 4, {"merging": "legacy"}, 62_191_990),
    ("swin_unetr_24", 4, 4, {}, 15_705_646),
    ("swin_unetr_24", 4, 4, {"width": 12}, 4_079_386),
    ("swin_unetr_24", 4, 4, {"width": 36}, 35_076_514),
]


@pytest.mark.parametrize("name, channels, classes, options, expected", TABLE)
def test_parameters(name, channels, classes, options, expected):
    model = create_model(name, in_channels=channels, num_classes=classes, abstract=True, **options)
    assert parameter_count(model) == expected
