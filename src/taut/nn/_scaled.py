r"""A Lipschitz constant of your choice from a 1-Lipschitz net."""

from collections import OrderedDict
from fractions import Fraction

from torch import nn

from taut._arguments import rational
from taut.linalg.rounding import down
from taut.nn._times import Times

__all__ = ["scaled", "scaled_by_layer"]


def scaled(model: nn.Module, constant: int | float | str | Fraction) -> nn.Sequential:
    r"""Multiply the output of a 1-Lipschitz model by a constant K: a K-Lipschitz regressor.

    Guarantee: :math:`\|K f(x) - K f(y)\| \le K L \|x - y\|` for an L-Lipschitz f. The factor is the
        largest float64 that is not above K, so that a fraction such as "1/3" is not exceeded.
    Cost: one product.

    Args:
        model: the net, which becomes the part `net` of the result; it is not copied.
        constant: K > 0, as a number, a fraction or a text such as "5/2".

    Raises:
        ValueError: if the constant is not a positive number that a float64 holds.

    Example:
        >>> model = scaled(taut.nn.Linear(4, 1), 2.5)
        >>> round(float(taut.lipschitz_bound(model, (4,))), 4)
        2.5
    """
    return nn.Sequential(OrderedDict(net=model, scale=Times(_factor(constant))))


def scaled_by_layer(model: nn.Sequential, constant: int | float | str | Fraction) -> nn.Sequential:
    r"""Spread a constant K over the n parts of a model that have parameters: K^(1/n) behind each.

    With :func:`scaled` all hidden values and biases keep the scale of the input, and only the
    output has that of the targets. Here the scale grows from layer to layer, and biases act on the
    scale of their layer.

    Guarantee: K-Lipschitz if each part is 1-Lipschitz; the product of the factors is at most K.
    Cost: a product behind each part that has parameters.

    Args:
        model: its parts run one after the other and keep their names; they are not copied.
        constant: K > 0, as a number, a fraction or a text such as "5/2".

    Raises:
        ValueError: if the model is no `torch.nn.Sequential`, or no part of it has parameters; if
            the constant is not a positive number that a float64 holds.

    Example:
        >>> net = nn.Sequential(taut.nn.Linear(4, 8), taut.nn.MaxMin(), taut.nn.Linear(8, 1))
        >>> [name for name, _ in scaled_by_layer(net, 9).named_children()]
        ['0', '0_scale', '1', '2', '2_scale']
    """
    if type(model) is not nn.Sequential:
        raise ValueError(f"`model` must be a torch.nn.Sequential; got {type(model).__name__}.")
    count = sum(_has_parameters(part) for part in model)
    if not count:
        raise ValueError("`model` must have a part with parameters; got none.")
    factor = _root(_factor(constant), count)
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for name, part in model._modules.items():  # `named_children` leaves out repeated ones
        assert part is not None
        parts[name] = part
        if _has_parameters(part):
            scale = f"{name}_scale"
            while scale in model._modules:
                scale += "_"
            parts[scale] = Times(factor)
    return nn.Sequential(parts)


def _factor(constant: int | float | str | Fraction) -> float:
    """The largest float that is not above the constant."""
    exact = rational(constant)
    factor = down(exact) if exact is not None and exact > 0 else 0.0
    if not 0.0 < factor < float("inf"):
        raise ValueError(
            f'`constant` must be a positive number or a text such as "5/2"; got {constant!r}.'
        )
    return factor


def _root(value: float, n: int) -> float:
    """A float whose n-th power is not above the value, and nearly the value."""
    root = value ** (1 / n)
    while Fraction(root) ** n > Fraction(value):
        root *= 1 - 2.0**-52
    return root


def _has_parameters(part: nn.Module) -> bool:
    return any(True for _ in part.parameters())
