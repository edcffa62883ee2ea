"""One way to a model, from wherever it was kept."""

import os

from torch import nn

from taut._zoo import PREFIX, located, manifest
from taut.export import SUFFIXES
from taut.export import load as load_exported
from taut.kinds import did_you_mean


def load(path: str | os.PathLike[str]) -> nn.Module:
    """Load the model of a run folder, an exported file or the zoo, in eval mode on the CPU.

    A run's model is the one that was trained, with its parametrized layers; it needs `taut[cli]`.
    An exported file gives plain modules; :func:`taut.export.load` also tells their input shape.
    Models of the zoo are exported files, with their certificates beside them (docs/zoo.md).

    Args:
        path: a folder that `taut train` wrote, a file that :func:`taut.export.export` wrote, or
            `zoo:` and the name of a trained model, such as `zoo:mnist-small`.

    Raises:
        FileNotFoundError: if there is no such file or folder, or no trained model in it.
        ValueError: if a file is damaged, or of another kind; if the zoo has no such model.

    Example:
        >>> import tempfile, taut, torch
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "model.safetensors")
        ...     _ = taut.export.export(torch.nn.Sequential(taut.nn.Linear(4, 2)), path, (4,))
        ...     load(path)(torch.zeros(1, 4)).shape
        torch.Size([1, 2])
    """
    place = located(path)
    if place.is_dir():
        from taut.training import Run

        return Run.open(place).model().eval()
    if not place.exists():
        hint = f" Did you mean {PREFIX}{place}?" if str(place) in manifest() else ""
        raise FileNotFoundError(
            f"{place} does not exist; `path` is a run folder, a file or zoo:NAME.{hint}"
        )
    if place.suffix not in SUFFIXES:
        hint = did_you_mean(place.suffix, SUFFIXES)
        raise ValueError(f"{place} must be a run folder, or end in {', '.join(SUFFIXES)}.{hint}")
    return load_exported(place).model.eval()
