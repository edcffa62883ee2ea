r"""What is known of potential residual and sandwich layers as one operation.

Both are :math:`y = [x -] A^* q \varphi(p B x + b)` with factors p, q > 0 of the hidden channels and
slopes of :math:`\varphi` in [0, 1]. With :math:`\tau = \max_i p_i q_i / 2`, the function
:math:`q \varphi(p \, \cdot + b)` is 2 h with slopes of h in :math:`[0, \tau]`. The proofs are in
docs/proofs.md, section 11:

*Potential residual*, A = B = C: with :math:`k = \tau \|C\|^2`, :math:`L^2 \le 1 + 4 k \max(0, k -
1)`, so that L is at most 1, or 2 k - 1.

*Sandwich*: L is at most :math:`k = \tau \|Q\|^2` with :math:`Q = [A\ B]`.

*Rounding*. An entry of the sum :math:`|x| + |A|^* q (p |B| |x| + |b|)` passes as many roundings as
are counted below. Its matrix has a norm of at most :math:`1 + 2 \tau a^2`, or :math:`\tau a^2`, for
the norm a of the absolute values of C or Q. What underflow loses is less than what is granted for
`TINY` more in each bias and in that norm, as long as factors are not too far from 1.
"""

import math
from abc import abstractmethod
from dataclasses import replace
from fractions import Fraction
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from taut.linalg.adjoint import AdjointOperator
from taut.linalg.convolution import ConvOperator
from taut.linalg.embedding import embedding, polyphase
from taut.linalg.operator import NormBound, exact_tensor
from taut.linalg.padding import Padding
from taut.linalg.rounding import up, up_product, up_root, up_sum
from taut.program import (
    AbstractOp,
    Node,
    Rounding,
    Site,
    UnprovenError,
    norm_upper,
    op,
    operation,
    parts_of,
    widened,
)

TINY = 2.0**-60
"""What the bias and the absolute values are enlarged by, for underflow."""

FAR = 2.0**30
"""Factors of hidden channels that are farther from 1 are not certified in floats."""


