"""The organs of configs/organs_ct.py with a 3-D network: real CT, training on patches, sliding-window inference.

    python -m jaxseg.data.acquire organs --output=real_data/organs
    python -m jaxseg.main --config=configs/organs_ct3d.py --config.data.root=real_data/organs
    python -m jaxseg.main --mode=predict --workdir=runs/organs_ct3d --input=real_data/organs/example_ct_dicom --output=out

Patient A (NIfTI, 3 mm) trains from slice 76 up, patient B (a DICOM series, 0.98 x 0.98 x 2 mm, 40 mm thick) tests, both at
3 mm. One patient on each side, labels from another tool: this proves that the path works on real files, it is no benchmark.
Patches are flat because B is: 13 slices at 3 mm.

Arguments: a 3-D network (`unet3d_xs` when none is named), `quick` (a test variant for a few steps).

Result of half of it, 30 epochs (2026-11-21, one CPU core, 232 s): liver 0.81 on B; its spleen is taken for liver, aorta and
stomach are not found yet. The whole recipe: not yet measured.
"""

from configs import organs_ct
from configs._arguments import network_and_flags


def get_config(arguments: str = ""):
    named, flags = network_and_flags(arguments, "quick")
    c = organs_ct.get_config()
    c.variant = arguments
    c.data.protocol, c.data.rank, c.data.intensity = "volumes", 3, "ct"
    c.data.fit, c.data.spacing, c.data.size = "patches", (3.0, 3.0, 3.0), (64, 64, 16)
    c.data.per_volume, c.data.foreground = 16, 0.5
    c.model.name = named or "unet3d_xs"
    c.optim.lr = 2e-3
    c.train.batch_size, c.train.eval_every, c.train.save_every = 2, 20, 20
    c.train.augment = (("rotate", 0.5, {"degrees": (-15.0, 15.0)}), ("scale", 0.7, {"factor": (0.8, 1.25)}))
    if "quick" in flags:
        c.model.name = named or "unet3d_test"
        c.data.spacing, c.data.size, c.data.per_volume = (8.0, 8.0, 4.0), (32, 32, 16), 4
        c.train.epochs, c.train.eval_every, c.train.log_every, c.schedule.warmup = 2, 1, 2, 2
    return c
