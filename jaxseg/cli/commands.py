"""The commands of `jaxseg`: the modes of `python -m jaxseg.main`, and tools that need no config."""

from typing import NamedTuple


class Command(NamedTuple):
    """One command of the command line.

    Attributes:
      what: its description in the help.
      word: the flag that the first argument without dashes sets ("config": `jaxseg train NAME` means --config=NAME); "": none.
      example: a complete command.
    """

    what: str
    word: str
    example: str


MODES = {
    "train": Command(
        "train a network, or resume its training, then evaluate its best checkpoint", "config", "jaxseg train ich_segnext"
    ),
    "evaluate": Command(
        "evaluate a run's checkpoint again, or on another labelled data set", "workdir", "jaxseg evaluate runs/ich_segnext"
    ),
    "predict": Command(
        "segment images with a trained network, --pretrained=NAME or --task=FILE",
        "workdir",
        "jaxseg predict runs/ich_segnext --input=scan.nii.gz --output=out",
    ),
    "explain": Command(
        "show where a network looked: Seg-Grad-CAM maps of the classes that it predicts on files",
        "workdir",
        "jaxseg explain runs/ich_segnext --input=scan.nii.gz --output=maps",
    ),
    "export": Command(
        "write a trained run (of a cascade both) as one file that runs with jax and numpy alone, or in another program's format",
        "workdir",
        "jaxseg export runs/ich_segnext --output=ich.jaxseg",
    ),
    "summary": Command(
        "number of parameters and multiply-accumulates of a config's network", "config", "jaxseg summary ich_segnext:b"
    ),
    "check": Command("read every case of a data set and list its errors", "config", "jaxseg check folder --config.data.root=DIR"),
    "plan": Command(
        "choose spacing, patch size, batch size and network for your own data, and write them as a config",
        "config",
        "jaxseg plan folder --config.data.root=DIR --output=plan.py",
    ),
    "compare": Command(
        "train several networks with several seeds and folds, and compare them",
        "config",
        "jaxseg compare brats_unet3d --config.compare.models=unet3d_s,segresnet --config.compare.seeds=24,42",
    ),
    "report": Command(
        "write a page about a run: scores, charts, its worst cases with the reasons", "workdir", "jaxseg report runs/ich_segnext"
    ),
    "search": Command(
        "Bayesian optimisation of any keys; of the loss's class weights where none are named",
        "config",
        "jaxseg search brats2d:attention_unet2d,wcce",
    ),
}
OF_A_RUN = ("evaluate", "predict", "explain", "export", "report")  # modes that use the configuration that the run has recorded
TOOLS = {
    "init": Command("copy a config file into this folder, to edit it", "", "jaxseg init folder"),
    "zoo": Command(
        "list the networks, with their numbers of parameters; --measure: memory and latency here", "", "jaxseg zoo segformer"
    ),
    "import": Command(
        "convert a model that nnU-Net or MONAI trained into run folders",
        "",
        "jaxseg import nnunet MODEL_FOLDER --output=runs/theirs",
    ),
    "doctor": Command("check this machine, or the hosts of a run: versions, devices, memory, disk, caches", "", "jaxseg doctor"),
}
