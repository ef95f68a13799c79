"""Convert a model that MONAI trained into a run folder: a bundle, or the state dict of a named network with its settings.

Settings are read from a bundle's JSON (`bundles`). Those that it does not state must be given on the command line, which also
overrides the JSON. The supported networks are UNet, SegResNet, DynUNet and BasicUNet of two and three axes, UNETR and SwinUNETR
of three. One of two axes is applied to the planes of volumes (`models.planes`), pictures among them. A sigmoid over several
channels is imported as overlapping structures (`data.datasets.own.overlap`); as in MONAI, each is predicted as a mask.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxseg import config as configs
from jaxseg.data.datasets.own import overlap
from jaxseg.importing import run_folder
from jaxseg.importing.bundles import networks
from jaxseg.importing.bundles import settings as bundle
from jaxseg.metrics.regions import Regions
from jaxseg.models import create_model, functional
from jaxseg.types import CheckpointError, ConfigError, MismatchError
from jaxseg.utils import files
from jaxseg.weights import from_torch

FLAGS = {  # required setting -> how to give it on the command line
    "spacing": "--spacing=1.5,1.5,2 (mm; --spacing=scan for none)",
    "orientation": "--orientation=ras, lps or file",
    "intensity": "--intensity=zscore, zscore_own_nonzero, rescale_to_01, none, clipped: range,LOW,HIGH,0,1, percentiles,1,99,0,1",
    "window": "--window=96,96,96 (voxels; 256,256,1 for slices; the size of the images, if the network takes them whole)",
    "overlap": "--overlap=0.25",
    "blend": "--blend=constant or gaussian",
    "activation": "--activation=softmax or sigmoid",
    "classes": "--classes=liver,tumour (without the background)",
}


def import_model(
    source: Path,
    output: Path,
    tree: ConfigDict,
    *,
    given: Mapping[str, Any],
    network: tuple[str, dict[str, Any]] | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Write a run folder. An interrupted import leaves no incomplete run folder.

    Args:
      source: a bundle's folder, or a weight file.
      output: the run folder to write.
      tree: a config tree with the settings that a bundle lacks, from configs/_monai.py.
      given: fields of `bundle.Settings` from the command line, which override the JSON.
      network: (registry name, options) for weights without a bundle.
      say: called with each line of the report.
    Returns:
      The run folder.
    Raises:
      CheckpointError: there are no weights.
      ConfigError: a required setting is missing, a sigmoid has more than 8 channels, or the run folder exists.
      DataError: a file cannot be used.
      MismatchError: the model uses something that jaxseg does not support, or its weights do not fit the network.
    """
    if output.exists():
        raise ConfigError(f"--output={output} exists; delete it, or give another --output")
    stated = bundle.read(source) if source.is_dir() else bundle.Settings()
    weights = next((source / name for name in bundle.WEIGHTS if (source / name).is_file()), None) if source.is_dir() else source
    if weights is None or not weights.is_file():
        raise CheckpointError(f"{source}: has no {' or '.join(bundle.WEIGHTS)}; put the trained weights there")
    for key in given:
        said = getattr(stated, key)
        if said is not None and said != () and said != given[key]:
            say(f"{key} {given[key]} from the command line overrides {said} of the bundle")
    settings = stated._replace(**given)
    found = networks.described(settings, network)
    inputs, outputs = found.inputs, found.outputs
    if settings.window and len(settings.window) == 2:
        settings = settings._replace(window=(*settings.window, 1))
    missing = [key for key in FLAGS if getattr(settings, key) is None]
    if missing:
        raise ConfigError(f"{source} does not state {', '.join(missing)}; give {' '.join(FLAGS[key] for key in missing)}")
    if found.rank == 2 and settings.window.count(1) != 1:
        raise MismatchError(
            f"{found.name} takes slices, and windows of {settings.window}; one of the three must be 1, that of the axis across "
            "the slices; give --window=96,96,1"
        )
    for remark in found.remarks:
        say(remark)
    name, options = found.name, found.options
    if found.rank == 2:
        name, options = "planes", {"network": found.name, "axis": settings.window.index(1), "options": found.options}
    config = _config(tree, settings, name, options, inputs, output.name)
    labels, regions = _classes(settings, outputs)
    config.data.structures, config.data.regions = labels, tuple(regions)
    config.model.softmax = len(labels) == 1 and settings.activation == "softmax"
    config.infer.postprocess = bool(settings.largest)
    if regions or outputs == 1:
        config.loss.terms = (("dice", 1.0), ("bce", 1.0))
    config = configs.resolve(config)
    model = create_model(name, in_channels=inputs, num_classes=outputs, rank=3, **options)
    try:
        report = from_torch.load(model.network if found.rank == 2 else model, weights)
        model.check((1, *config.data.size, inputs))
    except MismatchError as error:
        raise MismatchError(f"{weights}: {error}") from error
    except ValueError as error:
        raise MismatchError(f"{weights}: windows of {settings.window}: {error}") from error
    _, params, state = functional.split(model)
    record = run_folder.record(
        config,
        labels=labels,
        values=range(1, len(labels) + 1),
        regions=regions,
        modalities=settings.channels,
        num_classes=outputs,
        params=params,
        imported={"from": "MONAI", "network": found.name, "file": str(weights)},
    )
    files.make_folder(output.parent, f"--output={output}")
    steps = _steps(settings, len(labels))
    files.build_folder(output, lambda place: run_folder.write(place, record, (params, state), weights, steps))
    count, grid = record["model"]["parameters"], f"{settings.spacing} mm" if config.data.spacing else "the scan's own spacing"
    say(f"{output}: {found.name}, {count:,} parameters from {weights.name} (names of {report.key_mapping!r}), {inputs} channels")
    say(f"  {settings.activation} over {', '.join(settings.classes)}")
    say(f"  orientation {settings.orientation} at {grid}, {settings.intensity} {settings.statistics or ''}")
    if steps:
        say(f"  post-processing: the largest component is kept, {len(steps)} steps")
    if settings.above:
        say(f"  cropped to voxels above {settings.above[1]:g}, {'after resampling' if settings.above[0] == 'grid' else 'first'}")
    say(f"  windows of {settings.window} voxels, overlap {settings.overlap}, {settings.blend}")
    return output


