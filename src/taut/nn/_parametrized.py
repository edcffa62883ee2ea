"""What all layers with a parametrized weight share."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from taut._arguments import positive
from taut._sharding import draws
from taut.parametrizations import AbstractParametrization, AbstractSpectral, read_weight

Parametrization = Callable[..., AbstractParametrization]
_M = TypeVar("_M", bound=nn.Module)


@runtime_checkable
class SharedTensors(Protocol):
    """Copies of the tensors of a model that is frozen: what is shared there is shared here."""

    def weight(self, layer: "AbstractParametrizedLayer") -> nn.Parameter:
        """The weight of a layer."""
        ...

    def bias(self, bias: Tensor | None) -> nn.Parameter | None:
        """The bias."""
        ...

    def input_size(self, layer: "AbstractParametrizedLayer") -> tuple[int, ...]:
        """The spatial size of the inputs of a layer whose weight depends on it."""
        ...

    @property
    def window(self) -> int | None:
        """To how many taps an axis kernels of the size of the input are cut, if they are."""
        ...


def made(method: Parametrization, *sizes: Any, **options: Any) -> AbstractParametrization:
    """The parametrization of a layer.

    Raises:
        ValueError: if `method` is a name, another class, or a parametrization already.
    """
    other = isinstance(method, type) and not issubclass(method, AbstractParametrization)
    if not callable(method) or isinstance(method, nn.Module) or other:
        raise ValueError(
            "`parametrization` must be a class of taut.parametrizations, or a partial of one; "
            f"got {method!r}."
        )
    return method(*sizes, **options)


def filled(module: _M, weight: nn.Parameter, bias: nn.Parameter | None) -> _M:
    """A plain layer made without drawing random numbers, with its tensors."""
    module.register_parameter("weight", weight)
    module.register_parameter("bias", bias)
    return module


class AbstractParametrizedLayer(nn.Module, ABC):
    """A layer with a weight from a parametrization, and a bias or None."""

    parametrization: AbstractParametrization
    bias: nn.Parameter | None
    gain: float

    @abstractmethod
    def frozen(self, tensors: SharedTensors) -> nn.Module:
        """The same layer in plain torch; a `Sequential` ending in `layer` if it pads separately."""

    @property
    def fills_input(self) -> bool:
        """Whether the kernel is as large as the periodic domain of the input."""
        method = self.parametrization
        return isinstance(method, AbstractSpectral) and bool(method.kernel_size)

    def _set_gain(self, gain: float) -> None:
        self.gain = positive("gain", gain)

    def _set_parameters(
        self, parametrization: AbstractParametrization, outputs: int, bias: bool, **factory: Any
    ) -> None:
        self.parametrization = parametrization
        self.bias = nn.Parameter(torch.empty(outputs, **factory)) if bias else None
        self._reset_bias()

    @draws
    def reset_parameters(self) -> None:
        """Draw the raw tensors and the bias anew."""
        self.parametrization.reset_parameters()
        self._reset_bias()

    def _reset_bias(self) -> None:
        """Uniform in the interval that torch's layers take."""
        if self.bias is not None:
            method = self.parametrization
            inputs = method.in_channels // method.groups * math.prod(method.kernel_size)
            nn.init.uniform_(self.bias, -1 / math.sqrt(inputs), 1 / math.sqrt(inputs))

    @property
    def weight(self) -> Tensor:
        """The weight, of the same shape as that of torch's layer.

        It is computed at each read: writing into it changes nothing, and raises nothing. Assign it
        instead: `layer.weight = w` sets the raw tensors, if the method can have w and w determines
        them; else it raises a `ValueError` and changes nothing. Methods of your own need a `raw_of`
        for it. :class:`taut.BCOP` says which kernels it takes; :class:`taut.BCOPFixed` takes every
        orthogonal one.
        """
        return self._amplified(read_weight(self.parametrization))

    def _amplified(self, x: Tensor) -> Tensor:
        """Times the gain."""
        return x if self.gain == 1.0 else x * self.gain

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; a weight goes to the parametrization."""
        if name != "weight":
            super().__setattr__(name, value)
        elif isinstance(value, Tensor):
            self.parametrization.assign_(value / self.gain)
        else:
            raise ValueError(f"`weight` must be a tensor; got {type(value).__name__}.")
