"""Matrices, convolutions and their adjoints, each with a bias."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from taut.linalg.adjoint import AdjointOperator
from taut.linalg.computed_kernel import ComputedKernel
from taut.linalg.convolution import ConvOperator
from taut.linalg.geometry import CONVOLUTIONS, TRANSPOSED_CONVOLUTIONS
from taut.linalg.matrix import MatrixOperator
from taut.linalg.operator import AbstractOperator
from taut.linalg.padding import Padding
from taut.program._call import Call
from taut.program._op import AbstractOp, captures, like, op, reads
from taut.program._program import Site
from taut.program._result import UnprovenError
from taut.program.ops._image_padding import (
    fits_layer,
    padded,
    padded_source,
    padding_args,
    padding_of,
    torch_pads,
)
from taut.program.ops._shapes import permuted
from taut.program.ops._windows import shared_out, sides_of, steps_of

__all__: list[str] = []


class AbstractAffine(AbstractOp):
    """An operator of a weight, and a bias."""

    affine = True

    def _held(self, site: Site, x: Tensor) -> tuple[Tensor, Tensor | None]:
        bias = site.tensors.get("bias")
        return like(site.tensors["weight"], x), None if bias is None else like(bias, x)


@op("linear")
class Linear(AbstractAffine):
    """A matrix, `(outputs, inputs)`, on the last axis of a sample."""

    def operator(self, site: Site) -> MatrixOperator:
        """The matrix, on one row."""
        return MatrixOperator(site.tensors["weight"])

    def as_kernel(self, site: Site, *, last: bool) -> ComputedKernel | None:
        """The matrix at each place."""
        if not (last or len(site.shape) == 1):
            return None
        return ComputedKernel.matrix(site.tensors["weight"], ())

    def run(self, site: Site, *x: Tensor) -> Tensor:
        """Multiply and add."""
        return F.linear(x[0], *self._held(site, x[0]))

    def emit(self, e: Any, site: Site, *x: str) -> None:
        """A product with the transposed matrix."""
        if len(site.shape) != 1:
            raise ValueError("its input must be flat")
        e.node("Gemm", [*x, *e.held(site, "weight", "bias")], transB=1)

    def source(self, site: Site, *x: str) -> str:
        """A layer of torch."""
        return f"self.{site.node.name}({x[0]})"


@op("conv")
class Convolution(AbstractAffine):
    """A convolution in 1 to 3 axes; `padding` says what is added to the image before."""

    def operator(self, site: Site) -> ConvOperator:
        """The operator on the image of this size."""
        args = site.args
        return ConvOperator(
            site.tensors["weight"],
            site.shapes[0][1:],
            tuple(args["stride"]),
            tuple(args["dilation"]),
            args["groups"],
            padding_of(args["padding"]),
        )

    def run(self, site: Site, *x: Tensor) -> Tensor:
        """Pad and convolve."""
        args, padding = site.args, padding_of(site.args["padding"])
        weight, bias = self._held(site, x[0])
        function = CONVOLUTIONS[weight.dim() - 2]
        image, sides = x[0], padding.left
        if padding.mode != "zeros" or padding.left != padding.right or any(padding.extend):
            image, sides = padded(image, padding), 0
        return function(
            image, weight, bias, args["stride"], sides, args["dilation"], args["groups"]
        )

    def emit(self, e: Any, site: Site, *x: str) -> None:
        """Pads that a convolution of ONNX has not stand in front of it."""
        args, padding = site.args, padding_of(site.args["padding"])
        image, pads = x[0], [*padding.left, *padding.right]
        if any(padding.extend):
            image = e.pad("extended", image, (0,) * len(padding.extend), padding.extend, "constant")
        if padding.mode != "zeros" and any(pads):
            modes = {"circular": "wrap", "replicate": "edge", "reflect": "reflect"}
            image = e.pad("padded", image, padding.left, padding.right, modes[padding.mode])
            pads = [0] * len(pads)
        options = {
            "strides": args["stride"],
            "dilations": args["dilation"],
            "group": args["groups"],
        }
        e.node("Conv", [image, *e.held(site, "weight", "bias")], pads=pads, **options)

    def source(self, site: Site, *x: str) -> str:
        """A layer of torch; pads that it has not stand in front of it."""
        padding, image = padding_of(site.args["padding"]), x[0]
        if any(padding.extend):
            image = f"F.pad({image}, {torch_pads((0,) * len(padding.extend), padding.extend)})"
        if not fits_layer(site):
            sizes = zip(site.shapes[0][1:], padding.extend, strict=True)
            image = padded_source(image, tuple(map(sum, sizes)), padding)
        return f"self.{site.node.name}({image})"


@op("conv_transpose")
class TransposedConvolution(AbstractAffine):
    """The adjoint of a convolution from the output to the input.

    With zero padding; or circular, where `wrap` holds what is copied in front of each axis of the
    input and behind it, and `left` the padding of the convolution, see `passes.merge_wraps`.
    """

    def operator(self, site: Site) -> AbstractOperator:
        """The adjoint of the convolution on an image of the size of the output."""
        args, weight = site.args, site.tensors["weight"]
        if args["wrap"] is None:
            padding = Padding("zeros", tuple(args["padding"]), tuple(args["padding"]))
        else:
            steps = zip(args["dilation"], args["stride"], args["left"], strict=True)
            axes = zip(weight.shape[2:], steps, strict=True)
            right = tuple(max(0, d * (k - 1) + 1 - s - n) for k, (d, s, n) in axes)
            padding = Padding("circular", tuple(args["left"]), right)
        steps = (tuple(args["stride"]), tuple(args["dilation"]), args["groups"])
        return AdjointOperator(ConvOperator(weight, site.shape[1:], *steps, padding))

    def as_kernel(self, site: Site, *, last: bool) -> ComputedKernel | None:
        """The adjoint of the convolution."""
        operator = None if last else self.operator(site)
        if not isinstance(operator, AdjointOperator) or not isinstance(operator.op, ConvOperator):
            return None
        return replace(ComputedKernel.of(operator.op), transposed=True)

    def run(self, site: Site, *x: Tensor) -> Tensor:
        """Convolve."""
        args = site.args
        weight, bias = self._held(site, x[0])
        function, image = TRANSPOSED_CONVOLUTIONS[weight.dim() - 2], x[0]
        if args["wrap"] is not None:
            left, right = args["wrap"]
            image = padded(image, Padding("circular", tuple(left), tuple(right)))
        return function(
            image, weight, bias, args["stride"], args["padding"], args["output_padding"],
            args["groups"], args["dilation"],
        )  # fmt: skip

    def emit(self, e: Any, site: Site, *x: str) -> None:
        """A transposed convolution, behind a pad where it is circular."""
        args, image = site.args, x[0]
        if args["wrap"] is not None:
            image = e.pad("wrapped", image, *args["wrap"], "wrap")
        options = {
            "strides": args["stride"], "dilations": args["dilation"], "group": args["groups"],
            "pads": [*args["padding"], *args["padding"]], "output_padding": args["output_padding"],
        }  # fmt: skip
        e.node("ConvTranspose", [image, *e.held(site, "weight", "bias")], **options)

    def source(self, site: Site, *x: str) -> str:
        """A layer of torch."""
        wrap, image = site.args["wrap"], x[0]
        if wrap is not None:
            padding = Padding("circular", *map(tuple, wrap))
            image = padded_source(image, site.shapes[0][1:], padding)
        return f"self.{site.node.name}({image})"


def check_steps(
    steps: Sequence[int], size: Sequence[int], left: Sequence[int], right: Sequence[int]
) -> None:
    """Refuse steps over a whole image: the memory that a proof takes grows with them."""
    if any(s > n + a + b for s, n, a, b in zip(steps, size, left, right, strict=True)):
        raise UnprovenError("its stride is larger than the padded image")


def _per_axis(value: Any, axes: int) -> tuple[int, ...]:
    values = (value,) * axes if isinstance(value, int) else tuple(value)
    return values * axes if len(values) == 1 else values


def _check_image(x: Tensor, weight: Tensor) -> int:
    """The number of spatial axes; without a batch torch would take the batch for channels."""
    axes = weight.dim() - 2
    if x.dim() != weight.dim():
        raise UnprovenError(
            f"its input must be (batch, channels, {axes} axes); got {tuple(x.shape)}"
        )
    return axes


@captures("linear")
def linear(c: Call, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> str:
    """A dense layer."""
    held = {"weight": c.constant(weight), "bias": None if bias is None else c.constant(bias)}
    if weight.dim() != 2:
        raise UnprovenError("its weight must be a matrix")
    return c.add("linear", [c.name(input)], tensors=held)


@captures("matmul", "mm", "bmm")
def matmul(c: Call, x: Tensor, other: Tensor) -> str:
    """The signal times a constant matrix."""
    if c.is_signal(x) and c.is_signal(other):
        raise UnprovenError("a product of two signals has no Lipschitz constant")
    signal, matrix = (x, other) if c.is_signal(x) else (other, x)
    matrix = c.constant(matrix)
    if matrix.dim() != 2 or signal.dim() < 2:
        raise UnprovenError("it may only multiply the signal by a constant matrix")
    if signal is x:
        return c.add("linear", [c.name(x)], tensors={"weight": matrix.T})
    if signal.dim() < 3:
        raise UnprovenError("from the left it mixes the samples of the batch")
    # W X = (X^T W^T)^T, and W X^T is the matrix on the last axis.
    axes = list(range(signal.dim() - 1))
    axes[-2:] = axes[:-3:-1]
    turned = permuted(c, c.name(signal), axes)
    shape = (*c.shape(turned)[:-1], matrix.shape[0])
    made = c.add("linear", [turned], shape, tensors={"weight": matrix})
    return permuted(c, made, axes)


@captures("addmm")
def addmm(
    c: Call, input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: Any = 1, alpha: Any = 1
) -> str:
    """A dense layer as compilers write it."""
    if beta != 1 or alpha != 1:
        raise UnprovenError("`beta` and `alpha` must be 1")
    held = {"weight": c.constant(mat2).T, "bias": c.spread(input)}
    return c.add("linear", [c.name(mat1)], tensors=held)


@captures("conv1d", "conv2d", "conv3d")
def convolve(c: Call, input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1,
             padding: Any = 0, dilation: Any = 1, groups: int = 1) -> str:  # fmt: skip
    """A convolution with zero padding."""
    axes = _check_image(input, weight)
    gaps = _per_axis(dilation, axes)
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(gaps, weight.shape[2:], strict=True)]
        left = tuple(t // 2 for t in total)
        right = tuple(t - t // 2 for t in total)
    else:
        left = right = (0,) * axes if padding == "valid" else _per_axis(padding, axes)
    steps = _per_axis(stride, axes)
    check_steps(steps, input.shape[2:], left, right)
    args = {
        "stride": steps, "dilation": gaps, "groups": groups,
        "padding": padding_args("zeros", left, right),
    }  # fmt: skip
    held = {"weight": c.constant(weight), "bias": None if bias is None else c.constant(bias)}
    return c.add("conv", [c.name(input)], args=args, tensors=held)


@captures("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def convolve_transposed(c: Call, input: Tensor, weight: Tensor, bias: Tensor | None = None,
                        stride: Any = 1, padding: Any = 0, output_padding: Any = 0,
                        groups: int = 1, dilation: Any = 1) -> str:  # fmt: skip
    """A transposed convolution."""
    axes = _check_image(input, weight)
    values = {
        "stride": stride,
        "padding": padding,
        "output_padding": output_padding,
        "dilation": dilation,
    }
    args = {name: _per_axis(value, axes) for name, value in values.items()}
    args |= {"groups": groups, "wrap": None, "left": None}
    held = {"weight": c.constant(weight), "bias": None if bias is None else c.constant(bias)}
    return c.add("conv_transpose", [c.name(input)], args=args, tensors=held)


@captures("convolution")
def convolution(c: Call, input: Tensor, weight: Tensor, bias: Tensor | None, stride: Any,
                padding: Any, dilation: Any, transposed: bool, output_padding: Any,
                groups: int) -> str:  # fmt: skip
    """A convolution as compilers write it."""
    if transposed:
        return convolve_transposed(
            c, input, weight, bias, stride, padding, output_padding, groups, dilation
        )
    return convolve(c, input, weight, bias, stride, padding, dilation, groups)


# What nodes of ONNX are, as functions of torch.


@reads("Conv")
def _onnx_conv(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, auto_pad: str = "NOTSET",
               dilations: Any = None, group: int = 1, kernel_shape: Any = None, pads: Any = None,
               strides: Any = None) -> Tensor:  # fmt: skip
    steps, windows = steps_of(weight, kernel_shape, strides, dilations)
    left, right = sides_of(pads, x, windows, steps, auto_pad)
    if left != right:
        x = F.pad(x, torch_pads(left, right))
        left = [0] * len(left)
    return CONVOLUTIONS[len(left)](x, weight, bias, steps, left, dilations or 1, group)


@reads("ConvTranspose")
def _onnx_conv_transpose(x: Tensor, weight: Tensor, bias: Tensor | None = None, *,
                         auto_pad: str = "NOTSET", dilations: Any = None, group: int = 1,
                         kernel_shape: Any = None, output_padding: Any = None,
                         output_shape: Any = None, pads: Any = None,
                         strides: Any = None) -> Tensor:  # fmt: skip
    """Pads cut off the ends; where both sides differ, what one has more is cut off afterwards."""
    steps, windows = steps_of(weight, kernel_shape, strides, dilations)
    added = output_padding or [0] * len(steps)
    parts = list(zip(x.shape[2:], steps, windows, added, strict=True))
    whole = [s * (n - 1) + k + a for n, s, k, a in parts]
    if output_shape or auto_pad.startswith("SAME"):
        sizes = output_shape or [s * n for n, s, _, _ in parts]
        totals = [n - m for n, m in zip(whole, sizes[-len(whole) :], strict=True)]
        if min(totals) < 0:
            raise ValueError("its output must not be larger than its kernel makes it")
        left, right = shared_out(totals, "SAME_LOWER" if auto_pad == "NOTSET" else auto_pad)
    else:
        left, right = sides_of(pads, x, windows, steps, auto_pad)
    common = [min(a, b) for a, b in zip(left, right, strict=True)]
    function = TRANSPOSED_CONVOLUTIONS[len(steps)]
    y = function(x, weight, bias, steps, common, added, group, dilations or 1)
    for axis, (a, b, n, m) in enumerate(zip(left, right, common, whole, strict=True), start=2):
        y = y.narrow(axis, a - n, m - a - b) if a != b else y
    return y


@reads("Gemm")
def _gemm(x: Tensor, weight: Tensor, bias: Any = None, *, alpha: float = 1.0,
          beta: float = 1.0, transA: int = 0, transB: int = 0) -> Tensor:  # fmt: skip
    """A product and a bias; what is broadcast or has a factor is multiplied and added alone."""
    if x.dim() != 2 or weight.dim() != 2:
        raise ValueError("its input must be flat, and its weight a matrix")
    x, matrix = x.T if transA else x, weight if transB else weight.T
    if (alpha, beta) == (1.0, 1.0) and (bias is None or bias.shape == matrix.shape[:1]):
        return F.linear(x, matrix, bias)
    product = F.linear(x, matrix) if alpha == 1.0 else alpha * F.linear(x, matrix)
    return product if bias is None else product + (bias if beta == 1.0 else beta * bias)


reads("MatMul")(lambda a, b: torch.matmul(a, b))
