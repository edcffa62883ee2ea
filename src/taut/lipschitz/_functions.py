"""Rules for the functions and tensor methods that a forward may call."""

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from taut.linalg.rounding import up_product, up_root, up_root_sum_square, up_sum
from taut.lipschitz._registry import rule_of
from taut.lipschitz._result import UnprovenError

__all__ = [
    "AFFINE",
    "ARITHMETIC",
    "AS_MODULES",
    "QUERIES",
    "SELECTIONS",
    "Call",
    "module_gain",
    "proof_of",
    "selection_gain",
]

QUERIES = {"size", "dim", "numel", "ndimension", getattr, len}
"""What asks for shapes and types only: the answer does not depend on the values."""

SELECTIONS = {
    operator.getitem, torch.flatten, torch.reshape, torch.permute, torch.transpose, torch.squeeze,
    torch.unsqueeze, torch.chunk, torch.split, torch.unbind, torch.flip, torch.movedim,
    torch.narrow, torch.tile, F.pad, F.pixel_shuffle, F.pixel_unshuffle, F.unfold,
    "flatten", "reshape", "view", "permute", "transpose", "squeeze", "unsqueeze", "chunk", "split",
    "unbind", "flip", "movedim", "narrow", "unflatten", "contiguous", "expand", "repeat",
    "clone", "unfold", "mT",
}  # fmt: skip
"""What copies entries to places that do not depend on the values.

Rolling is none of them: along the batch it mixes samples, but for batches whose size divides it.
"""

AS_MODULES: dict[Any, type[nn.Module]] = {
    F.relu: nn.ReLU, torch.relu: nn.ReLU, "relu": nn.ReLU, F.relu6: nn.ReLU6,
    F.leaky_relu: nn.LeakyReLU, F.elu: nn.ELU, F.selu: nn.SELU, F.silu: nn.SiLU, F.gelu: nn.GELU,
    torch.tanh: nn.Tanh, F.tanh: nn.Tanh, "tanh": nn.Tanh,
    torch.sigmoid: nn.Sigmoid, F.sigmoid: nn.Sigmoid, "sigmoid": nn.Sigmoid,
    F.softplus: nn.Softplus, F.logsigmoid: nn.LogSigmoid, F.softsign: nn.Softsign,
    F.hardtanh: nn.Hardtanh,
    F.max_pool1d: nn.MaxPool1d, F.max_pool2d: nn.MaxPool2d,
    F.avg_pool1d: nn.AvgPool1d, F.avg_pool2d: nn.AvgPool2d,
    F.adaptive_avg_pool2d: nn.AdaptiveAvgPool2d, F.adaptive_max_pool2d: nn.AdaptiveMaxPool2d,
    F.softmax: nn.Softmax, torch.softmax: nn.Softmax, "softmax": nn.Softmax,
}  # fmt: skip
"""Functions that take a module's arguments after the input: the module's rule answers."""


