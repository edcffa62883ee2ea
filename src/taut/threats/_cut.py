r"""A certified program cut behind its first affine part.

A program is :math:`f = h \circ A` for the last value v that is affine in the input, and that all
later operations read the input through. A change of the input counts by how far it moves v, and
each pair of logits by its constant as a function of v. So for a set S of changes

.. math:: |(z_i - z_j)(x + \delta) - (z_i - z_j)(x)| \le L^h_{ij} \sup_{\delta \in S} \|A \delta\|,

which is at most the bound from the whole program, :math:`L_{ij} \sup_S \|\delta\|`, where the first
layers have a smaller norm on S than elsewhere.
"""

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from taut.certification import Certificate, class_bound
from taut.program import (
    LipschitzBound,
    Program,
    UnprovenError,
    compose,
    head_of,
    layers_of,
    operation,
    pairs_of,
    replay,
)

__all__ = ["Cut", "cut_of"]


@final
@dataclass(frozen=True, eq=False)
class Cut:
    """A certified program as a function of a value that is affine in the input.

    Attributes:
        certificate: of the whole program.
        first: the affine program up to the value.
        norm: Lipschitz constant of `first`.
        error: (a, b): a value that is computed in float64 is off by at most a |x| + b.
        rest: bound of the logits as functions of the value.
        affine: whether the logits are affine in the input, and `first` gives them.
    """

    certificate: Certificate
    first: Program
    norm: float
    error: tuple[float, float]
    rest: LipschitzBound
    affine: bool = False

    def value(self, images: Tensor) -> Tensor:
        """The value for a batch, computed in float64, one row an image."""
        with torch.no_grad():
            return replay(self.first, images.detach().cpu().double()).flatten(1)


def cut_of(certificate: Certificate) -> Cut:
    """Cut a certified program behind its first affine part.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU())
        >>> cut_of(taut.certification.prove(model, (3,))).first.output
        '0'
    """
    program = certificate.program
    ends = _ends(program)
    if ends and ends[-1] == program.output:
        whole = _cut(certificate, program.output)
        if whole is not None:
            return replace(whole, affine=True)
    head = head_of(program)
    order = [node.name for node in program.nodes]
    last = len(order) if head is None else order.index(head.node)
    for name in [name for name in ends[::-1] if order.index(name) < last]:
        cut = _cut(certificate, name)
        if cut is not None:
            return cut
    first = replace(program, nodes=(), output=program.source)
    return Cut(certificate, first, 1.0, (0.0, 0.0), certificate.class_bound)


def _ends(program: Program) -> list[str]:
    """Affine values that all later operations read the input through."""
    affine, ends = {program.source}, []
    for site in program.sites():
        if operation(site).affine and affine.issuperset(site.node.inputs):
            affine.add(site.node.name)
    for place, node in enumerate(program.nodes):
        before = {program.source, *(earlier.name for earlier in program.nodes[:place])}
        later = program.nodes[place + 1 :]
        read = {name for one in later for name in one.inputs} | {program.output}
        if node.name in affine and not read & before:
            ends.append(node.name)
    return ends


def _cut(certificate: Certificate, name: str) -> Cut | None:
    """The cut behind one value; None where its rounding has no proof."""
    program = certificate.program
    place = [node.name for node in program.nodes].index(name) + 1
    first = replace(program, nodes=program.nodes[:place], output=name)
    try:
        rows = layers_of(first, real=False)
        composed = compose(rows, program.source, name, "float64")
    except UnprovenError:
        return None
    shape = program.shapes[name]
    rest = replace(program, nodes=program.nodes[place:], input_shape=shape, source=name)
    inside = {name, *(node.name for node in rest.nodes)}
    folds = {
        fold.name: (fold.input, fold.gain)
        for fold in certificate.folds
        if {fold.name, fold.input} <= inside and fold.name != name
    }
    layers = [layer for layer in certificate.layers if layer.name in inside - {name}]
    found = compose(layers, name, program.output, "real", folds)
    bound = LipschitzBound(found.lipschitz, pairwise=pairs_of(rest, found.constants))
    bound = class_bound(bound, certificate.output_shape)
    return Cut(certificate, first, composed.lipschitz, composed.error, bound)
