"""Functions of taut that recorders see as one call, as they see functions of torch."""

import functools
from collections.abc import Callable
from typing import Any

from torch.overrides import handle_torch_function, has_torch_function

from taut.program._op import CAPTURES

__all__ = ["single_call"]


def single_call(
    capture: Callable[..., Any],
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Let tracers see a function of tensors as one call, whatever it does inside.

    Args:
        capture: what a call is in a program: takes a `Call` and the arguments of the function, adds
            nodes, and returns the name of the value.

    Returns:
        A decorator for a function of tensors and numbers, all positional.

    Example:
        >>> from torch import nn
        >>> @single_call(lambda c, x: c.add("relu", [c.name(x)]))
        ... def rectified(x):
        ...     return torch.where(x > 0, x, 0.0)
        >>> class Rectifier(nn.Module):
        ...     def forward(self, x):
        ...         return rectified(x)
        >>> [node.op for node in taut.program.trace(Rectifier(), (3,)).nodes]
        ['relu']
    """

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any) -> Any:
            if has_torch_function(args):
                return handle_torch_function(call, args, *args)
            return function(*args)

        CAPTURES[call] = capture
        return call

    return add
