r"""From the rows of a program to its Lipschitz constant and its rounding error.

For each value of the program let L be its Lipschitz constant as a function of the input x, and

.. math:: \|v(x)\| \le r(\|x\|), \qquad \|\hat v(x) - v(x)\| \le d(\|x\|),

v exact and :math:`\hat v` as computed; r and d are affine, :math:`r_a t + r_b`. With the promise of
:class:`taut.program.Rounding` a row with gains g_i, absolute values of norm A_i, constant c, m
roundings and :math:`\kappa_i = \gamma_m A_i` has

.. math:: r = \sum_i g_i r_i + c, \qquad
   d = \sum_i (g_i + \kappa_i) d_i + \kappa_i r_i + \gamma_m c,

since :math:`\|\hat f(\hat v) - f(v)\| \le \|\hat f(\hat v) - f(\hat v)\| + g \|\hat v - v\|` and
:math:`\|\hat v\| \le r + d`. Where branches stand side by side sums become roots of sums of squares
(Minkowski's inequality keeps them affine).

*Underflow.* Let :math:`\eta` be the smallest normal number; numbers below it may count as zero
wherever they are read or written. An output passes at most 2 m operations, each wrong by at most
:math:`2 \eta` more than its relative error, all enlarged by at most :math:`1 + \gamma_m \le 2` on
their way: together with a lost bias below :math:`10 m \eta`. A lost input entry costs at most
:math:`A \eta` each, lost weights a matrix with entries below :math:`\eta`.

*Overflow.* No intermediate result exceeds :math:`(1 + \gamma_m) (\sum A_i (r_i + d_i) + c)` and
underflow: four times that sum below the largest number will do. That bounds :math:`\|x\|`. Weights
are at most :math:`A_i`, which must be finite in the format, too. For an operation that squares what
it reads, the sum must be at most :math:`1 / (2 \sqrt\eta)`: the square of that is
:math:`1 / (4 \eta)`, a quarter of the largest number below.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, final

from taut.linalg.rounding import (
    down_difference,
    down_divide,
    gamma,
    up_product,
    up_root,
    up_root_sum_square,
    up_sum,
)
from taut.program._op import Rounding
from taut.program._pairwise import UP_SQRT2
from taut.program._result import UnprovenError

__all__ = ["FORMATS", "Composed", "Format", "Layer", "compose", "row", "widened"]


@final
@dataclass(frozen=True)
class Format:
    """A floating-point format: unit roundoff, smallest normal number, largest number."""

    u: float
    smallest: float
    largest: float


FORMATS = {
    "float32": Format(2.0**-24, 2.0**-126, (2 - 2.0**-23) * 2.0**127),
    "float64": Format(2.0**-53, 2.0**-1022, (2 - 2.0**-52) * 2.0**1023),
}


@final
@dataclass(frozen=True)
class Layer:
    """One row of a certificate: the bounds of one node, with the proof.

    Attributes:
        name: of the node.
        type: of the module or function.
        inputs: names of the nodes it reads.
        combine: "sum" or "root", see `taut.program.AbstractOp`.
        gains: proven Lipschitz constant in each input.
        proof: of the gains, in words.
        absolutes: for each input, norm bound of the map with absolute values for entries.
        count: number of roundings; 0 for exact layers.
        constant: l2 norm of what is added.
        entries: numbers read and numbers written, for one sample.
        rows: of the matrix of its weights; not in files.
        squares: whether it squares what it reads; not in files, as the operation says so.

    Example:
        >>> Layer("relu", "ReLU", ("fc",), (1.0,), "slope at most 1").bound
        1.0
    """

    name: str
    type: str
    inputs: tuple[str, ...]
    gains: tuple[float, ...]
    proof: str
    combine: str = "sum"
    absolutes: tuple[float, ...] = ()
    count: int = 0
    constant: float = 0.0
    entries: tuple[int, int] = (0, 0)
    rows: int = 0
    squares: bool = False

    @property
    def bound(self) -> float:
        """The largest of the gains, which tables show."""
        return max(self.gains, default=0.0)

    def rounded(self, rounding: Rounding | None) -> "Layer":
        """The row with its rounding bounds; none in real arithmetic."""
        if rounding is None:
            return replace(self, absolutes=self.gains)
        absolutes = tuple(max(rounding.absolute, gain) for gain in self.gains)
        return replace(
            self,
            absolutes=absolutes,
            count=rounding.count,
            constant=rounding.constant,
            squares=rounding.squares,
        )

    def widened(self) -> "Layer":
        """The row with slightly larger bounds, so that a proof on another machine confirms them."""
        return replace(
            self,
            gains=tuple(widened(gain, self.rows) for gain in self.gains),
            absolutes=tuple(map(widened, self.absolutes)),
            constant=widened(self.constant),
        )


@final
@dataclass
class Composed:
    """The composed bounds of a program.

    Attributes:
        lipschitz: of the logits.
        constants: Lipschitz constants of all values, by name.
        error: (a, b): two computed logits differ from their exact difference by at most a |x| + b.
        norm_limit: up to this norm of the input nothing overflows.

    Example:
        >>> Composed(1.0).error
        (0.0, 0.0)
    """

    lipschitz: float
    constants: Mapping[str, float] = field(default_factory=dict, compare=False)
    error: tuple[float, float] = (0.0, 0.0)
    norm_limit: float = math.inf


@final
@dataclass
class _State:
    lipschitz: float
    r: tuple[float, float]
    d: tuple[float, float]


_INPUT = _State(1.0, (1.0, 0.0), (0.0, 0.0))


@final
@dataclass
class _Recursion:
    format: Format | None
    states: dict[str, _State]
    norm_limit: float

    def fold(self, name: str, source: str, gain: float) -> None:
        """A value is affine in another one, too: |v(x)| <= |v(0)| + L |x|."""
        state = self.states[name]
        lipschitz = min(state.lipschitz, up_product(gain, self.states[source].lipschitz))
        self.states[name] = _State(lipschitz, (min(state.r[0], lipschitz), state.r[1]), state.d)

    def add(self, layer: Layer) -> None:
        """Follow one row."""
        states = [self.states[name] for name in layer.inputs]
        combine = up_sum if layer.combine == "sum" else up_root_sum_square
        pairs = list(zip(layer.gains, states, strict=True))
        lipschitz = combine(*(up_product(g, s.lipschitz) for g, s in pairs))
        norms = [combine(*(up_product(g, s.r[i]) for g, s in pairs)) for i in (0, 1)]
        r = (norms[0], up_sum(norms[1], layer.constant))
        d = (0.0, 0.0)
        if self.format is not None:
            d = self._error(layer, states, self.format)
        self.states[layer.name] = _State(lipschitz, r, d)

    def _error(self, layer: Layer, states: list[_State], f: Format) -> tuple[float, float]:
        read, written = (up_root(float(n)) for n in layer.entries)
        relative = gamma(layer.count, f.u) if layer.count else 0.0
        if not relative <= 1:
            raise UnprovenError(f"`{layer.name}` has too many terms for its precision.")
        combine = up_sum if layer.combine == "sum" else up_root_sum_square
        terms: list[tuple[float, float]] = []
        lost = 0.0
        for g, a, s in zip(layer.gains, layer.absolutes, states, strict=True):
            k = 0.0
            if layer.count:
                k = up_sum(up_product(relative, a), up_product(f.smallest, read, written))
                lost = up_sum(lost, up_product(a, f.smallest, read))
            kept = up_sum(g, k)
            terms.append(
                (
                    up_sum(up_product(kept, s.d[0]), up_product(k, s.r[0])),
                    up_sum(up_product(kept, s.d[1]), up_product(k, s.r[1])),
                )
            )
        lost = up_sum(lost, up_product(10.0 * layer.count, f.smallest, written))
        self._limit(layer, states, lost, f)
        slope, base = (combine(*(term[i] for term in terms)) for i in (0, 1))
        return slope, up_sum(base, up_product(relative, layer.constant), lost)

    def _limit(self, layer: Layer, states: list[_State], lost: float, f: Format) -> None:
        """Largest norm of the input for which no intermediate result overflows."""
        if not max(layer.gains + layer.absolutes, default=0.0) <= f.largest / 4:
            raise UnprovenError(f"`{layer.name}` may overflow.")  # by its weights alone
        slope, base = 0.0, up_sum(layer.constant, lost)
        for g, a, s in zip(layer.gains, layer.absolutes, states, strict=True):
            most = max(g, a)
            slope = up_sum(slope, up_product(most, up_sum(s.r[0], s.d[0])))
            base = up_sum(base, up_product(most, up_sum(s.r[1], s.d[1])))
        top = 0.5 / math.sqrt(f.smallest) if layer.squares else f.largest / 4
        room = down_difference(top, base)
        if not (room > 0 and math.isfinite(slope)):
            raise UnprovenError(f"`{layer.name}` may overflow.")
        if slope > 0:
            self.norm_limit = min(self.norm_limit, down_divide(room, slope))


def compose(
    layers: Sequence[Layer],
    source: str,
    output: str,
    arithmetic: str,
    folds: Mapping[str, tuple[str, float]] | None = None,
) -> Composed:
    """Compose the rows of a program.

    Args:
        layers: rows, each after those it reads.
        source: name of the input.
        output: name of the row whose value the program returns.
        arithmetic: "float32", "float64" or "real", which has no rounding.
        folds: by the name of a value, an earlier one that it is an affine function of, and the
            norm of that.

    Raises:
        UnprovenError: if a number may overflow, or a bound is not finite.

    Example:
        >>> half = Layer("h", "Mul", ("x",), (0.5,), "factor", absolutes=(0.5,), count=1,
        ...              entries=(4, 4))
        >>> found = compose([half], "x", "h", "float64")
        >>> found.lipschitz, 0.7e-16 < found.error[0] < 0.8e-16
        (0.5, True)
    """
    format_ = FORMATS.get(arithmetic)
    limit = math.inf if format_ is None else format_.largest / 4
    recursion = _Recursion(format_, {source: _INPUT}, limit)
    for layer in layers:
        recursion.add(layer)
        if folds and layer.name in folds:
            recursion.fold(layer.name, *folds[layer.name])
    last = recursion.states[output]
    constants = {name: state.lipschitz for name, state in recursion.states.items()}
    error = (up_product(UP_SQRT2, last.d[0]), up_product(UP_SQRT2, last.d[1]))
    if not all(map(math.isfinite, (last.lipschitz, *error, *last.r))):
        raise UnprovenError("The bound of the model is not finite.")
    return Composed(last.lipschitz, constants, error, recursion.norm_limit)


def widened(value: float, rows: int = 0) -> float:
    """A bound enlarged by the factor 1 + 2^-40, so that other proofs confirm it.

    By more for matrices of 4 rows or more: the rounding of a Cholesky factor grows with the square
    of their number.

    What is 0 or proven to be at most 1 stays so.

    Example:
        >>> widened(1.0), widened(2.0) > 2.0
        (1.0, True)
    """
    room = 2.0**-40 if rows < 4 else 2.0**-47 * (rows + 24) ** 2
    wide = up_product(value, 1 + room)
    return min(wide, 1.0) if value <= 1.0 else wide


def row(layer: Layer) -> dict[str, Any]:
    """The row in the form that a certificate holds.

    Example:
        >>> row(Layer("relu", "ReLU", ("fc",), (1.0,), "slope at most 1"))["bound"]
        1.0
    """
    return {
        "name": layer.name,
        "type": layer.type,
        "bound": layer.bound,
        "proof": layer.proof,
        "inputs": list(layer.inputs),
        "combine": layer.combine,
        "gains": list(layer.gains),
        "absolutes": list(layer.absolutes),
        "count": layer.count,
        "constant": layer.constant,
        "entries": list(layer.entries),
    }
