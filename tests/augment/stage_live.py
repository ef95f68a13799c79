"""What batchgeneratorsv2 makes of a previous stage's classes: writes expected/stage.npz. Needs an environment with nnunetv2.

python -m tests.augment.stage_live
"""

from pathlib import Path

import numpy as np
from scipy import ndimage

FILE = Path(__file__).parent / "expected" / "stage.npz"
RADII = (1.0, 1.6, 2.0, 2.3, 3.0, 3.8)  # balls of 3, 4, 5, 5, 7 and 8 voxels
OPERATIONS = ("dilation", "erosion", "closing", "opening")


def classes() -> np.ndarray:
    """Two classes [2, X, Y, Z] of several components each, that do not overlap."""
    noise = ndimage.gaussian_filter(np.random.default_rng(3).normal(size=(16, 15, 17)), 1.2)
    return np.stack([noise > 0.14, noise < -0.18]).astype(np.float32)


def main() -> None:
    import torch
    from batchgeneratorsv2.transforms.nnunet import random_binary_operator as operators
    from batchgeneratorsv2.transforms.nnunet import remove_connected_components as removal

    given, found = classes(), {}
    for name in OPERATIONS:
        for radius in RADII:
            made = operators.ApplyRandomBinaryOperatorTransform(channel_idx=[-2, -1])
            chosen = {
                "apply_to_channels": [-1],
                "operators": [getattr(operators, f"binary_{name}_torch")],
                "strel_size": [radius],
            }
            found[f"{name}_{radius}"] = made._apply_to_image(torch.from_numpy(given.copy()), **chosen).numpy() > 0
    for most in (0.15, 0.01):
        dropped = set()
        for seed in range(300):
            np.random.seed(seed)
            made = removal.RemoveRandomConnectedComponentFromOneHotEncodingTransform(
                channel_idx=[-2, -1], fill_with_other_class_p=0, dont_do_if_covers_more_than_x_percent=most
            )
            dropped.add(made._apply_to_image(torch.from_numpy(given.copy()), apply_to_channels=[-1]).numpy().tobytes())
        found[f"dropped_{most}"] = np.stack([np.frombuffer(one, np.float32).reshape(given.shape) > 0 for one in sorted(dropped)])
    FILE.parent.mkdir(exist_ok=True)
    np.savez_compressed(FILE, **found)


if __name__ == "__main__":
    main()
