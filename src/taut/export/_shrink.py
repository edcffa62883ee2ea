"""Weights moved by a few units in the last place, so that their proved norm is at most 1."""

from typing import TypeVar

import torch
from torch import nn

from taut.nn import AbstractParametrizedLayer, CircularConv1d, CircularConv2d, CircularConv3d
from taut.program import Effort, UnprovenError, bound_of, trace

__all__ = ["shrink_"]

_EXCESS = 1e-4  # what rounding explains; a layer further above 1 was not meant to have norm 1
_ROUNDS = 16
_PLAIN = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d,
    nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
    CircularConv1d, CircularConv2d, CircularConv3d,
)  # fmt: skip
_M = TypeVar("_M", bound=nn.Module)


def shrink_(model: _M, input_shape: tuple[int, ...]) -> _M:
    r"""Scale nearly orthogonal weights in place, so that the proven norm of each is at most 1.

    The norm of an orthogonal weight stored as floats lies some units in the last place off 1, and
    its proved bound a little above. Each plain layer of torch whose bound b is in (1, 1 + 1e-4) has
    its weight multiplied by :math:`1 - (b - 1) - \epsilon`, rounded to its precision, and is proved
    again; :math:`\epsilon`, a sixth of the unit in the last place, doubles until it shows. Layers
    of other norms are left as they are, and so are biases.

    Guarantee: on return no plain layer of torch has a bound in (1, 1 + 1e-4) at this input shape. A
        chain of them and of 1-Lipschitz modules has `float(taut.lipschitz_bound(...)) <= 1`.
    Cost: the bound of the model, three times as a rule.

    Args:
        model: a frozen model, or any other of plain torch layers; its weights are written to.
        input_shape: shape of one input, without the batch.

    Returns:
        The model itself.

    Raises:
        UnprovenError: (a NotImplementedError and ValueError) if the model has no proven bound.
        ValueError: if a layer in question is parametrized, or the input shape does not fit.

    Example:
        >>> model = nn.Sequential(taut.nn.Conv2d(3, 8, 3), taut.nn.MaxMin(), nn.Flatten())
        >>> frozen = shrink_(taut.freeze(model), (3, 6, 6))
        >>> 1 - 1e-5 < float(taut.lipschitz_bound(frozen, (3, 6, 6))) <= 1
        True
    """
    for attempt in range(_ROUNDS):
        excesses = _excesses(model, input_shape)
        if not excesses:
            return model
        for weight, excess in excesses.items():
            step = torch.finfo(weight.dtype).eps / 6 * 2**attempt
            with torch.no_grad():
                weight.copy_(weight.double() * (1 - excess - step))
    raise UnprovenError(f"The bound of a weight is still above 1 after {_ROUNDS} rounds.")


def _excesses(model: nn.Module, input_shape: tuple[int, ...]) -> dict[nn.Parameter, float]:
    """By how much the bound of each nearly orthogonal weight is above 1, where it is largest."""
    program = trace(model, input_shape)
    bounds = {
        row.name: row.bound for row in bound_of(program, passes=(), effort=Effort(work=0.0)).layers
    }
    excesses: dict[nn.Parameter, float] = {}
    for node in program.nodes:
        bound = bounds.get(node.name, 0.0)
        if not 1 < bound < 1 + _EXCESS:
            continue
        layer = model.get_submodule(node.path)
        if isinstance(layer, AbstractParametrizedLayer):
            raise ValueError(
                f"`{node.name}` ({node.type}) computes its weight; call taut.freeze on the model."
            )
        if type(layer) in _PLAIN:
            weight = layer.get_parameter("weight")
            excesses[weight] = max(excesses.get(weight, 0.0), bound - 1)
    return excesses
