"""Names that a config may use, so that misspelt names are refused before anything slow is imported.

This file is written by `python tests/test_names.py` from the registries; the same test checks that it is up to date.
"""

NETWORKS = {
    'basicunet': ('basicunet', 'basicunet_test'),
    'dual_branch': ('dualbranch_01_unet_l', 'dualbranch_01_unet_m', 'dualbranch_01_unet_s', 'dualbranch_01_unet_xs', 'dualbranch_02_unet_l', 'dualbranch_02_unet_m', 'dualbranch_02_unet_s', 'dualbranch_02_unet_xs', 'dualbranch_03_unet_l', 'dualbranch_03_unet_m', 'dualbranch_03_unet_s', 'dualbranch_03_unet_test', 'dualbranch_03_unet_xs', 'dualbranch_04_unet_l', 'dualbranch_04_unet_m', 'dualbranch_04_unet_s', 'dualbranch_04_unet_xs', 'dualbranch_05_unet_l', 'dualbranch_05_unet_m', 'dualbranch_05_unet_s', 'dualbranch_05_unet_xs', 'dualbranch_06_unet_l', 'dualbranch_06_unet_m', 'dualbranch_06_unet_s', 'dualbranch_06_unet_xs', 'dualbranch_07_unet_l', 'dualbranch_07_unet_m', 'dualbranch_07_unet_s', 'dualbranch_07_unet_test', 'dualbranch_07_unet_xs', 'dualbranch_13_unet_l', 'dualbranch_13_unet_m', 'dualbranch_13_unet_s', 'dualbranch_13_unet_test', 'dualbranch_13_unet_xs', 'dualbranch_14_convnext_l', 'dualbranch_14_convnext_m', 'dualbranch_14_convnext_s', 'dualbranch_14_convnext_test', 'dualbranch_14_convnext_xs', 'dualbranch_14_dilated_l', 'dualbranch_14_dilated_m', 'dualbranch_14_dilated_s', 'dualbranch_14_dilated_xs', 'dualbranch_14_ghostnet_l', 'dualbranch_14_ghostnet_m', 'dualbranch_14_ghostnet_s', 'dualbranch_14_ghostnet_test', 'dualbranch_14_ghostnet_xs', 'dualbranch_14_mobilenetv2_expand2_l', 'dualbranch_14_mobilenetv2_expand2_m', 'dualbranch_14_mobilenetv2_expand2_s', 'dualbranch_14_mobilenetv2_expand2_xs', 'dualbranch_14_shufflenetv2_dilated_l', 'dualbranch_14_shufflenetv2_dilated_m', 'dualbranch_14_shufflenetv2_dilated_s', 'dualbranch_14_shufflenetv2_dilated_xs', 'dualbranch_14_shufflenetv2_l', 'dualbranch_14_shufflenetv2_lk_l', 'dualbranch_14_shufflenetv2_lk_m', 'dualbranch_14_shufflenetv2_lk_s', 'dualbranch_14_shufflenetv2_lk_xs', 'dualbranch_14_shufflenetv2_m', 'dualbranch_14_shufflenetv2_s', 'dualbranch_14_shufflenetv2_test', 'dualbranch_14_shufflenetv2_xs', 'dualbranch_18_shufflenet_v1_l', 'dualbranch_18_shufflenet_v1_m', 'dualbranch_18_shufflenet_v1_s', 'dualbranch_18_shufflenet_v1_test', 'dualbranch_18_shufflenet_v1_xs', 'dualbranch_2modal_unet_s', 'dualbranch_mobilenetv2_dilated_fixed_l', 'dualbranch_mobilenetv2_dilated_fixed_m', 'dualbranch_mobilenetv2_dilated_fixed_s', 'dualbranch_mobilenetv2_dilated_fixed_test', 'dualbranch_mobilenetv2_dilated_fixed_xs', 'dualbranch_mobilenetv2_dilated_l', 'dualbranch_mobilenetv2_dilated_m', 'dualbranch_mobilenetv2_dilated_s', 'dualbranch_mobilenetv2_dilated_xs', 'quadbranch_4modal_attention_unet_s', 'quadbranch_4modal_attention_unet_test', 'quadbranch_4modal_unet_s'),
    'dynunet': ('dynunet', 'dynunet_test'),
    'effisegnet': ('effisegnet_b0', 'effisegnet_b1', 'effisegnet_b2', 'effisegnet_b3', 'effisegnet_b4', 'effisegnet_b5', 'effisegnet_b6', 'effisegnet_b7', 'effisegnet_lite0', 'effisegnet_test'),
    'hdbet': ('hdbet', 'hdbet_test'),
    'linknet3d': ('linknet3d', 'linknet3d_test'),
    'mednext': ('mednext_b', 'mednext_l', 'mednext_m', 'mednext_s', 'mednext_test'),
    'mobile_unetr': ('mobile_unetr', 'mobile_unetr_test', 'mobile_unetr_xs', 'mobile_unetr_xxs'),
    'mobile_unetr3d': ('mobile_unetr_3d', 'mobile_unetr_3d_test', 'roi_mobileunetr3d_tiny'),
    'nnunet': ('nnunet_plain', 'nnunet_plain_test', 'nnunet_resenc_l', 'nnunet_resenc_m', 'nnunet_resenc_test', 'nnunet_resenc_xl'),
    'pspnet': ('pspnet_r101', 'pspnet_r50', 'pspnet_test'),
    'resunetpp': ('resunetpp', 'resunetpp_test'),
    'segformer': ('segformer_b0', 'segformer_b0_ich', 'segformer_b1', 'segformer_b1_ich', 'segformer_b2', 'segformer_b2_ich', 'segformer_b3', 'segformer_b3_ich', 'segformer_b4', 'segformer_b4_ich', 'segformer_b5', 'segformer_b5_ich', 'segformer_test', 'segformer_test_ich'),
    'segnext': ('segnext_b', 'segnext_b_ich', 'segnext_l', 'segnext_l_ich', 'segnext_s', 'segnext_s_ich', 'segnext_t', 'segnext_t_ich', 'segnext_test', 'segnext_test_ich'),
    'segresnet': ('segresnet', 'segresnet_test'),
    'swin_unetr': ('swin_unetr', 'swin_unetr_24', 'swin_unetr_test'),
    'unet': ('unet_base', 'unet_test'),
    'unet2d': ('attention_unet2d', 'unet2d', 'unet2d_3conv', 'unet2d_3conv_nobridge', 'unet2d_dilated', 'unet2d_dilated_nobridge', 'unet2d_nobridge', 'unet2d_test'),
    'unet3d': ('roi_unet3d_small', 'roi_unet3d_test', 'unet3d_2modal_s', 'unet3d_4modal_s', 'unet3d_l', 'unet3d_m', 'unet3d_s', 'unet3d_stride_l', 'unet3d_stride_m', 'unet3d_stride_s', 'unet3d_stride_xs', 'unet3d_test', 'unet3d_xs'),
    'unet3p': ('unet3p', 'unet3p_3conv', 'unet3p_bridge', 'unet3p_test'),
    'unetr': ('unetr', 'unetr_test'),
}
LOSSES = ('bce', 'bce_dice', 'boundary', 'brats3d_squared', 'brats3d_standard', 'cross_entropy', 'dice', 'exp_log', 'focal', 'generalized_dice', 'hausdorff', 'lovasz', 'near_pixel', 'nnunet', 'squared_error', 'tversky')
TRANSFORMS = ('affine', 'black_rectangle', 'blur', 'brightness', 'colour_jitter', 'contrast', 'cutmix', 'cutout', 'dflip', 'elastic', 'equalize', 'gamma', 'gamma_signed', 'hflip', 'intensity', 'lowres', 'mirror', 'noise', 'rotate', 'scale', 'shear', 'translate', 'vflip')
DATASETS = ('brats', 'brats_arrays', 'ct_ich', 'decathlon', 'folder', 'kvasir', 'lungs', 'nnunet_raw', 'organs_ct', 'scoliosis', 'table')
