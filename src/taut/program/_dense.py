r"""The matrix of neighbouring affine operations, and a bound of its norm.

Let v be affine in one earlier value u of n entries, by several operations. Each column of the
computed matrix D is the image of a unit vector less that of 0, both computed; by `compose` each of
both is off by at most :math:`a + b`, and their difference is rounded once. So
:math:`\|T\| \le \|D\| + \sqrt n\, e` with :math:`e = 2 (a + b) + u \|D\|_F`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from taut.linalg.cholesky import torus_bound
from taut.linalg.gram import gram_kernel
from taut.linalg.operator import DENSE_PROOF, NormBound, plain_sums
from taut.linalg.rounding import U64, power_of_two, up_product, up_root, up_sum
from taut.program._compose import compose
from taut.program._program import Program, Site
from taut.program._replay import replay
from taut.program._result import UnprovenError
from taut.program._walk import layers_of, operation

__all__ = ["Region", "dense_matrix", "matrix_and_error", "region_bound", "small_region"]


@final
@dataclass(frozen=True)
class Region:
    """Several affine operations that read one earlier value.

    Attributes:
        source: the value that they read.
        nodes: their names, in their order.
    """

    source: str
    nodes: tuple[str, ...]


def small_region(program: Program, sites: Mapping[str, Site], name: str) -> Region | None:
    """All affine operations behind a value, up to the one value that they read.

    None where they read several, are fewer than two, or have a large matrix.
    """
    nodes, sources = _region(program, sites, name)
    if len(sources) != 1 or len(nodes) < 2:
        return None
    (source,) = sources
    shapes = program.shapes
    inputs, outputs = math.prod(shapes[source]), math.prod(shapes[name])
    widest = max(math.prod(shapes[node]) for node in nodes)
    if inputs * outputs > DENSE_PROOF or inputs * widest > 16 * DENSE_PROOF:
        return None
    return Region(source, nodes)


def region_bound(program: Program, sites: Mapping[str, Site], region: Region) -> NormBound | None:
    """The bound of the matrix of a region; None where its rounding has no proof."""
    part = replace(
        program,
        nodes=tuple(sites[node].node for node in region.nodes),
        input_shape=program.shapes[region.source],
        source=region.source,
        output=region.nodes[-1],
    )
    try:
        return _proven(part)
    except UnprovenError:
        return None


def _region(
    program: Program, sites: Mapping[str, Site], name: str
) -> tuple[tuple[str, ...], set[str]]:
    """The affine operations behind a value, and the values that they read."""
    inside, sources, open_ = set(), set(), [name]
    while open_:
        node = open_.pop()
        if node == program.source or not operation(sites[node]).affine:
            sources.add(node)
        elif node not in inside:
            inside.add(node)
            open_ += sites[node].node.inputs
    return tuple(node for node in sites if node in inside), sources


def _proven(region: Program) -> NormBound | None:
    matrix, column = matrix_and_error(region)
    if not bool(matrix.isfinite().all()):
        return None
    scale = power_of_two(matrix) or 1.0
    norm = up_root(torus_bound(gram_kernel(matrix[None] / scale), ()))
    rest = up_product(up_root(float(matrix.shape[1])), column)
    return NormBound(up_sum(up_product(norm, scale), rest), "spectral norm of the dense operator")


def matrix_and_error(program: Program) -> tuple[Tensor, float]:
    """The matrix of an affine program as computed, and how far each column is off, at most.

    Raises:
        UnprovenError: if its rounding has no proof.

    Example:
        >>> program = taut.program.trace(torch.nn.Linear(2, 2, bias=False), (2,))
        >>> matrix, error = matrix_and_error(program)
        >>> matrix.shape, error < 1e-14
        (torch.Size([2, 2]), True)
    """
    with plain_sums():
        matrix = dense_matrix(program)
    composed = compose(layers_of(program, real=False), program.source, program.output, "float64")
    column = up_sum(*composed.error, *composed.error)
    frobenius = up_product(matrix.norm().item(), 1 + 2.0**-20)
    return matrix, up_sum(column, up_product(2 * U64, frobenius))


def dense_matrix(program: Program) -> Tensor:
    """The matrix of an affine program, by pushing the identity through it."""
    inputs = torch.Size(program.input_shape).numel()
    device = next((t.device for t in program.tensors.values()), torch.device("cpu"))
    units = torch.eye(inputs, dtype=torch.float64, device=device)
    shift = replay(program, units.new_zeros(1, *program.input_shape))
    moved = replay(program, units.reshape(inputs, *program.input_shape))
    return (moved - shift).reshape(inputs, -1).T
