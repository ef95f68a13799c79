"""The BraTS 2-D project's table, and what its rows are made of: networks, losses, data sets, the recipe for the phantom."""

from typing import NamedTuple


class Row(NamedTuple):
    """A row of the published table.

    Attributes:
      arguments: of configs/brats2d.py.
      printed: the total that the table prints; count: that of the network the arguments build.
      recall, f1, precision, specificity: means over the 4 classes, background included, of all test pixels.
    """

    arguments: str
    printed: int
    count: int
    recall: float
    f1: float
    precision: float
    specificity: float


# Titles and figures as published. Where `count` differs from `printed`:
# - 18,127,940 is no total of any arrangement of the project's blocks that was tried; the row runs as the network of its title.
# - 15,911,684 and 12,046,212 stand on each other's rows: the first is the dilated U-Net without bridge, the second U-Net 3+ with
#   three convolutions a level and five channels.
# A row "5channel" does not say what the fifth channel is; k-means stands here, edge and autoencoded do as well.
ROWS = {
    "U-Net": Row("unet2d", 31032516, 31032516, .914275, .91997, .924925, .984175),
    "Attention U-Net": Row("attention_unet2d", 31870853, 31870853, .926376, .92889, .931425, .988425),
    "Res-U-Net++": Row("resunetpp", 4092868, 4092868, .911125, .92221, .933575, .983725),
    "U-Net (3++)": Row("unet3p", 8907396, 8907396, .92425, .92335, .922425, .986125),
    "3++ Unet Nobridge Ell-Loss": Row("unet3p,ell02", 8907396, 8907396, .92805, .92965, .93135, .988625),
    "U-net Nobridge": Row("unet2d_nobridge", 15826116, 15826116, .92415, .92325, .922525, .98885),
    "Res-Unet++ Nobridge": Row("resunetpp", 4092868, 4092868, .912525, .922825, .933575, .985125),
    "U-net Ell-Loss Nobridge": Row("unet2d_nobridge,ell07", 15826116, 15826116, .92415, .92325, .922525, .98885),
    "3Conv Block Unet Ell-Loss": Row("unet2d_3conv,ell07", 46774852, 46774852, .90615, .899525, .900675, .9885),
    "3Conv Block Unet-Nobridge Ell-Loss":
        Row("unet2d_3conv_nobridge,ell07", 22117956, 22117956, .917575, .91495, .912425, .98785),
    "3Conv Block Unet-Nobridge-Weightedloss":
        Row("unet2d_3conv_nobridge,wcce", 22117956, 22117956, .912925, .909575, .908725, .9791),
    "3Conv Block Unet-5channel Ell-Loss":
        Row("unet2d_3conv,ell07,kmeans", 46775428, 46775428, .90575, .916925, .929375, .98385),
    "3Conv Block Unet-5channel-Nobridge":
        Row("unet2d_3conv_nobridge,kmeans", 22118532, 22118532, .9115, .916575, .921925, .982225),
    "3Conv Block Unet-5channel-Nobridge_wloss":
        Row("unet2d_3conv_nobridge,wcce,kmeans", 18127940, 22118532, .922925, .92735, .932, .985725),
    "3Conv Block Unet-5channel-Nobridge, 12,046,212":
        Row("unet3p_3conv,kmeans", 12046212, 12046212, .9264, .9286, .93115, .988825),
    "3Conv_Block_3++_Softdice":
        Row("unet3p_3conv,softdice,adagrad,kmeans", 12046212, 12046212, .870175, .887325, .9056, .975275),
    "Unet_Dropout": Row("unet2d,dropout", 31032516, 31032516, .9253, .92805, .931025, .986175),
    "Unet_Nobridge_Dropout": Row("unet2d_nobridge,dropout,adagrad", 15826116, 15826116, .656725, .657225, .7663, .9511),
    "Unet_Dropout_Soft_Softdice": Row("unet2d,dropout,softdice,adagrad", 31032516, 31032516, .607625, .64925, .800775, .918125),
    "Res-Unet++-Dropout_Softdice": Row("resunetpp,dropout,softdice,adagrad", 4092868, 4092868, .772875, .78815, .8222, .97215),
    "Unet_Dropout-Dilation_Rate": Row("unet2d_dilated,dropout", 31379716, 31379716, .9169, .92425, .9317, .9846),
    "Unet_Dilation_Rate": Row("unet2d_dilated", 31379716, 31379716, .926875, .9262, .925725, .98855),
    "3++_Nobridge-Dropout-E3": Row("unet3p,dropout,dilation3", 8907396, 8907396, .921925, .928925, .936225, .984475),
    "3Conv_Block_3++_5Channel-Nobridge_Wloss-Ell-Dilation_Rate=3":
        Row("unet3p_3conv,wcce,kmeans,dilation3", 15911684, 12046212, .926275, .923475, .9214, .9866),
    "Unet_Dropout-Dilation_Rate_Nobridge":
        Row("unet2d_dilated_nobridge,dropout", 12046212, 15911684, .9117, .924175, .937175, .982825),
    "Cropped_4Channel_Unet_Nobridge": Row("unet2d_nobridge,cropped", 15826116, 15826116, .7519, .787425, .83205, .94565),
    "Attention_Unet / Categorical_Crossentropy": Row("attention_unet2d,cce", 31870853, 31870853, .926376, .929, .931775, .9876),
    "Attention_Unet / Bce_Dice_Loss": Row("attention_unet2d", 31870853, 31870853, .929, .93, .9311, .98895),
    "Attention_Unet / Weighted_Categorical_Crossentropy":
        Row("attention_unet2d,wcce", 31870853, 31870853, .929625, .925325, .921325, .987025),
    "Attention_Unet / Weighted_Categorical_Crossentropy (Bayesian Optimization)":  # --mode=search
        Row("attention_unet2d,wcce", 31870853, 31870853, .92375, .900625, .88125, .993175),
    "3Chan_Unet": Row("unet2d,3channel", 31031940, 31031940, .9125, .9185, .924775, .982975),
    "Edge Reinforcement Transfer Learning": Row("unet2d,painted", 31031940, 31031940, .892225, .89685, .9026, .979225),
}

