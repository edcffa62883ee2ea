"""A convolution as a part of one on a torus: which inputs there are, and which outputs count."""

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from taut.linalg.embedding import embedding, polyphase
from taut.linalg.geometry import AbstractConvolution, convolve
from taut.linalg.operator import plain_sums
from taut.linalg.padding import Padding

Fields = Float[Tensor, "q _ ..."]
"""Vectors of a torus operator, channels of all groups one after the other."""


@final
@dataclass(frozen=True, eq=False)
class TorusPart:
    r"""An operator T = P C E: C a convolution on a torus, P and E its outputs and inputs in T.

    Attributes:
        kernel: of C, which has stride 1.
        inputs: 1 where an input of C is one of T, else 0.
        outputs: the same for outputs, all channels alike.
    """

    kernel: Float[Tensor, "g o i ..."]
    inputs: Float[Tensor, "c ..."]
    outputs: Float[Tensor, "1 ..."]

    @property
    def size(self) -> tuple[int, ...]:
        """Of the torus."""
        return tuple(self.outputs.shape[1:])

    def single(self) -> "TorusPart":
        """The same in single precision, for estimates."""
        return TorusPart(self.kernel.float(), self.inputs.float(), self.outputs.float())

    def forward(self, x: Fields) -> Fields:
        """C x: at each place a sum of one product for each tap and input."""
        return self._convolved(self.kernel, x, Padding("circular", right=self._wrap))

    def adjoint(self, y: Fields) -> Fields:
        """C^* y, likewise."""
        flipped = self.kernel.transpose(1, 2).flip(*range(3, self.kernel.dim()))
        return self._convolved(flipped, y, Padding("circular", left=self._wrap))

    def normal(self, x: Fields) -> Fields:
        """T^* T x."""
        return self.inputs * self.adjoint(self.outputs * self.forward(x))

    @property
    def _wrap(self) -> tuple[int, ...]:
        return tuple(k - 1 for k in self.kernel.shape[3:])

    def _convolved(self, kernel: Tensor, x: Fields, padding: Padding) -> Fields:
        with plain_sums():
            return convolve(padding.apply(x), kernel.flatten(0, 1), groups=len(kernel))


def torus_part(op: AbstractConvolution) -> TorusPart | None:
    """A convolution with zero padding as a part of one on the torus of `embedding`.

    None for other paddings, if two outputs of T have one place on the torus, and for kernels of a
    single tap, whose torus is of no use.
    """
    torus, stride, _ = embedding(op)
    outputs = zip(op.output_size, torus, strict=True)
    kernel = polyphase(op.kernel, stride, op.dilation).unflatten(0, (op.groups, -1))
    single = math.prod(kernel.shape[3:]) == 1
    if op.padding.mode != "zeros" or single or any(out > n for out, n in outputs):
        return None
    inputs = _inputs(op, torus, stride).to(kernel)
    inputs = inputs.repeat(op.groups * kernel.shape[2] // len(inputs), *[1] * len(torus))
    sizes = zip(torus, op.output_size, strict=True)
    lines = [torch.arange(n, device="cpu") < out for n, out in sizes]
    return TorusPart(kernel, inputs, _outer(lines)[None].to(kernel))


def _inputs(op: AbstractConvolution, torus: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """(phases, *torus): input x of an axis sits at x + left; place s t + a is t of phase a."""
    lines = []
    for n, size, s, left in zip(op.input_size, torus, stride, op.padding.left, strict=True):
        lines.append((torch.arange(size * s, device="cpu") - left) % (size * s) < n)
    places = _outer(lines)
    for axis, s in enumerate(stride):  # (size s) -> (size, s), and s to the other phases
        places = places.unflatten(2 * axis, (-1, s)).movedim(2 * axis + 1, axis)
    return places.reshape(math.prod(stride), *torus)


def _outer(lines: list[Tensor]) -> Tensor:
    product = torch.ones((), device="cpu")
    for line in lines:
        product = product[..., None] * line
    return product
