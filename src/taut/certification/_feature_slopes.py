r"""Slopes of a model in single features: proved intervals, and so proofs that it is monotone.

Let the output be :math:`g = \sum_k c_k f_k + A x + b`: what the last additions of the program add
up, where A collects the affine terms. For each x and t

.. math:: g(x + t e_i) - g(x) = t A_{:i} + \sum_k c_k (f_k(x + t e_i) - f_k(x)),

and the last sum is at most :math:`|t| \sum_k |c_k| L_i(f_k)`, with :math:`L_i(f_k)` the Lipschitz
constant of :math:`z \mapsto f_k(D z)`, D = diag(w) with :math:`w_i = 1` and all other weights tiny
but positive: then each x is some D z, and a bound of that map is one around every x.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from taut._arguments import check_tensor, whole
from taut._sharding import gathers
from taut.certification._certificate import Certificate, prove
from taut.certification._changes import moved
from taut.certification._interval import output_error
from taut.linalg.rounding import down, up
from taut.parametrizations import cached
from taut.program import (
    PASSES,
    Program,
    Site,
    UnprovenError,
    bound_of,
    matrix_and_error,
    operation,
    trace,
)

__all__ = ["FeatureSlopes", "slopes"]

_REST = 2.0**-60
"""Weight of the features that stay as they are."""


@final
@dataclass(frozen=True, eq=False)
class FeatureSlopes:
    r"""Proved slopes of a model: :math:`l_i t \le g(x + t e_i) - g(x) \le u_i t` for t >= 0.

    A feature is an entry of an input, counted in the order of memory.

    Attributes:
        lower: l, in float64, of the shape of an input; of a model with several outputs
            `(*outputs, *input_shape)`.
        upper: u.
        size: number of features.
        certificate: of the arithmetic, which bounds the rounding; None for real arithmetic.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> found = slopes(layer, (2,))
        >>> torch.allclose(found.lower, layer.weight.double())
        True
    """

    lower: Tensor
    upper: Tensor
    size: int = field(repr=False)
    certificate: Certificate | None = field(default=None, repr=False)

    @property
    def nondecreasing(self) -> tuple[int, ...]:
        """The features, by their number, that no output decreases in."""
        return self._all(self.lower >= 0)

    @property
    def nonincreasing(self) -> tuple[int, ...]:
        """The features that no output increases in."""
        return self._all(self.upper <= 0)

    def _all(self, holds: Tensor) -> tuple[int, ...]:
        return tuple(holds.reshape(-1, self.size).all(0).nonzero().flatten().tolist())

    def rounding(self, inputs: Float[Tensor, "b ..."]) -> Float[Tensor, " b"]:
        """How far each computed output may be from the exact one, rounded up; 0 in real arithmetic.

        A computed output of a nondecreasing model falls from x to x' by at most the sum of both.
        """
        check_tensor("inputs", inputs)
        if self.certificate is None:
            return torch.zeros(len(inputs), dtype=torch.float64, device="cpu")
        return output_error(self.certificate, inputs)


@gathers
def slopes(
    model: nn.Module,
    input_shape: tuple[int, ...],
    *,
    features: Iterable[int] | None = None,
    arithmetic: str = "real",
) -> FeatureSlopes:
    r"""Prove an interval for the slope of a model in each feature, whatever the input.

    Where the model ends in a sum, affine terms count with their sign and exact coefficients, and
    everything else with its Lipschitz constant in the feature alone. So the interval of
    :class:`taut.nn.Monotone`, of its frozen copy and of its exported file is about [0, 2 c]; that
    of any other model is [-L, L]. A slope is a difference quotient: no derivative need exist.

    Guarantee: holds for every x and t in real numbers, for the weights as they are now. Computed
        outputs also round: with `arithmetic` "float64" or "float32" (as of :func:`taut.certify`)
        the result has a proved bound of that.
    Cost: one bound of the model for each feature.

    Args:
        model: as of :func:`taut.lipschitz_bound`.
        input_shape: shape of one input, without the batch.
        features: numbers of the entries of an input that are asked for; the others have infinite
            intervals. All by default.
        arithmetic: "float64", "float32" or "real".

    Returns:
        The intervals, rounded outward.

    Raises:
        UnprovenError: (a NotImplementedError and ValueError) if a part has no proven bound.
        ValueError: if the input shape does not fit, or a feature is none.

    Example:
        >>> found = slopes(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), (2,))
        >>> torch.equal(found.lower, -found.upper)
        True
    """
    with torch.no_grad(), cached():
        program = trace(model, input_shape)
        size = math.prod(program.input_shape)
        asked = range(size) if features is None else features
        chosen = [whole("features", i, least=0) for i in asked]
        if any(i >= size for i in chosen):
            raise ValueError(f"`features` must be below {size}; got {max(chosen)}.")
        lower, upper = _intervals(program, chosen)
    outputs = program.shapes[program.output]
    shape = (*(outputs if math.prod(outputs) > 1 else ()), *program.input_shape)
    real = arithmetic == "real"
    certificate = None if real else prove(model, program.input_shape, arithmetic=arithmetic)
    return FeatureSlopes(lower.reshape(shape), upper.reshape(shape), size, certificate)


def _intervals(program: Program, features: Iterable[int]) -> tuple[Tensor, Tensor]:
    """Lower and upper slopes, `(outputs, features)`."""
    outputs, size = math.prod(program.shapes[program.output]), math.prod(program.input_shape)
    sites = {site.node.name: site for site in program.sites()}
    middle = [[Fraction(0)] * size for _ in range(outputs)]
    off = Fraction(0)
    curved: list[tuple[Fraction, Program]] = []
    for factor, name in _terms(program.output, Fraction(1), sites):
        part = _part(program, name, sites)
        if not all(operation(site).affine for site in part.sites()):
            curved.append((abs(factor), part))
            continue
        matrix, error = matrix_and_error(part)
        if not (matrix.isfinite().all() and math.isfinite(error)):
            raise UnprovenError(f"`{name}` may overflow.")
        off += abs(factor) * Fraction(error)
        for row, values in zip(middle, matrix.expand(outputs, size).tolist(), strict=True):
            for i, value in enumerate(values):
                row[i] += factor * Fraction(value)
    lower = torch.full((outputs, size), -math.inf, dtype=torch.float64)
    upper = -lower
    for i in features:
        constants = [(c, _constant(part, i)) for c, part in curved]
        if not all(math.isfinite(constant) for _, constant in constants):
            continue
        width = off + sum(c * Fraction(constant) for c, constant in constants)
        for j, row in enumerate(middle):
            lower[j, i], upper[j, i] = down(row[i] - width), up(row[i] + width)
    return lower, upper


def _terms(name: str, factor: Fraction, sites: dict[str, Site]) -> Iterator[tuple[Fraction, str]]:
    """The values that a value is the sum of, but for a constant, with their factors."""
    site = sites.get(name)
    factors: list[float] = []
    if site is not None and len(site.shape) <= 1:
        sizes = {math.prod(shape) for shape in site.shapes}
        if site.node.op == "add" and sizes <= {1, math.prod(site.shape)}:  # one number is broadcast
            factors = site.args["factors"]
        elif site.node.op == "scale" and not site.tensors and site.shapes == (site.shape,):
            factors = [site.args["factor"]]
    if site is None or not factors:
        yield factor, name
        return
    for f, read in zip(factors, site.node.inputs, strict=True):
        yield from _terms(read, factor * Fraction(f), sites)


def _part(program: Program, name: str, sites: dict[str, Site]) -> Program:
    """The program of one of its values."""
    needed, open_ = set(), [name]
    while open_:
        read = open_.pop()
        if read in sites and read not in needed:
            needed.add(read)
            open_ += sites[read].node.inputs
    nodes = tuple(node for node in program.nodes if node.name in needed)
    return replace(program, nodes=nodes, output=name)


def _constant(part: Program, feature: int) -> float:
    """Lipschitz constant of a value in one feature, whatever the others are."""
    weights = torch.full((math.prod(part.input_shape),), _REST, dtype=torch.float64)
    weights[feature] = 1.0
    program = moved(part, weights.reshape(part.input_shape))
    return float(bound_of(program, passes=tuple(PASSES)))
