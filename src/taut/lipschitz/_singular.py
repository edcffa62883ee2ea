"""Exact singular values of linear modules and of models made of them."""

import copy
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn

from taut.linalg.spectrum import DENSE_LIMIT, conv_singular_values
from taut.lipschitz._functions import AFFINE
from taut.lipschitz._graph import check_model, trace, verifiable_bound
from taut.lipschitz._registry import is_leaf, is_linear, operator_of, rule_of
from taut.lipschitz._result import UnprovenError

__all__ = ["singular_values"]


def singular_values(module: nn.Module, input_shape: tuple[int, ...]) -> Float[Tensor, " s"]:
    r"""Exact singular values of a linear module, of its operator on inputs of one shape.

    The operator is what forward does, with padding, stride, dilation and groups, without the bias.
    Convolutions and matrices go by their own spectrum; any other affine module, and any model made
    of affine modules and functions, is written out densely.

    Args:
        module: affine in its input.
        input_shape: shape of one input, without the batch.

    Returns:
        min(outputs, inputs) values in float64, descending.

    Raises:
        UnprovenError: (a NotImplementedError) if a part has no rule or is not linear; it is named.
        ValueError: if the input shape does not fit, or the dense operator would be too large.

    Example:
        >>> layer = nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular", bias=False)
        >>> with torch.no_grad():
        ...     _ = layer.weight.fill_(1.0)
        >>> singular_values(layer, (1, 4, 4))[0].round(decimals=6).item()
        9.0
    """
    check_model(module)
    if is_leaf(module):
        rule_of(module, type(module).__name__)
        _check_linear(module, "module")
        op = operator_of(module, tuple(input_shape))
        if op is not None:
            verifiable_bound(module, tuple(input_shape))  # the shape fits
            copies = torch.Size(input_shape).numel() // op.shape[1]
            return conv_singular_values(op).repeat_interleave(copies)
    return torch.linalg.svdvals(_dense(module, tuple(input_shape)))


def _check_linear(module: nn.Module, name: str) -> None:
    if not is_linear(module):
        raise UnprovenError(
            f"`{name}` ({type(module).__name__}) has no singular values: it is not linear."
        )


def _dense(model: nn.Module, shape: tuple[int, ...]) -> Tensor:
    verifiable_bound(model, shape)  # every part has a rule, and the graph is the model
    push = _Push(trace(model))
    inputs = torch.Size(shape).numel()
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    zero = torch.zeros(1, *shape, dtype=torch.float64, device=device)
    with torch.no_grad():
        shift = push.run(zero)
        if shift.numel() * inputs > DENSE_LIMIT:
            raise ValueError(
                f"`input_shape` must be smaller: the dense operator may have at most {DENSE_LIMIT} "
                f"entries; got {shift.numel()} x {inputs}."
            )
        units = torch.eye(inputs, dtype=torch.float64, device=device).reshape(inputs, *shape)
        return (push.run(units) - shift).reshape(inputs, -1).T


@final
class _Push(fx.Interpreter):
    """Runs an affine graph in float64, with the weights as they are used."""

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._check(target, args)
        return super().call_function(target, args, kwargs)

    def call_method(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._check(target, args)
        return super().call_method(target, args, kwargs)

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        module, x = self.submodules[target], args[0]
        _check_linear(module, target)
        if type(module).__module__.startswith("torch."):
            return copy.deepcopy(module).double()(x)
        op = operator_of(module, tuple(x.shape[1:]))
        return module(x) if op is None else op(x)

    def _check(self, target: Any, args: tuple[Any, ...]) -> None:
        signal = any(isinstance(arg, Tensor) and arg.is_floating_point() for arg in args)
        if signal and target not in AFFINE and target not in ("size", "dim", getattr):
            raise UnprovenError(f"{target} has no singular values: it is not linear.")
