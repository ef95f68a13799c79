"""A whole training in jaxseg and in PyTorch: seconds until the validation's pooled Dice reaches 0.80, and the Dice at the end.

Both sides start from the same weights and take the same prepared arrays in the same order: slices or patches of the embedded
phantoms, split by patient, without augmentation; AdamW with a constant rate, cross-entropy and Dice. The Dice is pooled over
voxels, examples and classes. jaxseg's side is `train.step`, without a compilation cache; the peer is a plain loop in eager
PyTorch. Each is a process of its own; one waits while the other runs. Seconds count from the command, so that imports, reading
and compilation are included, and again from the end of the first step.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxseg.bench import pair
from jaxseg.bench.side import Options
from jaxseg.bench.table import Row

GOAL = 0.80
LR, DECAY = 1e-3, 1e-2
LEAST = 1800.0  # seconds for a case: several minutes on two cores


class Training(NamedTuple):
    """What is trained on what.

    Attributes:
      network, options: as for `models.CASES`.
      quick: the network of the quick benchmark, and its options.
      dataset, data: whose phantom is taken, and with which of its options.
      channels, classes: of the images and of the logits.
      size: of the slices or patches.
      patches: how many are cut from a volume; 0: all slices.
      batch, epochs: of the training; 2 and 1 in the quick benchmark.
    """

    network: str
    options: dict
    quick: tuple[str, dict]
    dataset: str
    data: dict
    channels: int
    classes: int
    size: tuple[int, ...]
    patches: int
    batch: int
    epochs: int


CASES = {
    "segnext_t": Training(
        network="segnext_t",
        options=dict(ham_bases="buffer", drop_path=0.0, dropout=0.0),
        quick=("unet_base", dict(widths=(4, 8, 8, 8, 8))),
        dataset="ct_ich",
        data={"protocol": "only"},
        channels=1,
        classes=1,
        size=(128, 128),
        patches=0,
        batch=8,
        epochs=12,
    ),
    "unet3d_xs": Training(
        network="unet3d_xs",
        options={},
        quick=("unet3d_xs", {}),
        dataset="brats",
        data={"modalities": ("t1ce", "flair")},
        channels=2,
        classes=4,
        size=(32, 32, 32),
        patches=12,
        batch=2,
        epochs=14,
    ),
}


def rows(name: str, options: Options, *, limit: float, log) -> Iterator[Row]:
    """The rows: seconds until the first step, until the goal from the command and from the first step; the Dice at the end."""
    case, until = CASES[name], time.monotonic() + (limit if options.quick else max(limit, LEAST))
    epochs = 1 if options.quick else case.epochs
    goal = 0.0 if options.quick else GOAL
    found: dict[str, dict] = {}
    notes: list[str] = []
    with tempfile.TemporaryDirectory(prefix="jaxseg-bench-") as folder:
        images = write(case, Path(folder), epochs, quick=options.quick)
        for which in ("weights", "peer", "ours") if options.peers else ("ours",):
            try:
                found[which] = _run(name, which, folder, options, until, log)
            except (subprocess.SubprocessError, ValueError) as error:
                notes.append(f"{which}: {type(error).__name__}")
    size = f"{images} of {'x'.join(map(str, (*case.size, case.channels)))}, batches of {_batch(case, options.quick)}"
    kinds: tuple[tuple[str, str, Callable[[dict], float | None]], ...] = (
        ("first step", "s", lambda side: side["first"] - side["begin"]),
        (f"to Dice {goal:.2f}, from the command", "s", lambda side: _since(side["begin"], side["curve"], goal)),
        (f"to Dice {goal:.2f}, after the first step", "s", lambda side: _since(side["first"], side["curve"], goal)),
        (f"Dice after {epochs} epochs", "Dice", lambda side: side["curve"][-1][1]),
    )
    for work, unit, figure in kinds:
        row, said = Row("training", name, work, size=size, unit=unit), list(notes)
        if "ours" in found:
            row.ours, row.runs, row.parameters = figure(found["ours"]), 1, found["ours"]["parameters"]
        if "peer" in found:
            row.peer, row.peer_value = "PyTorch, eager", figure(found["peer"])
        said += [f"{which} does not reach it" for which in ("ours", "peer") if which in found and figure(found[which]) is None]
        row.note = "; ".join(said)
        yield row.with_ratio(None, found.get("peer", {}).get("parameters"))


def _since(begin: float, curve: list, goal: float) -> float | None:
    """Seconds until the first epoch whose Dice reaches the goal; None if none does."""
    return next((then - begin for then, dice in curve if dice >= goal), None)


def _run(name: str, which: str, folder: str, options: Options, until: float, log) -> dict:
    env = {**pair.environment(options.gpu), "JAX_ENABLE_COMPILATION_CACHE": "false"}
    arguments = [name, which, folder, bool(options.gpu), bool(options.quick), bool(options.peers)]
    begin = time.time()
    return {**pair.report("training", arguments, env, until, log), "begin": begin}


def write(case: Training, folder: Path, epochs: int, *, quick: bool = False) -> int:
    """Write the arrays of both splits and the order of the training to `folder`; returns the number of training examples."""
    examples = list(_volumes(case, quick) if case.patches else _slices(case, quick))
    patients, batch = sorted({patient for patient, _, _ in examples}), _batch(case, quick)
    kept = set(patients[::4])  # a quarter validates
    for split, there in (("val", True), ("train", False)):
        part = [(image, mask) for patient, image, mask in examples if (patient in kept) == there]
        part = part[: 2 * batch if quick else len(part) // batch * batch]
        for what, arrays in zip(("images", "masks"), zip(*part)):
            np.save(folder / f"{split}_{what}.npy", np.stack(arrays))
    rng = np.random.default_rng(0)
    order = np.stack([rng.permutation(len(part)) for _ in range(epochs)])
    np.save(folder / "order.npy", order.reshape(epochs, -1, batch))
    return len(part)


def _batch(case: Training, quick: bool) -> int:
    return 2 if quick else case.batch


def _slices(case: Training, quick: bool) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(patient, image float32 [H, W, C] in 0..1, classes [H, W]) of all prepared slices."""
    from jaxseg.data.records import Recipe
    from jaxseg.data.store import stacked

    dataset = _dataset(case, quick)
    recipe = Recipe(case.size, (40.0, 120.0), None, case.channels, dataset.labels)
    store = stacked.open_or_build(dataset, recipe, log=lambda line: None)
    for i, row in enumerate(store.rows):
        yield row["patient"], np.float32(store.image(i)) / 255, np.asarray(store.mask(i), np.int32)