class AbstractResidual(AbstractOp):
    """An operation of a convolution, a function of each entry, and a transposed convolution."""

    inner, outer = "weight", "weight"
    skips: ClassVar[int]
    """1 if what the steps make is taken from the input, else 0."""

    @abstractmethod
    def kernel(self, site: Site) -> ConvOperator:
        """C or Q."""

    def parts(self, site: Site) -> tuple[Node, ...]:
        """The steps one after the other."""
        steps = _Steps(site)
        args, held = site.args, site.node.tensors
        flat = "bias" in held and site.tensors["bias"].dim() == 1
        bias = {"bias": held["bias"]} if flat else {}
        hidden = (len(site.tensors[self.inner]), *_windows(site, self.inner))
        steps.add("conv", hidden, args["inner"], {"weight": held[self.inner]} | bias)
        if "before" in held:
            steps.add("scale", hidden, {}, {"factor": held["before"]})
        if "bias" in held and not flat:
            add = {"factors": [1.0], "constant": 1.0}
            steps.add("add", hidden, add, {"constant": held["bias"]})
        if args["activation"]["op"] != "identity":
            steps.add(args["activation"]["op"], hidden, args["activation"]["args"])
        if "after" in held:
            steps.add("scale", hidden, {}, {"factor": held["after"]})
        elif args["factor"] != 1.0:
            steps.add("scale", hidden, {"factor": args["factor"]})
        written = _written(site, self.outer, hidden)
        steps.add("conv_transpose", written, args["outer"], {"weight": held[self.outer]})
        for axis, (n, m) in enumerate(zip(site.shape[1:], written[1:], strict=True), start=1):
            if n < m:
                written = (*written[:axis], n, *written[axis + 1 :])
                steps.add("slice", written, {"axis": axis, "start": 0, "stop": n, "step": 1})
        return self.last(steps, site)

    def last(self, steps: "_Steps", site: Site) -> tuple[Node, ...]:
        """All steps, with what follows the transposed convolution."""
        return steps.named()

    def run(self, site: Site, *x: Tensor) -> Tensor:
        """Step after step."""
        values = {site.node.inputs[0]: x[0]}
        for part in parts_of(site):
            inputs = (values[name] for name in part.node.inputs)
            values[part.node.name] = operation(part).run(part, *inputs)
        return values[site.node.name]

    def emit(self, e: Any, site: Site, *x: str) -> None:
        """Step after step."""
        if e.any_size:
            raise ValueError("it is written for images of one size")
        for part in parts_of(site):
            e.add(part)

    def share(self, site: Site) -> Fraction:
        r""":math:`\tau`."""
        pairs = zip(_factors(site, "before"), _factors(site, "after"), strict=True)
        return max(Fraction(p) * Fraction(q) for p, q in pairs) / 2

    def rounding(self, site: Site) -> Rounding:
        """See the head of the file."""
        sites = parts_of(site)
        conv = sites[0]
        outer = next(part for part in sites if part.node.op == "conv_transpose")
        middle = [part for part in sites if part.node.op == site.args["activation"]["op"]]
        own = operation(middle[0]).rounding(middle[0]) if middle else Rounding(0, 1.0)
        before, after = (_factors(site, role) for role in ("before", "after"))
        share, before = self.share(site), max(before)
        if before > FAR or min(after) < share / FAR:
            raise UnprovenError("factors of hidden channels are above 2^30, or below 2^-30")
        fans = (operation(part).operator(part) for part in (conv, outer))
        count = sum(operator.fan_in for operator in fans if operator is not None)
        square = share * Fraction(self.kernel(site).abs_norm_bound()) ** 2
        # No intermediate result may be above what the norm of the absolute values promises.
        least = max(Fraction(before) ** 2 / share, 4 * share) / (1 + self.skips)
        absolute = up(max(self.skips + (1 + self.skips) * square, least) + Fraction(TINY))
        granted = (Fraction(absolute) - self.skips - Fraction(TINY)) / ((1 + self.skips) * share)
        scale = up_product(max(1.0, *after), max(1.0, up_root(up(granted))))
        channels, *size = conv.shape
        bias = norm_upper(site.tensors["bias"]) if "bias" in site.tensors else 0.0
        bias = up_sum(bias, up_product(TINY, up_root(float(channels))))
        constant = up_sum(up_product(bias, up_root(float(math.prod(size)))), own.constant)
        return Rounding(count + own.count + 8, absolute, up_product(scale, constant))

    def gains(self, site: Site) -> tuple[NormBound, ...]:
        """See the head of the file."""
        kernel = self.kernel(site)
        bound = kernel.norm_bound()
        # Whoever checks a certificate proves the norm of the kernel anew, from the gain.
        norm = widened(bound.value, max(kernel.kernel.shape[:2]))
        k = self.share(site) * Fraction(norm) ** 2
        gain = max(1.0, up(2 * k - 1)) if self.skips else up(k)
        return (NormBound(gain, f"{self.proof}: {bound.proof}"),)


@op("potential_residual")
@final
class PotentialResidualOp(AbstractResidual):
    """x - C* q f(p C x + b)."""

    proof = "slopes in [0, 1] between a kernel and its adjoint"
    skips = 1

    def kernel(self, site: Site) -> ConvOperator:
        """The convolution C."""
        return _inner(site)

    def last(self, steps: "_Steps", site: Site) -> tuple[Node, ...]:
        """The difference."""
        args = {"factors": [1.0, -1.0], "constant": 0.0}
        steps.add("add", site.shape, args, inputs=(site.node.inputs[0], steps.at))
        return steps.named()


