"""The truncated exponential of a skew convolution, as one operation."""

import math
from typing import Any

import torch
from torch import Tensor

from taut.linalg.convolution import ConvOperator
from taut.linalg.geometry import CONVOLUTIONS
from taut.linalg.operator import NormBound
from taut.linalg.padding import Padding
from taut.linalg.series import RADII, SeriesOperator
from taut.program._op import AbstractOp, Rounding, like, op
from taut.program._program import LARGEST, Site
from taut.program._result import UnprovenError
from taut.program._rounding import operator_rounding
from taut.program.ops._image_padding import padded

__all__: list[str] = []


@op("skew_exponential")
class SkewExponential(AbstractOp):
    r"""x -> S(J) x + bias with :math:`S(J) = \sum_{j \le m} J^j / j!` for the `degree` m.

    J is the convolution with the skew kernel `weight`, :math:`J^\top = -J`. It is computed as
    :math:`y_m = x`, :math:`y_{j-1} = x + J y_j / j`; the last convolution adds the bias.
    """

    affine = True
    helper = '''
def skew_exponential(x, weight, bias, degree, dilation, groups, mode):
    """The sum of J^j x / j! up to the degree, J the convolution with the weight; and the bias."""
    convolve = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[weight.dim()]
    sides = [d * (k // 2) for d, k in zip(dilation, weight.shape[2:])]
    y = x
    for j in range(degree, 0, -1):
        last, pads = bias if j == 1 else None, sides
        if mode == "circular" and any(sides):
            y, pads = F.pad(y, [n for side in sides[::-1] for n in (side, side)], mode), 0
        y = torch.add(x, convolve(y, weight, last, 1, pads, dilation, groups), alpha=1 / j)
    return y
'''

    def operator(self, site: Site) -> SeriesOperator:
        """The series of the convolution on the image of this size."""
        args, steps = site.args, tuple(site.args["dilation"])
        convolution = ConvOperator(
            site.tensors["weight"], site.shapes[0][1:], (), steps, args["groups"], _padding(site)
        )
        return SeriesOperator.exponential(convolution, _degree(site))

    def bounds(self, site: Site) -> tuple[NormBound, ...]:
        """From the norm of J alone, as whoever checks a certificate repeats it."""
        return (self.operator(site).power_bound(),)

    def rounding(self, site: Site) -> Rounding:
        r"""Each step rounds the convolution, its factor 1/j, their product, and the sum.

        No intermediate result exceeds :math:`S(|J|) |x|`: that of :math:`J y_j` is the sum of
        :math:`J^{k+1} x j! / (j + k)!`, with factors of at most :math:`1 / (k + 1)!`.
        A value that underflows in step j passes :math:`|J|^{j-1} / (j-1)!` at most: the factors of
        all steps together are at most the norm of :math:`S(|J|)`, which must be moderate for the
        room that a program leaves for underflow.
        """
        series = self.operator(site)
        known, degree = operator_rounding(series, site), _degree(site)
        if not known.absolute <= 10 * degree:
            raise UnprovenError("the absolute values of its kernel have too large a norm")
        return Rounding(degree * (series.op.fan_in + 5), known.absolute, known.constant)

    def run(self, site: Site, *x: Tensor) -> Tensor:
        """Step after step."""
        args, y, padding = site.args, x[0], _padding(site)
        weight, bias = like(site.tensors["weight"], y), site.tensors.get("bias")
        bias = None if bias is None else like(bias, y)
        pads = zip(site.shape[1:], padding.left, strict=True)
        if site.shape[0] * math.prod(n + 2 * side for n, side in pads) > LARGEST:
            raise ValueError(f"it pads its image to more than {LARGEST} numbers")
        circular, convolve = padding.mode == "circular", CONVOLUTIONS[len(padding.left)]
        sides = [0] * len(padding.left) if circular else list(padding.left)
        for j in range(_degree(site), 0, -1):
            image, last = padded(y, padding) if circular else y, bias if j == 1 else None
            step = convolve(image, weight, last, 1, sides, args["dilation"], args["groups"])
            y = torch.add(x[0], step, alpha=1 / j)
        return y

    def emit(self, e: Any, site: Site, *x: str) -> None:
        """A chain of convolutions, products and sums."""
        args, sides = site.args, list(_wrapped_once(site).left)
        options = {"dilations": args["dilation"], "group": args["groups"]}
        circular = args["mode"] == "circular" and any(sides)
        options["pads"] = [0] * (2 * len(sides)) if circular else [*sides, *sides]
        y = x[0]
        for j in range(args["degree"], 0, -1):
            image = e.pad(f"padded{j}", y, sides, sides, "wrap") if circular else y
            roles = ("weight", "bias") if j == 1 else ("weight",)
            y = e.node("Conv", [image, *e.held(site, *roles)], f"conv{j}", **options)
            if j > 1:
                y = e.node("Mul", [y, e.number(f"factor{j}", 1 / j)], f"scaled{j}")
            y = e.node("Add", [x[0], y], f"sum{j}" if j > 1 else "")

    def source(self, site: Site, *x: str) -> str:
        """A call of the helper."""
        _wrapped_once(site)
        args, name = site.args, site.node.name
        bias = f"self.{name}_bias" if "bias" in site.tensors else "None"
        rest = f"{args['degree']}, {args['dilation']}, {args['groups']}, {args['mode']!r}"
        return f"skew_exponential({x[0]}, self.{name}_weight, {bias}, {rest})"


def _degree(site: Site) -> int:
    """The degree, one of those that are recognised: a file may say anything."""
    degree = site.args["degree"]
    if degree not in RADII:
        raise UnprovenError(f"its degree must be one of {', '.join(map(str, RADII))}")
    return degree


def _padding(site: Site) -> Padding:
    """Half the kernel on each side."""
    taps = zip(site.args["dilation"], site.tensors["weight"].shape[2:], strict=True)
    sides = tuple(d * (k // 2) for d, k in taps)
    return Padding(site.args["mode"], sides, sides)


def _wrapped_once(site: Site) -> Padding:
    padding = _padding(site)
    if any(side > n for side, n in zip(padding.left, site.shape[1:], strict=True)):
        raise ValueError("its circular padding is larger than the image")
    return padding
