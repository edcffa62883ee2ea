"""Circular padding for compilers, which are slow on what writes to parts of a tensor."""

import torch
from torch import Tensor
from torch.nn import functional as F

from taut.nn._wrap import LinearInSides, Size


class CompiledWrap(LinearInSides):
    """Circular padding as one gather: Inductor fuses it with the activation before it.

    Pads are at most the size of their axis.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, left: Size, right: Size) -> Tensor:
        for axis, (a, b) in enumerate(zip(left, right, strict=True), x.ndim - len(left)):
            if a or b:
                n = x.shape[axis]
                places = torch.arange(n - a, 2 * n + b, device=x.device) % n
                x = x.index_select(axis, places)
        return x

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _Folded.apply(grad, *ctx.sides), None, None  # pyright: ignore[reportReturnType]


class _Folded(LinearInSides):
    """The adjoint: adds each copy to its original, without the atomic sums of a scatter."""

    generate_vmap_rule = True

    @staticmethod
    def forward(y: Tensor, left: Size, right: Size) -> Tensor:
        for axis, (a, b) in enumerate(zip(left, right, strict=True), y.ndim - len(left)):
            if a or b:
                n, behind = y.shape[axis] - a - b, [0, 0] * (y.ndim - 1 - axis)
                first = F.pad(y.narrow(axis, a + n, b), [*behind, 0, n - b])
                last = F.pad(y.narrow(axis, 0, a), [*behind, n - a, 0])
                y = y.narrow(axis, a, n) + first + last
        return y

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return CompiledWrap.apply(grad, *ctx.sides), None, None  # pyright: ignore[reportReturnType]