def _volumes(case: Training, quick: bool) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(patient, z-scores float32 [*S, C], classes [*S]) of patches around voxels with a label, `case.patches` of each volume."""
    from jaxseg.data.records import Recipe
    from jaxseg.data.store import per_case

    dataset = _dataset(case, quick)
    recipe = Recipe(
        case.size, None, None, case.channels, dataset.labels, intensity="brain", modalities=dataset.modalities, fit="patches"
    )
    store = per_case.open_or_build(dataset, recipe, log=lambda line: None)
    rng = np.random.default_rng(0)
    for i, row in enumerate(store.rows):
        image, mask = np.asarray(store.image(i), np.float32), np.asarray(store.mask(i), np.int32)
        labelled = np.argwhere(mask)
        for middle in labelled[rng.integers(len(labelled), size=case.patches)]:
            starts = [max(0, min(m - s // 2, n - s)) for m, s, n in zip(middle, case.size, mask.shape)]
            cut = tuple(slice(a, a + s) for a, s in zip(starts, case.size))
            yield row["patient"], image[cut], mask[cut]


def _dataset(case: Training, quick: bool):
    from jaxseg.data import datasets

    return datasets.load(case.dataset, datasets.phantom(case.dataset, "quick" if quick else "default"), **case.data)


def trained(folder: Path, step: Callable, labels: Callable) -> dict:
    """Train on the arrays of a folder: {"first": time at the end of the first step, "curve": (time, pooled Dice) of each epoch}.

    Args:
      step: (images [B, *S, C], classes [B, *S]) -> something that `float` waits for.
      labels: images [B, *S, C] -> classes [B, *S].
    """
    arrays = {split: [np.load(folder / f"{split}_{what}.npy") for what in ("images", "masks")] for split in ("train", "val")}
    images, masks = arrays["train"]
    order, first, curve = np.load(folder / "order.npy"), 0.0, []
    for batches in order:
        for batch in batches:
            loss = step(images[batch], masks[batch])
            if not first:
                float(loss)
                first = time.time()
        dice = _dice(labels, *arrays["val"], size=order.shape[-1])
        curve.append((time.time(), dice))
    return {"first": first, "curve": curve}


def _dice(labels: Callable, images: np.ndarray, masks: np.ndarray, *, size: int) -> float:
    found = np.concatenate([labels(images[i : i + size]) for i in range(0, len(images), size)])
    both = np.sum((found == masks) & (masks > 0))
    return float(2 * both / max(np.sum(found > 0) + np.sum(masks > 0), 1))


def _network(name: str, quick: bool) -> tuple[str, dict]:
    case = CASES[name]
    network, options = case.quick if quick else (case.network, case.options)
    return network, {**options, "in_channels": case.channels, "num_classes": case.classes}


def ours(name: str, folder: Path, *, gpu: bool, quick: bool, peers: bool) -> dict:
    """jaxseg's side."""
    import jax
    import jax.numpy as jnp

    from jaxseg.augment import compose as augmentations
    from jaxseg.losses import compose as losses
    from jaxseg.models import create_model, functional
    from jaxseg.optim import build as optimizers
    from jaxseg.train import mesh as meshes
    from jaxseg.train import state as states
    from jaxseg.train import step as steps
    from jaxseg.weights import from_torch

    case, (network_name, options) = CASES[name], _network(name, quick)
    model = create_model(network_name, rank=len(case.size), **options)
    if peers:
        with np.load(folder / "weights.npz") as file:
            from_torch.load(model, dict(file))
    network, params, net_state = functional.split(model)
    main = "bce" if case.classes == 1 else "cross_entropy"
    loss = losses.build(((main, 1.0), ("dice", 1.0)), {} if case.classes == 1 else {"dice": {"background": False}})
    optimizer, mesh = optimizers.build(params, name="adamw", weight_decay=DECAY), meshes.make(1)
    augment = augmentations.build((), rank=len(case.size))
    dtype = "bfloat16" if gpu else "float32"
    run = steps.build(network, loss, optimizer, lambda number: 1.0, augment, mesh, lr=LR, dtype=dtype)
    storage = states.storage(network, optimizer)
    state = states.place(storage.join(states.create(params, net_state, optimizer, ema=False)), meshes.replicated(mesh))

    def step(images, masks):
        nonlocal state  # the step donates it
        state, metrics = run(state, meshes.put({"image": images, "mask": masks}, mesh))
        return metrics["loss"]

    @jax.jit
    def classes(params, net_state, images):
        logits = network.apply(params, net_state, images.astype(dtype))[0].logits
        return logits[..., 0] > 0 if case.classes == 1 else jnp.argmax(logits, -1)

    def labels(images):
        parted = storage.part(state)
        return np.asarray(classes(states.evaluated(parted), parted["state"], images))

    return {**trained(folder, step, labels), "parameters": sum(p.size for p in params.values())}


