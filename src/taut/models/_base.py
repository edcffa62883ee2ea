"""What a model is."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import torch
from torch import nn

from taut.parametrizations import BCOP, AbstractParametrization

Parametrization = Callable[..., AbstractParametrization]


class AbstractModel(ABC):
    """An architecture: a frozen dataclass whose fields are its settings.

    What depends on the data (shape of an input, number of classes) and on the method (how weights
    are parametrized) is an argument of :meth:`build`. A subclass states its `kind`, the name that
    recipes and the command line use.
    """

    kind: ClassVar[str]
    method: ClassVar[type[AbstractParametrization]] = BCOP
    """The parametrization that a recipe with this model has if it names none."""

    @abstractmethod
    def build(
        self,
        input_shape: tuple[int, ...],
        classes: int,
        *,
        parametrization: Parametrization = BCOP,
        dense: Parametrization | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> nn.Module:
        """Build the model, initialised from torch's global seed.

        Args:
            input_shape: of one input: for images channels, height and width.
            classes: number of logits.
            parametrization: of the convolutions.
            dense: of the dense layers; by default what `parametrization` is on a matrix.
            device: of the parameters.
            dtype: of the parameters.

        Raises:
            ValueError: if the settings do not fit these inputs.
        """


def class_of(parametrization: Parametrization) -> Any:
    """The class of a parametrization, which may be a partial of it."""
    return parametrization.func if isinstance(parametrization, partial) else parametrization


def dense_method(parametrization: Parametrization) -> Parametrization:
    """The parametrization of dense layers beside convolutions of a method."""
    method = class_of(parametrization)
    dense = method.dense_as() if isinstance(method, type) else method
    return parametrization if dense is method else dense
