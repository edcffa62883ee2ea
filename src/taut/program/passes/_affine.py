r"""Affine neighbours as one map: a value as a sum of convolutions of earlier values.

Let a value be affine in others, :math:`v = \sum_i T_i u_i + c`. Where each :math:`T_i` is made of
convolutions, matrices, factors and choices of channels, sums and stacks, it is one convolution with
a kernel of finite size (see `taut.linalg.computed_kernel`), and

.. math:: |v - v'| \le \sum_i \|T_i\| |u_i - u'_i|,

or the root of the sum of the squares where the maps write to channels of their own. Norms of the
parts are never multiplied: :math:`\|A B\| \le \|A\| \|B\|`, so that the bound is none the worse.
Where no kernel of finite size does the same, a new sum starts at the value that is read.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import final

import torch

from taut.linalg.computed_kernel import ComputedKernel
from taut.program._program import Program, Shape, Site
from taut.program._walk import operation

__all__ = ["Term", "Terms", "affine_terms", "are_apart"]

_MOST = 8
"""Earlier values that a sum is made of, at most."""


@final
@dataclass(frozen=True)
class Term:
    """A convolution of an earlier value.

    Attributes:
        map: the convolution.
        last: whether the channels are the last axis of a sample, not the first.
        nodes: names of the operations that it is made of, in their order.
        name: of the operation after which its norm no longer changed.
    """

    map: ComputedKernel
    last: bool
    nodes: tuple[str, ...]
    name: str


Terms = Mapping[str, Term]
"""Convolutions by the names of the values that they read; empty for a value that is none."""


def affine_terms(program: Program) -> dict[str, Terms]:
    """Each value as a sum of convolutions of earlier ones, as few and as far back as they go."""
    terms: dict[str, Terms] = {program.source: {}}
    for site in program.sites():
        terms[site.node.name] = _terms_of(site, terms)
    return terms


def _terms_of(site: Site, known: Mapping[str, Terms]) -> Terms:
    node = site.node
    if not operation(site).affine or not node.shape:
        return {}
    if node.op == "add" and len(node.inputs) == 2:
        return _sum(site, known)
    if node.op == "concat":
        return _stack(site, known)
    if len(node.inputs) != 1:
        return {}
    (read,) = node.inputs
    for last in (False, True):
        step = operation(site).as_kernel(site, last=last)
        if step is None or not step.is_moderate:
            continue
        term = Term(step, last, (node.name,), node.name)
        return _after(term, known[read]) or {read: term}
    return {}


def _after(step: Term, terms: Terms) -> Terms:
    """A step after a sum; empty where it cannot be composed with each part."""
    result = {}
    for source, term in terms.items():
        composed = step.map.after(term.map) if step.last == term.last else None
        if composed is None:
            return {}
        result[source] = Term(composed, term.last, (*term.nodes, *step.nodes), step.name)
    return result


def _sum(site: Site, known: Mapping[str, Terms]) -> Terms:
    """X + f y."""
    last = _layout(site, known)
    total: Terms = {}
    for name, factor, shape in zip(
        site.node.inputs, site.args["factors"], site.shapes, strict=True
    ):
        if shape != site.shape:
            return {}
        scaled = _scaled(known, name, factor, shape, last=last, node=site.node.name)
        total = _plus(total, scaled, site.node.name) if scaled else {}
        if not total:
            return {}
    return total


def _layout(site: Site, known: Mapping[str, Terms]) -> bool:
    """Where the channels of what is read are; the first axis, unless a part says otherwise."""
    said = [term.last for name in site.node.inputs for term in known[name].values()]
    return bool(said) and all(said)


def _scaled(
    known: Mapping[str, Terms], name: str, factor: float, shape: Shape, *, last: bool, node: str
) -> Terms:
    """A multiple of a value, as a sum of convolutions of earlier ones or of itself."""
    if factor == 1.0 and known[name]:
        return known[name]
    channels = shape[-1] if last else shape[0]
    factors = torch.full((channels,), float(factor), dtype=torch.float64, device="cpu")
    step = Term(ComputedKernel.channelwise(factors, () if last else shape[1:]), last, (node,), node)
    return (_after(step, known[name]) if known[name] else {}) or {name: step}


def _plus(one: Terms, two: Terms, node: str) -> Terms:
    """The sum of two sums; empty where two parts of one value do not add up to a convolution."""
    if len({term.last for term in (*one.values(), *two.values())}) > 1:
        return {}
    total = dict(one)
    for source, term in two.items():
        if source not in total:
            total[source] = term
            continue
        other = total[source]
        composed = other.map.plus(term.map) if other.last == term.last else None
        if composed is None:
            return {}
        nodes = tuple(dict.fromkeys((*other.nodes, *term.nodes)))
        total[source] = Term(composed, term.last, nodes, node)
    return total if len(total) <= _MOST else {}


def _stack(site: Site, known: Mapping[str, Terms]) -> Terms:
    """Channels of several values side by side; constants count as zeros."""
    last = _layout(site, known)
    axis = len(site.shape) - 1 if last else 0
    if site.args["axis"] != axis:
        return {}
    sizes = [
        site.shapes[part][axis] if isinstance(part, int) else site.tensors[part].shape[axis]
        for part in site.args["parts"]
    ]
    total: Terms = {}
    for place, part in enumerate(site.args["parts"]):
        if not isinstance(part, int):
            continue
        before, behind = sum(sizes[:place]), sum(sizes[place + 1 :])
        name, shape = site.node.inputs[part], site.shapes[part]
        moved = {}
        for source, term in _scaled(
            known, name, 1.0, shape, last=last, node=site.node.name
        ).items():
            composed = term.map.rows(before, behind)
            if composed is None:
                return {}
            moved[source] = replace(term, map=composed)
        total = _plus(total, moved, site.node.name) if total else moved
        if not total:
            return {}
    return total


def are_apart(terms: Terms) -> bool:
    """Whether the parts of a sum write to channels of their own."""
    if any(term.map.transposed for term in terms.values()):
        return False
    writers = [term.map.writes.int() for term in terms.values()]
    return bool((torch.stack(writers).sum(0) <= 1).all())
