"""Models that a function makes."""

import copy
import functools
import inspect
from collections.abc import Callable
from dataclasses import field, fields, make_dataclass
from typing import Any

import torch
from torch import nn

from taut.models._base import AbstractModel
from taut.parametrizations import BCOP

_OFFERED = ("input_shape", "classes", "parametrization")


@functools.cache
def model_of(make: Callable[..., nn.Module]) -> type[AbstractModel]:
    """The architecture whose models a function makes.

    Its settings are the parameters of the function, with their defaults. Parameters called
    `input_shape`, `classes` and `parametrization` are given those of the recipe; a function needs
    none of them, but its model must fit the data.

    Args:
        make: a function that returns a `torch.nn.Module`, or a class of modules.

    Raises:
        ValueError: if a parameter is neither offered nor has a default.

    Example:
        >>> def make(classes, width=8):
        ...     return nn.Sequential(nn.Flatten(), taut.nn.Linear(width, classes))
        >>> model_of(make)(width=4).build((1, 2, 2), 3)(torch.zeros(5, 1, 2, 2)).shape
        torch.Size([5, 3])
    """
    parameters = inspect.signature(make).parameters
    settings = []
    for name, parameter in parameters.items():
        if name in _OFFERED:
            continue
        if parameter.default is parameter.empty:
            raise ValueError(
                f"`{name}` of {make.__name__} must have a default value, or be one of "
                f"{', '.join(_OFFERED)}."
            )
        default = parameter.default
        settings.append((name, type(default), field(default=default)))
    namespace = {"build": _build, "make": staticmethod(make), "offered": (*parameters,)}
    made = make_dataclass(
        make.__name__,
        settings,
        bases=(AbstractModel,),
        namespace=namespace | {"__doc__": make.__doc__},
        frozen=True,
    )
    made.__module__ = make.__module__  # from Python 3.12 on, one of the namespace is not kept
    return made


def _build(
    self: Any,
    input_shape: tuple[int, ...],
    classes: int,
    *,
    parametrization: Any = BCOP,
    dense: Any = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """The model that the function makes, if it fits the data."""
    name = type(self).__name__
    if "parametrization" not in self.offered and parametrization is not BCOP:
        raise ValueError(
            f"`parametrization` must be left at BCOP for {name}, which chooses its layers itself; "
            f"got {parametrization.__name__}."
        )
    if dense is not None:
        raise ValueError(f"`dense` must be None for {name}, which chooses its layers itself.")
    offered = dict(zip(_OFFERED, (input_shape, classes, parametrization), strict=True))
    given = {one: value for one, value in offered.items() if one in self.offered}
    model = self.make(**given, **{one.name: vars(self)[one.name] for one in fields(self)})
    if not isinstance(model, nn.Module):
        raise ValueError(f"{name} must return a torch.nn.Module; got {type(model).__name__}.")
    _check_fit(model, name, input_shape, classes)
    return model.to(device, dtype)


def _check_fit(model: nn.Module, name: str, input_shape: tuple[int, ...], classes: int) -> None:
    """Refuse a model that takes other images, or has another number of logits."""
    first = next(iter(model.parameters()), torch.zeros((), device="cpu"))
    images = torch.zeros(2, *input_shape, dtype=first.dtype, device=first.device)
    try:
        with torch.no_grad():
            shape = tuple(copy.deepcopy(model).eval()(images).shape)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{name} does not take images of {input_shape}: {reason}") from error
    if shape != (2, classes):
        raise ValueError(
            f"{name} must give {classes} logits for an image of {input_shape}, (2, {classes}) for "
            f"two of them; got {shape}."
        )
