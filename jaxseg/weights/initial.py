"""Initial weights of a network: those of another run, a checkpoint, a PyTorch file, or weights that a package ships."""

from collections.abc import Callable
from pathlib import Path

from jaxseg import checkpoint
from jaxseg.models import functional
from jaxseg.types import ConfigError
from jaxseg.weights import from_torch, pretrained


def initialise(model, source: str, say: Callable[[str], None]) -> None:
    """Load the weights of another run, a checkpoint, a PyTorch file or a row of `weights.pretrained` into a model."""
    if source.startswith(pretrained.PREFIX):
        say(f"weights from {source}\n{pretrained.load(model, source)}")
    elif Path(source).is_dir():
        params, state, info = checkpoint.load_weights(Path(source))
        _, ours, _ = functional.split(model)
        kept = [name for name, value in ours.items() if name in params and _other_classes(value.shape, params[name].shape, model)]
        functional.assign(model, {**params, **{name: ours[name] for name in kept}}, state)
        say(
            f"weights from {source} (step {info.get('next_batch', '?')})"
            + (f"; {', '.join(kept)} keep their initial values: {source} has another number of classes" if kept else "")
        )
    elif not Path(source).exists():
        raise ConfigError(f"config.model.init={source}: no such run folder or weights file; train that run, or give another path")
    else:
        say(f"weights from {source}\n{from_torch.load(model, source, adapt=True)}")


def _other_classes(ours: tuple[int, ...], theirs: tuple[int, ...], model) -> bool:
    """Return whether these are the shapes of a classifier of this model, and of one with another number of classes."""
    return ours[-1:] == (model.num_classes,) and ours[:-1] == theirs[:-1] and ours != theirs
