"""The commands of `jaxseg`, by name: the modes of `python -m jaxseg.main`, and tools that need no config."""

from typing import NamedTuple


class Command(NamedTuple):
    """A line of the help, and what a word without dashes after the command stands for: a flag's name, or "" for nothing."""

    what: str
    word: str
    example: str


MODES = {
    "train": Command("train a network, or go on, then score its best checkpoint", "config", "jaxseg train ich_segnext"),
    "evaluate": Command(
        "score a run's checkpoint again, or on another labelled set", "workdir", "jaxseg evaluate runs/ich_segnext"
    ),
    "predict": Command(
        "segment files with a trained run", "workdir", "jaxseg predict runs/ich_segnext --input=scan.nii.gz --output=out"
    ),
    "export": Command(
        "write a trained run as one file that runs with jax and numpy alone, or in another program's format",
        "workdir",
        "jaxseg export runs/ich_segnext --output=ich.jaxseg",
    ),
    "summary": Command("parameters and multiply-accumulates of a config's network", "config", "jaxseg summary ich_segnext:b"),
    "check": Command(
        "read every case of a data set and list what is wrong", "config", "jaxseg check folder --config.data.root=DIR"
    ),
    "plan": Command(
        "choose spacing, patch, batch and network for your own data, and write them as a config",
        "config",
        "jaxseg plan folder --config.data.root=DIR --output=plan.py",
    ),
    "compare": Command(
        "train several networks, seeds and folds, and set them side by side",
        "config",
        "jaxseg compare brats_unet3d --config.compare.models=unet3d_s,unetr --config.compare.seeds=24,42",
    ),
    "report": Command(
        "a page about a run: scores, charts, its worst cases with the reasons", "workdir", "jaxseg report runs/ich_segnext"
    ),
    "search": Command(
        "Bayesian optimisation of the loss's class weights", "config", "jaxseg search brats2d:attention_unet2d,wcce"
    ),
}
OF_A_RUN = ("evaluate", "predict", "export", "report")  # modes that take the run's own configuration
TOOLS = {
    "init": Command("copy a config file here, to edit it", "", "jaxseg init folder"),
    "zoo": Command("the networks by name, with their parameters", "", "jaxseg zoo segformer"),
    "import": Command(
        "a model that nnU-Net or MONAI trained, as run folders", "", "jaxseg import nnunet MODEL_FOLDER --output=runs/theirs"
    ),
    "doctor": Command("what this machine has: versions, devices, memory, disk, caches", "", "jaxseg doctor"),
}
