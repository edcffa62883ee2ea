r"""How averaged a map is, proved from its graph.

A map D is :math:`\alpha`-averaged if :math:`D = (1 - \alpha) I + \alpha N` with N nonexpansive. Let
:math:`D = a I + R` with :math:`a \ge 0` and R r-Lipschitz, and :math:`a + r \le 1`. Then
:math:`\alpha = 1 - a` is such a number: N is :math:`R / \alpha`, of constant
:math:`r / (1 - a) \le 1`.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

from torch import nn

from taut._arguments import is_number, rational
from taut.linalg.rounding import up
from taut.program import PASSES, Node, Program, UnprovenError, bound_of, trace

__all__ = ["averagedness", "composed_averagedness"]


def averagedness(module: nn.Module, input_shape: tuple[int, ...]) -> float:
    r"""Prove that a map is averaged, and how much: :math:`(1 - \alpha) I + \alpha N`.

    The map must end in a sum in which its input counts with some factor a, as that of
    :class:`taut.nn.Averaged` and :class:`taut.nn.ConvexResidual` do, or plain code such as
    `0.5 * x + 0.5 * f(x)`. The rest of the sum is bounded by the rules of
    :func:`taut.lipschitz_bound`; with a bound of at most `1 - a` the map is `1 - a`-averaged. A map
    that is only 1-Lipschitz has the number 1.

    Guarantee: a proof for the weights as they are, in real arithmetic; sums and comparisons of the
        proof are exact.
    Cost: that of :func:`taut.lipschitz_bound`.

    Args:
        module: keeps the shape of its input.
        input_shape: shape of one input, without the batch.

    Returns:
        A number in [0, 1]: 1/2 or less is firmly nonexpansive, below 1 is averaged, 1 is
        nonexpansive.

    Raises:
        UnprovenError: (a NotImplementedError and ValueError) if the map has no proven constant, or
            one above 1.
        ValueError: if it changes the shape of its input.

    Reference:
        Combettes, Yamada (2015), *Compositions and convex combinations of averaged nonexpansive
        operators*, definition 1.1; arXiv:1407.5100.

    Example:
        >>> averagedness(taut.nn.Averaged(nn.ReLU(), weight=0.25), (3,))
        0.25
        >>> averagedness(nn.ReLU(), (3,))
        1.0
    """
    program = trace(module, input_shape)
    shape = program.shapes[program.output]
    if shape != program.input_shape:
        raise ValueError(
            f"`module` must keep the shape of its input; got {shape} for {program.input_shape}."
        )
    factors = _terms(program)
    share = max(Fraction(0), factors.get(program.source, Fraction(0)))
    rest = -share + sum(abs(f) * _bound(program, name) for name, f in factors.items())
    if share + rest > 1:
        raise UnprovenError(
            f"The map is not proven to be averaged: its input counts with a factor of "
            f"{float(share):.6g}, the rest has the bound {float(rest):.6g}, and their sum "
            f"must be at most 1."
        )
    return up(1 - share)


def composed_averagedness(*alphas: float) -> float:
    r"""How averaged a composition of averaged maps is, in any order.

    :math:`(\alpha + \beta - 2 \alpha \beta) / (1 - \alpha \beta)` for two, and so on.

    Args:
        alphas: one number in [0, 1] for each map.

    Returns:
        A number in [0, 1], never below the exact one; 1 if one of them is.

    Raises:
        ValueError: if a number is outside of [0, 1].

    Reference:
        Combettes, Yamada (2015), *Compositions and convex combinations of averaged nonexpansive
        operators*, section 2; arXiv:1407.5100.

    Example:
        >>> round(composed_averagedness(0.5, 0.5), 4)
        0.6667
    """
    total = Fraction(0)
    for alpha in alphas:
        beta = rational(alpha) if is_number(alpha) else None
        if beta is None or not 0 <= beta <= 1:
            raise ValueError(f"`alphas` must be numbers in [0, 1]; got {alpha!r}.")
        if 1 in (total, beta):
            return 1.0
        total = (total + beta - 2 * total * beta) / (1 - total * beta)
    return up(total)


def _terms(program: Program) -> dict[str, Fraction]:
    """The output as a sum of multiples of values; constants left out, equal values added up."""
    terms = {program.output: Fraction(1)}
    for node in reversed(program.nodes):
        whole = all(program.shapes[name] == node.shape for name in node.inputs)
        factors = list(_factors(node)) if whole and node.name in terms else []
        if factors:
            outer = terms.pop(node.name)
            for name, factor in zip(node.inputs, factors, strict=True):
                terms[name] = terms.get(name, Fraction(0)) + outer * factor
    return terms


def _factors(node: Node) -> Iterator[Fraction]:
    """The numbers that a sum or a multiple multiplies its inputs by."""
    if node.op == "add":
        yield from map(Fraction, node.args["factors"])
    elif node.op == "scale" and not node.tensors:
        yield Fraction(node.args["factor"])
    elif node.op == "divide" and not node.tensors:
        yield 1 / Fraction(node.args["divisor"])


def _bound(program: Program, name: str) -> Fraction:
    """The proven constant of one value of a program; 1 for the input itself."""
    bound = float(bound_of(_up_to(program, name), passes=PASSES))
    if math.isinf(bound):
        raise UnprovenError(f"`{name}` has no finite bound.")
    return Fraction(bound)


def _up_to(program: Program, name: str) -> Program:
    """The part of a program that computes one value."""
    made, needed, open_ = {node.name: node for node in program.nodes}, set(), [name]
    while open_:
        if (node := made.get(open_.pop())) is not None and node.name not in needed:
            needed.add(node.name)
            open_ += node.inputs
    nodes = tuple(node for node in program.nodes if node.name in needed)
    return replace(program, nodes=nodes, output=name)
