"""Liver, spleen, aorta and stomach in real CT: two patients whose scans are part of a public Python package.

    python -m jaxseg.data.acquire organs --output=real_data/organs
    python -m jaxseg.main --config=configs/organs_ct.py --config.data.root=real_data/organs
    python -m jaxseg.main --mode=predict --workdir=runs/organs_ct --input=real_data/organs/example_ct_dicom --output=out

Patient A (NIfTI, 3 mm) trains, patient B (a DICOM series, 0.98 x 0.98 x 2 mm) tests. The labels are another tool's output
(TotalSegmentator), with one patient for training and one for test: this shows that everything works on real files; it is not a
benchmark.

Argument: `quick` (a test variant for a few steps). Result: see README.
"""

from configs._arguments import parse
from configs._base import base


def get_config(arguments: str = ""):
    chosen = parse(arguments, flags=("quick",))
    c = base()
    c.variant = arguments
    c.data.dataset = "organs_ct"
    c.data.structures = ("liver", "spleen", "aorta", "stomach")
    c.data.split = "fixed"
    c.data.window = (40.0, 400.0)  # soft tissue
    c.data.fit, c.data.spacing, c.data.size = "centre", (3.0, 3.0), (160, 160)
    c.model.name = "segnext_t"  # the official one: the other's BatchNorm momentum (0.9) follows single batches
    c.loss.terms = (("dice", 1.0), ("cross_entropy", 1.0))
    c.loss.options = {"dice": {"background": False, "batch": True}}
    c.optim.name, c.optim.lr, c.optim.weight_decay, c.optim.clip_norm = "adamw", 1e-3, 0.01, 1.0
    c.schedule.name, c.schedule.warmup = "cosine", 20
    c.train.batch_size, c.train.epochs, c.train.eval_every, c.train.save_every = 8, 60, 10, 10
    c.train.best = "last"  # one patient trains and one tests: there is no third to choose by
    c.train.augment = (
        ("rotate", 0.5, {"degrees": (-15.0, 15.0)}),
        ("scale", 0.7, {"factor": (0.8, 1.25)}),
        ("translate", 0.5, {"fraction": 0.1}),
        ("shear", 0.3, {"degrees": (-10.0, 10.0)}),
    )
    if "quick" in chosen.flags:
        c.model.name = "segnext_test"
        c.data.size, c.data.spacing = (64, 64), (8.0, 8.0)
        c.train.epochs, c.train.eval_every, c.train.log_every, c.schedule.warmup = 2, 1, 2, 2
    return c
