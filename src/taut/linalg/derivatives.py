"""Operations with derivatives of their own, in reverse and in forward mode."""

import functools
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor

from taut._torch_private import forward_modes


def applied(function: type[torch.autograd.Function], *args: Any) -> Any:
    """`function.apply`, with the static method `tangent` of `function` as its `jvp`.

    A `jvp` that stood in the class would keep compilers from it: while compiling there is none.
    """
    if not torch.compiler.is_compiling():
        function = _with_jvp(function)
    return function.apply(*args)


def keep(ctx: Any, *tensors: Tensor) -> None:
    """Save tensors for the derivatives in both modes."""
    ctx.save_for_backward(*tensors)
    if not torch.compiler.is_compiling():
        ctx.save_for_forward(*tensors)


def final(derivative: Tensor, source: Tensor) -> Tensor:
    """A derivative that depends on `source`, with an error instead of one that would not be whole.

    Example:
        >>> final(torch.ones(1), torch.zeros(2))
        tensor([1.])
    """
    return applied(_Final, derivative, source)


def batched_linear(
    function: type[torch.autograd.Function], axis: int | None, x: Tensor, *options: Any
) -> tuple[Tensor, int]:
    """The `vmap` of a function of a batch, linear in it: `axis` is joined to the batch."""
    assert axis is not None
    x = x.movedim(axis, 0)
    return applied(function, x.flatten(0, 1), *options).unflatten(0, x.shape[:2]), 0


@functools.cache
def _with_jvp(function: Any) -> type[torch.autograd.Function]:
    rule = _refusing_a_second(function.tangent)
    return type(function.__name__, (function,), {"jvp": staticmethod(rule)})


def _refusing_a_second(tangent: Callable[..., Any]) -> Callable[..., Any]:
    """The rule, which switches forward mode off in it, also an outer one that would need it."""

    def jvp(ctx: Any, *tangents: Any) -> Any:
        if forward_modes() > 1:
            raise NotImplementedError(
                "Two derivatives in forward mode are not supported: take one of them in reverse "
                "mode, as torch.func.hessian does."
            )
        return tangent(ctx, *tangents)

    return jvp


class _Final(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(derivative: Tensor, source: Tensor) -> Tensor:
        return derivative.clone()

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx, grad: Tensor) -> NoReturn:  # pyright: ignore[reportIncompatibleMethodOverride]
        raise NotImplementedError("The derivative by a parameter cannot be differentiated again.")

    @staticmethod
    def tangent(ctx: Any, *tangents: Tensor | None) -> NoReturn:
        raise NotImplementedError("The derivative by a parameter cannot be differentiated again.")
