r"""Values that are split and joined, followed by parts.

A state of a value v says, for parts :math:`p_j` of earlier values (channels, rows or columns),

.. math:: |v - v'|^2 \le \sum_j c_j |p_j - p_j'|^2.

A step of Lipschitz constant g multiplies all :math:`c_j` by :math:`g^2`. Of values side by side
they add up. Of a sum f(a) + g(b) of two different parts a, b of one value they do as well:
:math:`(f |a| + g |b|)^2 \le (f^2 + g^2)(|a|^2 + |b|^2)`. The maximum and the minimum of the same
two values (MaxMin) hold their entries in another order, and the positive and the negative part of
one (CReLU) hold its moduli, so that both halves together count as what they are made of.

For the bound, parts of one value that do not meet count as the largest of them, not as their sum.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import final

from taut.linalg.rounding import up_product, up_root, up_sum
from taut.program._program import Node, Shape

__all__ = [
    "Half",
    "Part",
    "State",
    "expanded",
    "half_of",
    "joined",
    "merged",
    "pairs",
    "scaled",
    "total",
]


@final
@dataclass(frozen=True)
class Part:
    """A part of an earlier value: places of one axis, as the bits of a number; -1 are all."""

    name: str
    axis: int = 0
    places: int = -1


State = Mapping[Part, float]
"""The factors :math:`c_j`, by their parts."""


def scaled(state: State, gain: float) -> State:
    """After a step."""
    square = up_product(gain, gain)
    return {part: up_product(factor, square) for part, factor in state.items()}


def joined(states: Iterable[State]) -> State:
    """Of values side by side."""
    result: dict[Part, float] = {}
    for state in states:
        for part, factor in state.items():
            result[part] = up_sum(result.get(part, 0.0), factor)
    return result


def merged(one: State, two: State) -> State | None:
    """Of a sum of two values; None where each is not made of a part of its own."""
    if len(one) != 1 or len(two) != 1:
        return None
    (a,), (b,) = one, two
    apart = a.name == b.name and a.axis == b.axis and not a.places & b.places
    if not apart:
        return None
    factor = up_sum(one[a], two[b])
    return {Part(a.name, a.axis, a.places | b.places): factor}


def total(state: State, slopes: Mapping[str, float]) -> float:
    """The Lipschitz constant, from those of the values whose parts are read."""
    groups: dict[str, dict[int, list[tuple[int, float]]]] = {}
    for part, factor in state.items():
        groups.setdefault(part.name, {}).setdefault(part.axis, []).append((part.places, factor))
    squares = []
    for name, axes in groups.items():
        most = up_sum(*(_largest(pairs) for pairs in axes.values()))
        squares.append(up_product(most, slopes[name], slopes[name]))
    return up_root(up_sum(*squares))


def _largest(pairs: list[tuple[int, float]]) -> float:
    """The largest sum of factors at one place."""
    regions: list[tuple[int, float]] = []
    for places, factor in pairs:
        rest, found = places, []
        for region, sum_ in regions:
            if region & places:
                found.append((region & places, up_sum(sum_, factor)))
            if region & ~places:
                found.append((region & ~places, sum_))
            rest &= ~region
        regions = [*found, *([(rest, factor)] if rest else [])]
    return max((sum_ for _, sum_ in regions), default=0.0)


def expanded(state: State, states: Mapping[str, State]) -> State | None:
    """The state in terms of values one step further back; None where there is none."""
    first = {part.name for part in state if states[part.name] == {Part(part.name): 1.0}}
    if all(part.name in first for part in state):
        return None
    return joined(
        {part: factor} if part.name in first
        else {other: up_product(factor, more) for other, more in states[part.name].items()}
        for part, factor in state.items()
    )  # fmt: skip


@final
@dataclass(frozen=True)
class Half:
    """One of two values that together hold the entries of others in another order, or less.

    The maximum and the minimum of two values; the positive and the negative part of one.

    Attributes:
        sources: names of the values, and of the kind.
        role: which half.
        read: names of the values.
    """

    sources: frozenset[str]
    role: str
    read: tuple[str, ...]


def half_of(node: Node, before: Node | None, shapes: Mapping[str, Shape]) -> Half | None:
    """What half a value is, if it is one; `before` made what it reads."""
    same = all(shapes[name] == node.shape for name in node.inputs)
    if node.op in ("maximum", "minimum") and same and len(node.inputs) == 2:
        return Half(frozenset(node.inputs), node.op, node.inputs)
    if node.op != "relu":
        return None
    negated = before is not None and (before.op == "neg" or before.args.get("factor") == -1)
    read = before.inputs if before is not None and negated else node.inputs
    return Half(frozenset((*read, "\0relu")), "below" if negated else "above", read)


def pairs(halves: Iterable[Half | None]) -> dict[int, int]:
    """Which of some values are the halves of one, by their numbers."""
    known: dict[frozenset[str], dict[str, int]] = {}
    for number, half in enumerate(halves):
        if half is not None:
            known.setdefault(half.sources, {})[half.role] = number
    found = (list(roles.values()) for roles in known.values() if len(roles) == 2)
    return {first: second for first, second in found}