@final
@dataclass(frozen=True)
class Call:
    """A call with its values at one random input, and the Lipschitz constant of each argument.

    Attributes:
        args: positional arguments.
        kwargs: keyword arguments.
        slopes: constants of the positional arguments as functions of the model's input: None for
            what does not depend on it, a list for a list of tensors.
        result: what the call returned.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    slopes: tuple[Any, ...]
    result: Any


def selection_gain(
    function: Callable[[Tensor], Any],
    shape: tuple[int, ...],
    device: torch.device | None = None,
) -> int:
    r"""Largest number of times that a selection copies one entry, by pushing the entries' numbers.

    Its norm is the root. Values below the first number are constants that were put in.

    Args:
        function: copies entries to places that do not depend on their values.
        shape: shape of its input, batch first.
        device: where the indices it may hold are.

    Raises:
        UnprovenError: if an entry moves to another sample, or is changed.
    """
    first = 1 << 40
    entries = torch.Size(shape).numel()
    numbers = torch.arange(first, first + entries, dtype=torch.float64, device=device).reshape(
        shape
    )
    result = function(numbers)
    most = 0
    for part in result if isinstance(result, tuple | list) else (result,):
        if part.dim() == 0 or part.shape[0] != shape[0]:
            raise UnprovenError("it does not keep the batch in dimension 0")
        flat = part.reshape(shape[0], -1).cpu()
        copied = flat >= first
        sample = torch.arange(shape[0]).unsqueeze(1).expand_as(flat)
        numbers = flat[copied].long() - first
        home = torch.div(numbers, entries // shape[0], rounding_mode="floor")
        if not torch.equal(home, sample[copied]):
            raise UnprovenError("it mixes samples of the batch")
        most = max(most, int(numbers.bincount().max()) if len(numbers) else 0)
    return most


def _spread(call: Call, value: Any) -> float:
    """Broadcasting an argument copies each entry equally often."""
    if not isinstance(value, Tensor) or value.numel() == 0:
        return 1.0
    return up_root(call.result.numel() / value.numel())


def _keeps_batch(call: Call) -> None:
    for value, slope in zip(call.args, call.slopes, strict=False):
        if slope is not None and (
            call.result.dim() != value.dim() or call.result.shape[0] != value.shape[0]
        ):
            raise UnprovenError("it broadcasts over the batch dimension")


def _constants(call: Call) -> None:
    if call.slopes[0] is None or any(slope is not None for slope in call.slopes[1:]):
        raise UnprovenError("it may only combine the signal with constants")


def _plus(call: Call) -> float:
    """Sums add: |a + alpha b|."""
    _keeps_batch(call)
    alpha = abs(float(call.kwargs.get("alpha", 1)))
    terms = []
    for value, slope, factor in zip(call.args, call.slopes, (1.0, alpha), strict=True):
        if slope is not None:
            terms.append(up_product(slope, factor, _spread(call, value)))
    return up_sum(*terms)


def _times(call: Call) -> float:
    """One factor must be constant: its largest entry."""
    _keeps_batch(call)
    (value, slope), (constant, other) = zip(call.args, call.slopes, strict=True)
    if slope is None:
        (value, slope), (constant, other) = (constant, other), (value, slope)
    if other is not None:
        raise UnprovenError("a product of two signals has no Lipschitz constant")
    return up_product(slope, _largest(constant), _spread(call, value))


def _over(call: Call) -> float:
    """Division by a constant: its smallest entry."""
    _keeps_batch(call)
    _constants(call)
    if call.kwargs.get("rounding_mode") is not None:
        raise UnprovenError("a division that rounds has no Lipschitz constant")
    smallest = torch.as_tensor(call.args[1], dtype=torch.float64).abs().min().item()
    if not smallest > 0:
        raise UnprovenError("it divides by 0 or NaN")
    exact = math.frexp(smallest)[0] == 0.5  # a power of two
    inverse = 1 / smallest if exact else math.nextafter(1 / smallest, math.inf)
    return up_product(call.slopes[0], inverse, _spread(call, call.args[0]))


def _largest(constant: Any) -> float:
    values = torch.as_tensor(constant, dtype=torch.float64).abs()
    if not bool(values.isfinite().all()):
        raise UnprovenError("its constant holds NaN or Inf")
    return values.max().item() if values.numel() else 0.0


def _elementwise(call: Call) -> float:
    _constants(call)
    return call.slopes[0]


def _clamp(call: Call) -> float:
    """Ends that are tensors may spread the signal."""
    _keeps_batch(call)
    _constants(call)
    return up_product(call.slopes[0], _spread(call, call.args[0]))


def _dropout(call: Call) -> float:
    _constants(call)
    training = call.kwargs.get("training", call.args[2] if len(call.args) > 2 else True)
    if training:
        raise UnprovenError("dropout in training is random; call model.eval() first")
    return call.slopes[0]


def _concatenate(call: Call) -> float:
    """Branches side by side: root of the sum of squares."""
    dim = call.kwargs.get("dim", call.kwargs.get("axis", call.args[1] if call.args[1:] else 0))
    if dim % call.result.dim() == 0:
        raise UnprovenError("it concatenates along the batch")
    parts = call.slopes[0]
    slopes = parts if isinstance(parts, list) else [parts] * len(call.args[0])
    return up_root_sum_square(*(slope for slope in slopes if slope is not None))


def _larger(call: Call) -> float:
    """|max(a, b) - max(a', b')| <= max(|a - a'|, |b - b'|), entry by entry."""
    _keeps_batch(call)
    pairs = zip(call.args, call.slopes, strict=True)
    return up_root_sum_square(
        *(up_product(slope, _spread(call, value)) for value, slope in pairs if slope is not None)
    )


def _reduced(call: Call) -> int:
    """How many entries each entry of a sum or mean over `dim` takes together."""
    _constants(call)
    value = call.args[0]
    dims = call.kwargs.get("dim", call.args[1] if len(call.args) > 1 else None)
    dims = (dims,) if isinstance(dims, int) else dims
    if dims is None or len(dims) == 0 or any(d % value.dim() == 0 for d in dims):
        raise UnprovenError("it sums over the batch; give `dim` without 0")
    return value.numel() // max(1, call.result.numel())


def _sum(call: Call) -> float:
    return up_product(call.slopes[0], up_root(float(_reduced(call))))


def _mean(call: Call) -> float:
    count = _reduced(call)
    share = 1.0 if count == 1 else math.nextafter(1.0 / count, math.inf)
    return up_product(call.slopes[0], up_root(share))


ARITHMETIC: dict[Any, Callable[[Call], float]] = {
    **dict.fromkeys((operator.add, operator.iadd, torch.add, "add"), _plus),
    **dict.fromkeys((operator.sub, operator.isub, torch.sub, "sub"), _plus),
    **dict.fromkeys((operator.mul, torch.mul, "mul"), _times),
    **dict.fromkeys((operator.truediv, torch.div, "div"), _over),
    **dict.fromkeys((operator.neg, operator.pos, torch.neg, "neg"), _elementwise),
    **dict.fromkeys((operator.abs, abs, torch.abs, "abs"), _elementwise),
    **dict.fromkeys((torch.clamp, "clamp"), _clamp),
    **dict.fromkeys((torch.cat, torch.concat, torch.stack), _concatenate),
    **dict.fromkeys((torch.maximum, torch.minimum), _larger),
    **dict.fromkeys((torch.sum, "sum"), _sum),
    **dict.fromkeys((torch.mean, "mean"), _mean),
    F.dropout: _dropout,
}
"""Functions with a rule of their own: the constant of the result as a function of the input."""


def module_gain(call: Call, kind: type[nn.Module], name: str) -> float:
    """The constant of a function that is a module in other words."""
    _constants(call)
    module = kind(*call.args[1:], **call.kwargs)
    bound = rule_of(module, name)(module, tuple(call.args[0].shape[1:]))
    return up_product(call.slopes[0], bound.value)


def proof_of(target: Any) -> str:
    """In words, why the constant of a function is what it is."""
    if target in ARITHMETIC:
        return _PROOFS[ARITHMETIC[target]]
    return "rule of the module" if target in AS_MODULES else "copies entries"


_PROOFS: dict[Callable[[Call], float], str] = {
    _plus: "sums add",
    _times: "largest factor",
    _over: "largest factor",
    _elementwise: "slope at most 1",
    _clamp: "slope at most 1",
    _concatenate: "root of the sum of squares",
    _larger: "root of the sum of squares",
    _sum: "root of the number of terms",
    _mean: "root of the number of terms, inverted",
    _dropout: "identity in eval",
}

AFFINE = SELECTIONS | {
    target
    for target, rule in ARITHMETIC.items()
    if rule in (_plus, _times, _over, _concatenate, _sum, _mean, _dropout)
    or target in (operator.neg, operator.pos, torch.neg, "neg")
}
"""Functions that are affine maps of the signal, where their rule accepts them."""
