"""Augmented samples per second, from a cache to arrays for a training step, against MONAI's cached loader.

Both have the same volumes, crops, transforms, probabilities and cores. jaxseg: a memory-mapped store, patches read ahead by a
thread, augmentation compiled on the device. MONAI: `CacheDataset` (everything in memory, foreground indices precomputed, plain
tensors) with the fastest of a DataLoader without workers, a DataLoader with one worker per core, and a ThreadDataLoader; on a GPU
its batches are copied to the device.
"""

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from jaxseg.bench import machine
from jaxseg.bench.side import Options, TimedCall


class StreamCase(NamedTuple):
    """Sizes of a case: samples of size `patch` are drawn from `count` volumes (or from the slices of scans) of size `size`."""

    size: tuple[int, ...]
    patch: tuple[int, ...]
    channels: int
    count: int
    batch: int


CASES: dict[str, StreamCase] = {
    "volumes": StreamCase((128, 128, 112), (96, 96, 96), 4, 4, 2),
    "images": StreamCase((512, 512, 32), (), 1, 2, 8),
}
QUICK: dict[str, StreamCase] = {
    "volumes": StreamCase((24, 24, 24), (16, 16, 16), 4, 2, 2),
    "images": StreamCase((32, 32, 8), (), 1, 2, 4),
}
# jaxseg's names; MONAI's equivalents are in `peer`
AUGMENT = {
    "volumes": (("mirror", 0.5, {}), ("intensity", 1.0, {"scale": 0.1, "shift": 0.05}), ("noise", 0.5, {"sigma": 0.1})),
    "images": (
        ("hflip", 0.5, {}),
        ("affine", 1.0, {"degrees": 20.0, "translate": 0.1, "scale": (0.8, 1.2)}),
        ("noise", 0.5, {"sigma": 0.1}),
    ),
}


def case(name: str, options: Options) -> StreamCase:
    """The case at its size."""
    return (QUICK if options.quick else CASES)[name]


def works(name: str, options: Options) -> dict[str, dict]:
    """One call is one augmented batch."""
    c = case(name, options)
    size = "x".join(map(str, (c.channels, *(c.patch or c.size[:2]))))
    return {"augmented": {"size": size, "unit": "samples/s", "items": c.batch}}


