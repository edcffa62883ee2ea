"""Architectures as frozen dataclasses that build plain `torch.nn` models: one a file.

To add a model, write a file with a frozen dataclass derived from `AbstractModel`, and add its line
here: recipes, the command line and the tests iterate over these exports.
"""

from typing import Any

from torch import nn

from taut.kinds import did_you_mean, exported
from taut.models._aol_net import AOLNet
from taut.models._base import AbstractModel
from taut.models._bronet import BRONet
from taut.models._cpl_net import CPLNet
from taut.models._deep import Deep
from taut.models._fc3 import FC3
from taut.models._function import model_of
from taut.models._large import Large
from taut.models._layers import LAYERS, Layer, layers
from taut.models._lip_conv_net import LipConvNet
from taut.models._lipnext import LipNeXt
from taut.models._liresnet import LiResNet
from taut.models._net import AbstractNet
from taut.models._resnet import ResNet
from taut.models._sandwich_net import SandwichNet
from taut.models._simple import SimpleNet
from taut.models._sll_net import SLLNet
from taut.models._small import Small
from taut.models._wide import Wide

__all__ = [
    "FC3",
    "LAYERS",
    "AOLNet",
    "AbstractModel",
    "AbstractNet",
    "BRONet",
    "CPLNet",
    "Deep",
    "Large",
    "Layer",
    "LiResNet",
    "LipConvNet",
    "LipNeXt",
    "ResNet",
    "SLLNet",
    "SandwichNet",
    "SimpleNet",
    "Small",
    "Wide",
    "build",
    "configurations",
    "kinds",
    "layers",
    "model_of",
]


def kinds() -> dict[str, type[AbstractModel]]:
    """The exported models by their `kind`."""
    return exported(globals(), AbstractModel)


def configurations() -> dict[str, AbstractNet]:
    """Configurations by name: the models of the papers in published sizes, and small ones.

    Example:
        >>> configurations()["simple-m"].width
        64
    """
    nets = {kind: cls for kind, cls in kinds().items() if issubclass(cls, AbstractNet)}
    return {
        f"{kind}-{name}": cls(**settings)
        for kind, cls in nets.items()
        for name, settings in cls.configurations.items()
    }


def build(
    name: str,
    input_shape: tuple[int, ...] = (3, 32, 32),
    classes: int = 10,
    **options: Any,
) -> nn.Module:
    """Build a freshly initialised model by its name in `taut list`.

    Args:
        name: of a configuration, or the kind of a model with its default settings.
        input_shape: of one input.
        classes: number of logits.
        options: of :meth:`AbstractModel.build`: parametrization, dense, device, dtype.

    Raises:
        ValueError: if there is no such model.

    Example:
        >>> build("simple-small")(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 10])
    """
    models: dict[str, AbstractModel] = {kind: cls() for kind, cls in kinds().items()}
    models |= configurations()
    if name not in models:
        raise ValueError(
            f"`name` must be one of {', '.join(models)}; got {name!r}.{did_you_mean(name, models)}"
        )
    return models[name].build(input_shape, classes, **options)