NETWORKS = ("unet2d", "unet2d_nobridge", "unet2d_3conv", "unet2d_3conv_nobridge", "unet2d_dilated", "unet2d_dilated_nobridge",
            "attention_unet2d", "resunetpp", "unet3p", "unet3p_bridge", "unet3p_3conv")
# The project publishes no weights. These are the inverse roots of its 367,211,293 / 1,140,885 / 5,163,680 / 1,460,142 pixels of
# background, NCR, ED and ET, divided by their mean; --mode=search finds others.
CLASS_WEIGHTS = (0.0925, 1.6599, 0.7802, 1.4673)
LOSSES = {  # argument: (terms, options)
    "bce_dice": ((("bce_dice", 2.0),), {"bce_dice": {"alpha": 0.5}}),  # BCE + Dice
    "ell02": ((("bce_dice", 1.0),), {"bce_dice": {"alpha": 0.2}}),
    "ell07": ((("bce_dice", 1.0),), {"bce_dice": {"alpha": 0.7}}),
    "cce": ((("cross_entropy", 1.0),), {}),
    "wcce": ((("cross_entropy", 1.0),), {"cross_entropy": {"class_weights": CLASS_WEIGHTS}}),
    "softdice": ((("dice", 1.0),), {"dice": {"batch": True, "smooth_nr": 1e-6, "smooth_dr": 1e-6}}),
}
CHANNELS = {"kmeans": ("kmeans", ""), "edge": ("edge", "edges"), "autoencoded": ("autoencoder", "autoencoder"),
            "painted": ("painted_edge", "edges,3channel")}  # argument: (data.extra, arguments of the run behind it)
STAGES = {"edges": "edges", "autoencoder": "composite"}  # argument: data.target
_TEST = {"unet2d": "unet2d_test", "resunetpp": "resunetpp_test", "unet3p": "unet3p_test"}


def small(name: str, quick: bool) -> tuple[str, dict]:
    """(network, options) that stand for a network on the phantom: the same family, narrower."""
    family = "unet3p" if name.startswith("unet3p") else "resunetpp" if name == "resunetpp" else "unet2d"
    if quick:
        return _TEST[family], {}
    if family == "resunetpp":
        return name, {"widths": (8, 16, 32, 64), "pyramid": 64}
    options = {"widths": (8, 16, 32, 64)} | ({"branch": 16} if family == "unet3p" else {})
    bridged = "nobridge" not in name if family == "unet2d" else name == "unet3p_bridge"
    return name, options | ({"bridge": 128} if bridged else {})


PHANTOM = (
    ("data.dataset", "brats"), ("data.phantom", "default"), ("data.size", (64, 64)), ("data.split", "patient"),
    ("data.min_area", 20), ("data.sample", None), ("data.sample_seed", None), ("train.batch_size", 16), ("train.epochs", 30),
    ("train.best", "val_dice"), ("train.log_every", 20),
)
QUICK = (("data.phantom", "quick"), ("data.size", (48, 48)), ("data.fractions", (0.5, 0.25, 0.25)), ("train.batch_size", 4),
         ("train.epochs", 2), ("train.log_every", 4))