def scans(c: StreamCase):
    """The images [*size, C] and masks [*size] of a case: blobs in noise, with positive values everywhere."""
    import numpy as np
    from scipy import ndimage

    rng = np.random.default_rng(0)
    for _ in range(c.count):
        blobs = ndimage.zoom(rng.normal(size=[max(n // 8, 2) for n in c.size]), 8, order=1)
        mask = np.zeros(c.size, np.uint8)
        part = tuple(slice(0, n) for n in blobs.shape)
        mask[part] = blobs[tuple(slice(0, n) for n in c.size)] > 0.8
        yield (100 + 20 * rng.normal(size=(*c.size, c.channels)) + 40 * mask[..., None]).astype(np.float32), mask


def ours(name: str, options: Options) -> dict[str, Callable[[], TimedCall]]:
    """jaxseg's store or cache, stream, and `augment` under jit."""
    import jax
    import numpy as np
    from absl import flags

    from jaxseg.augment import compose
    from jaxseg.data.store import per_case, stacked
    from jaxseg.data.stream import patches, pipeline
    from jaxseg.ops.image import to_float

    flags.FLAGS.mark_as_parsed()
    c = case(name, options)
    os.environ["JAXSEG_CACHE"] = options.folder

    def augmented() -> TimedCall:
        dataset, recipe = written(c, Path(options.folder) / "files", volumes=bool(c.patch))
        augment = jax.jit(compose.build(AUGMENT[name], rank=3 if c.patch else 2))
        if c.patch:
            store = per_case.open_or_build(dataset, recipe)
            stream = patches.patch_batches(store, np.arange(c.count), batch_size=c.batch, patch=c.patch, seed=0)
        else:
            store = stacked.open_or_build(dataset, recipe)
            stream = pipeline.train_batches(store, np.arange(len(store.rows)), batch_size=c.batch, seed=0)
        numbers = itertools.count()

        def run():
            batch = next(stream)
            image, mask = jax.device_put((batch["image"], batch["mask"]))
            return augment(jax.random.key(next(numbers)), to_float(image), mask.astype("int32"))

        peak = machine.Peak(options.gpu, compiles=True)
        jax.block_until_ready(run())
        peak.reset()
        jax.block_until_ready(run())
        return TimedCall(run, jax.block_until_ready, {"peak_mb": peak.read()})

    return {"augmented": augmented}


def written(c: StreamCase, root: Path, *, volumes: bool):
    """(DataSet, Recipe) of the case's scans, written as NIfTI files."""
    import nibabel
    import numpy as np

    from jaxseg.data.records import Case as Scan
    from jaxseg.data.records import DataSet, Recipe

    root.mkdir()
    names = tuple(f"m{i}" for i in range(c.channels))
    cases = []
    for i, (image, mask) in enumerate(scans(c)):
        paths = [root / f"{i}_{n}.nii" for n in (*names, "mask")]
        for path, array in zip(paths, [*np.moveaxis(image, -1, 0), mask]):
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)
        cases.append(Scan(str(i), str(i), tuple(paths[:-1]), paths[-1]))
    dataset = DataSet("bench", root, tuple(cases), ("blob",), _classes, modalities=names if volumes else ())
    if volumes:
        return dataset, Recipe(
            size=c.patch,
            window=None,
            spacing=None,
            channels=c.channels,
            labels=("blob",),
            intensity="brain",
            modalities=names,
            fit="patches",
        )
    return dataset, Recipe(size=c.size[:2], window=(100.0, 200.0), spacing=None, channels=1, labels=("blob",))


def _classes(array):
    return array.astype("uint8")


def peer(name: str, options: Options) -> dict[str, Callable[[], TimedCall]]:
    """MONAI's loader."""
    import monai
    import numpy as np
    import torch
    from monai import transforms as T
    from monai.data import CacheDataset, DataLoader, ThreadDataLoader

    from jaxseg.bench import peers

    peers.threads()
    monai.data.set_track_meta(False)
    c, both, wait = case(name, options), ("image", "mask"), peers.finish(options)

    def augmented() -> TimedCall:
        items = []
        for image, mask in scans(c):
            if c.patch:
                z = (image - image.mean((0, 1, 2))) / image.std((0, 1, 2))
                items.append({"image": np.moveaxis(z, -1, 0).copy(), "mask": mask[None].copy()})
            else:
                scaled = np.clip(image / 200, 0, 1)
                items += [
                    {"image": scaled[None, :, :, z, 0].copy(), "mask": mask[None, :, :, z].copy()} for z in range(c.size[2])
                ]
        noise = T.RandGaussianNoised("image", prob=0.5, std=0.1)
        if c.patch:
            chain = [
                T.EnsureTyped(both),
                T.FgBgToIndicesd("mask"),
                T.RandCropByPosNegLabeld(
                    both, "mask", c.patch, pos=1, neg=2, fg_indices_key="mask_fg_indices", bg_indices_key="mask_bg_indices"
                ),
                *(T.RandFlipd(both, prob=0.5, spatial_axis=a) for a in range(3)),
                T.RandScaleIntensityd("image", factors=0.1, prob=1.0),
                T.RandShiftIntensityd("image", offsets=0.05, prob=1.0),
                noise,
            ]
        else:
            turn = T.RandAffined(
                both,
                prob=1.0,
                rotate_range=np.pi / 9,
                translate_range=[0.1 * n for n in c.size[:2]],
                scale_range=0.2,
                mode=("bilinear", "nearest"),
                padding_mode="zeros",
                cache_grid=True,
            )
            chain = [T.EnsureTyped(both), T.RandFlipd(both, prob=0.5, spatial_axis=1), turn, noise]
        cached = CacheDataset(items, T.Compose([*chain, T.SelectItemsd(both)]), progress=False)
        sampler = torch.utils.data.RandomSampler(cached, replacement=True, num_samples=1 << 30)
        plain = dict(batch_size=c.batch, sampler=sampler)
        loaders = {
            "no workers": lambda: DataLoader(cached, num_workers=0, **plain),
            "threads": lambda: ThreadDataLoader(cached, num_workers=0, buffer_size=4, **plain),
        }
        if machine.cores() > 1:
            loaders["workers"] = lambda: DataLoader(cached, num_workers=machine.cores(), **plain)
        streams = {}

        def opened(loader: str) -> Callable:
            streams.pop(loader, None)
            stream = streams[loader] = iter(loaders[loader]())

            def run():
                batch = next(stream)
                return [batch[k].cuda(non_blocking=True) if options.gpu else batch[k] for k in both]

            return run

        peak = machine.Peak(options.gpu)
        run, facts = peers.fastest(opened, options._replace(modes=tuple(loaders)), wait, tries=5, close=streams.pop)
        return TimedCall(run, wait, {"mode": f"MONAI, {facts['mode']}", "peak_mb": peak.read()})

    return {"augmented": augmented}