@op("sandwich")
@final
class SandwichOp(AbstractResidual):
    """A* q f(p B x + b)."""

    proof = "slopes in [0, 1] between two parts of a kernel"
    skips = 0

    inner, outer = "inner", "outer"

    def kernel(self, site: Site) -> ConvOperator:
        r"""The convolution :math:`Q = [A\ B]` on a torus that holds all windows of both.

        Strides are undone by phases of the stride as channels; where windows lie on the torus does
        not matter, as shifts do not change :math:`Q Q^*`.
        """
        outer = next(part for part in parts_of(site) if part.node.op == "conv_transpose")
        adjoint = operation(outer).operator(outer)
        assert isinstance(adjoint, AdjointOperator)
        assert isinstance(adjoint.op, ConvOperator)
        ops = (adjoint.op, _inner(site))
        plain, dilation = (1,) * len(ops[0].stride), ops[0].dilation
        kernels = [polyphase(op.kernel, op.stride, plain) for op in ops]
        taps = [max(sizes) for sizes in zip(*(k.shape[2:] for k in kernels), strict=True)]
        joined = torch.cat([_with_taps(kernel, taps) for kernel in kernels], 1)
        tori = [embedding(op)[0] for op in ops]
        torus = tuple(map(max, *tori)) if len(plain) else ()
        behind = tuple(d * (k - 1) for d, k in zip(dilation, taps, strict=True))
        padding = Padding("circular", (0,) * len(taps), behind)
        return ConvOperator(joined, torus, plain, dilation, ops[0].groups, padding)


@final
class _Steps:
    """Nodes one after the other, with names made from that of a site."""

    def __init__(self, site: Site) -> None:
        self.site, self.nodes, self.at = site, [], site.node.inputs[0]

    def add(
        self,
        op: str,
        shape: tuple[int, ...],
        args: Any,
        tensors: dict[str, str] | None = None,
        inputs: tuple[str, ...] = (),
    ) -> None:
        """Add a step, of the step before by default."""
        name, node = f"{self.site.node.name}__{len(self.nodes)}", self.site.node
        inputs = inputs or (self.at,)
        made = Node(name, op, inputs, tuple(shape), dict(args), tensors or {}, op, node.path)
        self.nodes.append(made)
        self.at = name

    def named(self) -> tuple[Node, ...]:
        """All of them; the last has the name of the site."""
        name = self.site.node.name
        return (*self.nodes[:-1], replace(self.nodes[-1], name=name))


def _inner(site: Site) -> ConvOperator:
    """The convolution, which is the first step."""
    conv = parts_of(site)[0]
    operator = operation(conv).operator(conv)
    assert isinstance(operator, ConvOperator)
    return operator


def _windows(site: Site, role: str) -> tuple[int, ...]:
    args, taps = site.args["inner"], site.tensors[role].shape[2:]
    sides = [args["padding"][side] for side in ("left", "right", "extend")]
    axes = zip(site.shapes[0][1:], *sides, taps, args["stride"], args["dilation"], strict=True)
    return tuple((n + a + b + e - d * (k - 1) - 1) // s + 1 for n, a, b, e, k, s, d in axes)


def _written(site: Site, role: str, hidden: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of what the transposed convolution makes."""
    args, weight = site.args["outer"], site.tensors[role]
    none = [0] * (len(hidden) - 1)
    sides = args["wrap"] or [none, none]
    axes = zip(
        hidden[1:], *sides, weight.shape[2:], args["stride"], args["dilation"], args["padding"],
        args["output_padding"], strict=True,
    )  # fmt: skip
    sizes = ((n + a + b - 1) * s + d * (k - 1) + 1 - 2 * p + o for n, a, b, k, s, d, p, o in axes)
    return weight.shape[1] * args["groups"], *sizes


def _factors(site: Site, role: str) -> list[float]:
    """The factors of the hidden channels."""
    if role in site.tensors:
        return exact_tensor(role, site.tensors[role]).flatten().tolist()
    number = site.args["factor"] if role == "after" else 1.0
    return [number] * len(next(iter(site.tensors.values())))


def _with_taps(kernel: Tensor, taps: list[int]) -> Tensor:
    """Zeros behind the taps."""
    pads = [n for k, size in zip(taps, kernel.shape[2:], strict=True) for n in (k - size, 0)]
    return torch.nn.functional.pad(kernel, pads[::-1])
