"""What activations along an axis of choice have in common."""

from collections.abc import Callable

from torch import Tensor, fx


def along(function: Callable[..., Tensor], x: Tensor, dim: int, *others: Tensor | float) -> Tensor:
    """A function whose channels are axis 1, with channels along `dim`; -1 of a vector, too.

    Raises:
        ValueError: if there is no such axis.
    """
    check_axis(x, dim)
    if not isinstance(x, fx.Proxy) and x.dim() == 1:
        return function(x[None], *others)[0]
    if dim == 1:
        return function(x, *others)
    return function(x.movedim(dim, 1), *others).movedim(1, dim)


def check_axis(x: Tensor, dim: int) -> None:
    """Refuse an input without the axis `dim`.

    Raises:
        ValueError: if there is none.
    """
    if isinstance(x, fx.Proxy):  # of a symbolic trace
        return
    if not -x.dim() <= dim < x.dim():
        raise ValueError(
            f"`input` must have an axis {dim} (`dim`) for its channels; got the shape "
            f"{tuple(x.shape)}."
        )


def check_channels(x: Tensor, channels: int, dim: int) -> None:
    """Refuse an input with another number of channels than the parameters are for.

    Raises:
        ValueError: if there are more or fewer, or no such axis.
    """
    if isinstance(x, fx.Proxy):  # of a symbolic trace
        return
    if not -x.dim() <= dim < x.dim() or x.shape[dim] != channels:
        raise ValueError(
            f"`input` must have {channels} channels along axis {dim}; got the shape "
            f"{tuple(x.shape)}."
        )


def beside(values: Tensor, x: Tensor) -> Tensor:
    """Numbers of the channels in the shape in which they meet `x`; leading axes stay."""
    return values.reshape(values.shape + (1,) * (x.dim() - 2))
