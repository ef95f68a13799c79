"""The BraTS 2-D project's table, and the parts of its rows: networks, losses, data sets, the recipe for the phantom."""

from typing import NamedTuple


class Row(NamedTuple):
    """A row of the published table.

    Attributes:
      arguments: arguments of configs/brats2d.py.
      printed: the number of parameters that the table prints.
      count: the number of parameters of the network that the arguments build.
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
# - 18,127,940 is not the total of any tried arrangement of the project's blocks; the row uses the network of its title.
# - 15,911,684 and 12,046,212 are in each other's rows: the first is the dilated U-Net without bridge, the second U-Net 3+ with
#   three convolutions per level and five channels.
# The rows "5channel" do not say what the fifth channel is; k-means is used here, but edge and autoencoded fit too.
ROWS = {
    "U-Net": Row("unet2d", 31032516, 31032516, 0.914275, 0.91997, 0.924925, 0.984175),
    "Attention U-Net": Row("attention_unet2d", 31870853, 31870853, 0.926376, 0.92889, 0.931425, 0.988425),
    "Res-U-Net++": Row("resunetpp", 4092868, 4092868, 0.911125, 0.92221, 0.933575, 0.983725),
    "U-Net (3++)": Row("unet3p", 8907396, 8907396, 0.92425, 0.92335, 0.922425, 0.986125),
    "3++ Unet Nobridge Ell-Loss": Row("unet3p,ell02", 8907396, 8907396, 0.92805, 0.92965, 0.93135, 0.988625),
    "U-net Nobridge": Row("unet2d_nobridge", 15826116, 15826116, 0.92415, 0.92325, 0.922525, 0.98885),
    "Res-Unet++ Nobridge": Row("resunetpp", 4092868, 4092868, 0.912525, 0.922825, 0.933575, 0.985125),
    "U-net Ell-Loss Nobridge": Row("unet2d_nobridge,ell07", 15826116, 15826116, 0.92415, 0.92325, 0.922525, 0.98885),
    "3Conv Block Unet Ell-Loss": Row("unet2d_3conv,ell07", 46774852, 46774852, 0.90615, 0.899525, 0.900675, 0.9885),
    "3Conv Block Unet-Nobridge Ell-Loss": Row(
        "unet2d_3conv_nobridge,ell07", 22117956, 22117956, 0.917575, 0.91495, 0.912425, 0.98785
    ),
    "3Conv Block Unet-Nobridge-Weightedloss": Row(
        "unet2d_3conv_nobridge,wcce", 22117956, 22117956, 0.912925, 0.909575, 0.908725, 0.9791
    ),
    "3Conv Block Unet-5channel Ell-Loss": Row(
        "unet2d_3conv,ell07,kmeans", 46775428, 46775428, 0.90575, 0.916925, 0.929375, 0.98385
    ),
    "3Conv Block Unet-5channel-Nobridge": Row(
        "unet2d_3conv_nobridge,kmeans", 22118532, 22118532, 0.9115, 0.916575, 0.921925, 0.982225
    ),
    "3Conv Block Unet-5channel-Nobridge_wloss": Row(
        "unet2d_3conv_nobridge,wcce,kmeans", 18127940, 22118532, 0.922925, 0.92735, 0.932, 0.985725
    ),
    "3Conv Block Unet-5channel-Nobridge, 12,046,212": Row(
        "unet3p_3conv,kmeans", 12046212, 12046212, 0.9264, 0.9286, 0.93115, 0.988825
    ),
    "3Conv_Block_3++_Softdice": Row(
        "unet3p_3conv,softdice,adagrad,kmeans", 12046212, 12046212, 0.870175, 0.887325, 0.9056, 0.975275
    ),
    "Unet_Dropout": Row("unet2d,dropout", 31032516, 31032516, 0.9253, 0.92805, 0.931025, 0.986175),
    "Unet_Nobridge_Dropout": Row("unet2d_nobridge,dropout,adagrad", 15826116, 15826116, 0.656725, 0.657225, 0.7663, 0.9511),
    "Unet_Dropout_Soft_Softdice": Row(
        "unet2d,dropout,softdice,adagrad", 31032516, 31032516, 0.607625, 0.64925, 0.800775, 0.918125
    ),
    "Res-Unet++-Dropout_Softdice": Row(
        "resunetpp,dropout,softdice,adagrad", 4092868, 4092868, 0.772875, 0.78815, 0.8222, 0.97215
    ),
    "Unet_Dropout-Dilation_Rate": Row("unet2d_dilated,dropout", 31379716, 31379716, 0.9169, 0.92425, 0.9317, 0.9846),
    "Unet_Dilation_Rate": Row("unet2d_dilated", 31379716, 31379716, 0.926875, 0.9262, 0.925725, 0.98855),
    "3++_Nobridge-Dropout-E3": Row("unet3p,dropout,dilation3", 8907396, 8907396, 0.921925, 0.928925, 0.936225, 0.984475),
    "3Conv_Block_3++_5Channel-Nobridge_Wloss-Ell-Dilation_Rate=3": Row(
        "unet3p_3conv,wcce,kmeans,dilation3", 15911684, 12046212, 0.926275, 0.923475, 0.9214, 0.9866
    ),
    "Unet_Dropout-Dilation_Rate_Nobridge": Row(
        "unet2d_dilated_nobridge,dropout", 12046212, 15911684, 0.9117, 0.924175, 0.937175, 0.982825
    ),
    "Cropped_4Channel_Unet_Nobridge": Row("unet2d_nobridge,cropped", 15826116, 15826116, 0.7519, 0.787425, 0.83205, 0.94565),
    "Attention_Unet / Categorical_Crossentropy": Row(
        "attention_unet2d,cce", 31870853, 31870853, 0.926376, 0.929, 0.931775, 0.9876
    ),
    "Attention_Unet / Bce_Dice_Loss": Row("attention_unet2d", 31870853, 31870853, 0.929, 0.93, 0.9311, 0.98895),
    "Attention_Unet / Weighted_Categorical_Crossentropy": Row(
        "attention_unet2d,wcce", 31870853, 31870853, 0.929625, 0.925325, 0.921325, 0.987025
    ),
    "Attention_Unet / Weighted_Categorical_Crossentropy (Bayesian Optimization)":  # --mode=search
    Row("attention_unet2d,wcce", 31870853, 31870853, 0.92375, 0.900625, 0.88125, 0.993175),
    "3Chan_Unet": Row("unet2d,3channel", 31031940, 31031940, 0.9125, 0.9185, 0.924775, 0.982975),
    "Edge Reinforcement Transfer Learning": Row("unet2d,painted", 31031940, 31031940, 0.892225, 0.89685, 0.9026, 0.979225),
}

NETWORKS = (
    "unet2d",
    "unet2d_nobridge",
    "unet2d_3conv",
    "unet2d_3conv_nobridge",
    "unet2d_dilated",
    "unet2d_dilated_nobridge",
    "attention_unet2d",
    "resunetpp",
    "unet3p",
    "unet3p_bridge",
    "unet3p_3conv",
)
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
CHANNELS = {
    "kmeans": ("kmeans", ""),
    "edge": ("edge", "edges"),
    "autoencoded": ("autoencoder", "autoencoder"),
    "painted": ("painted_edge", "edges,3channel"),
}  # argument: (data.extra, arguments of the run behind it)
STAGES = {"edges": "edges", "autoencoder": "composite"}  # argument: data.target
_TEST = {"unet2d": "unet2d_test", "resunetpp": "resunetpp_test", "unet3p": "unet3p_test"}


def small(name: str, quick: bool) -> tuple[str, dict]:
    """(network, options) that replace a network on the phantom: the same family, but narrower."""
    family = "unet3p" if name.startswith("unet3p") else "resunetpp" if name == "resunetpp" else "unet2d"
    if quick:
        return _TEST[family], {}
    if family == "resunetpp":
        return name, {"widths": (8, 16, 32, 64), "pyramid": 64}
    options = {"widths": (8, 16, 32, 64)} | ({"branch": 16} if family == "unet3p" else {})
    bridged = "nobridge" not in name if family == "unet2d" else name == "unet3p_bridge"
    return name, options | ({"bridge": 128} if bridged else {})


PHANTOM = (
    ("data.dataset", "brats"),
    ("data.phantom", "default"),
    ("data.size", (64, 64)),
    ("data.split", "patient"),
    ("data.min_area", 20),
    ("data.sample", None),
    ("data.sample_seed", None),
    ("train.batch_size", 16),
    ("train.epochs", 30),
    ("train.best", "val_dice"),
    ("train.log_every", 20),
)
QUICK = (
    ("data.phantom", "quick"),
    ("data.size", (48, 48)),
    ("data.fractions", (0.5, 0.25, 0.25)),
    ("train.batch_size", 4),
    ("train.epochs", 2),
    ("train.log_every", 4),
)