def weights(name: str, folder: Path, *, gpu: bool, quick: bool, peers: bool) -> dict:
    """Save the initial weights of PyTorch's network for both sides."""
    from jaxseg.bench import peers as torch_side

    module = _module(name, quick)
    return {"parameters": torch_side.save_weights(module, Options(str(folder)))}


def _module(name: str, quick: bool):
    import torch

    from jaxseg.bench import peers as torch_side

    torch_side.threads()
    torch.manual_seed(0)
    network, options = _network(name, quick)
    return torch_side.network(network, CASES[name].size, options)[0]


def peer(name: str, folder: Path, *, gpu: bool, quick: bool, peers: bool) -> dict:
    """PyTorch's side."""
    import torch

    from jaxseg.bench import peers as torch_side

    case, module = CASES[name], _module(name, quick)
    device = "cuda" if gpu else "cpu"
    with np.load(folder / "weights.npz") as file:
        module.load_state_dict({k: torch.from_numpy(v) for k, v in file.items()}, strict=False)
    layout = torch.channels_last if len(case.size) == 2 else torch.channels_last_3d
    module = module.to(device, memory_format=layout)
    optimizer = torch.optim.AdamW(module.parameters(), lr=LR, weight_decay=DECAY, fused=True)
    autocast = lambda: torch.autocast("cuda", torch.bfloat16, enabled=gpu)
    place = lambda images: torch.from_numpy(images).movedim(-1, 1).to(device, memory_format=layout)

    def lost(logits, masks):
        if case.classes > 1:
            return torch_side.dice_cross_entropy(logits, masks.long())
        truth, found = masks[:, None].float(), logits.sigmoid()
        both, total = ((found * truth).flatten(1).sum(1), (found + truth).flatten(1).sum(1))
        dice = (2 * both + 1e-5) / (total + 1e-5)
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, truth) + 1 - dice.mean()

    def step(images, masks):
        module.train()
        with autocast():
            logits = module(place(images))
        loss = lost(logits.float(), torch.from_numpy(masks).to(device))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def labels(images):
        module.eval()
        with torch.inference_mode(), autocast():
            logits = module(place(images)).float()
        return (logits[:, 0] > 0 if case.classes == 1 else logits.argmax(1)).cpu().numpy()

    return {**trained(folder, step, labels), "parameters": sum(p.numel() for p in module.parameters())}


if __name__ == "__main__":
    _, _name, _which, _folder, *_flags = sys.argv
    _gpu, _quick, _peers = (bool(int(flag)) for flag in _flags)
    _side = {"ours": ours, "weights": weights, "peer": peer}[_which]
    print(json.dumps(_side(_name, Path(_folder), gpu=_gpu, quick=_quick, peers=_peers)))