def _config(
    tree: ConfigDict, settings: bundle.Settings, name: str, options: Mapping[str, Any], channels: int, run: str
) -> ConfigDict:
    c = tree.copy_and_resolve_references().unlock()
    several = channels > 1
    if several and settings.together:
        raise MismatchError(
            f"the bundle scales {channels} channels together (channel_wise is false), which is not supported; "
            f"give {FLAGS['intensity']}"
        )
    if settings.channels and len(settings.channels) != channels:
        raise MismatchError(
            f"the bundle names {len(settings.channels)} channels, but the network has {channels}; give --channels"
        )
    c.name, c.data.channels = run, channels
    c.data.size, c.data.spacing = settings.window, settings.spacing if any(settings.spacing) else ()
    c.data.orientation, c.data.intensity = settings.orientation, settings.intensity
    c.data.filter = settings.filter if c.data.spacing else "linear"
    c.data.statistics, c.data.above = (settings.statistics,) * channels if settings.statistics else (), settings.above
    c.data.modalities = settings.channels or None
    c.model.name, c.model.options = name, ConfigDict(dict(options))
    c.infer.overlap, c.infer.blend = settings.overlap, settings.blend
    c.eval.threshold = settings.threshold
    c.train.dtype = "float32"
    return c


def _classes(settings: bundle.Settings, outputs: int) -> tuple[tuple[str, ...], Regions]:
    """(names of the labels, regions): those of a softmax, of one sigmoid, or of every combination of several."""
    names = tuple(settings.classes)
    wanted = outputs - 1 if settings.activation == "softmax" else outputs
    if len(names) != wanted or wanted < 1:
        raise MismatchError(
            f"got {len(names)} classes ({', '.join(names)}) for {outputs} outputs with a {settings.activation}; give --classes "
            f"with {max(wanted, 1)}"
        )
    if settings.activation == "softmax" or outputs == 1:
        return names, ()
    return overlap.combinations(names), overlap.regions(names)


def _steps(settings: bundle.Settings, classes: int) -> list[dict[str, Any]]:
    """The post-processing of the settings, as steps of `infer.postprocess`.

    Raises:
      MismatchError: it is for classes that there are not.
    """
    groups = [(k,) for k in range(1, classes + 1)] if settings.largest == ((0,),) else list(settings.largest)
    wrong = sorted({k for group in groups for k in group if not 1 <= k <= classes})
    if wrong:
        raise MismatchError(f"{bundle.LARGEST}: applied_labels {wrong[0]} is none of the classes 1..{classes}; correct it")
    return [{"step": "keep_largest", "options": {"classes": list(group)} if group else {}} for group in groups]
