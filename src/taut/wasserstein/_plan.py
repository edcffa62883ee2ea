"""Transport plans between two weighted samples, in whole units of mass: feasibility is exact."""

import math
import warnings
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple, final

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from taut.linalg.rounding import up
from taut.wasserstein._exact import exponent_of, length_error, rescaled, split_lengths
from taut.wasserstein._extra import extra

BYTES_PER_PAIR = 40
"""Memory of exact transport: costs, flows, a copy of each, and the solver's state of an arc."""

_CHUNK = 1 << 12
_UNITS = 1 << 50  # of weights that are no whole numbers; the solver adds units as float64
_MOST_UNITS = 1 << 52


class Masses(NamedTuple):
    """Weights of two samples in whole units, with equal totals.

    `misplaced` is the share of the mass that rounding the weights to units moved.
    """

    supply: Int64[Tensor, "n"]
    demand: Int64[Tensor, "m"]
    misplaced: Fraction

    @classmethod
    def of(cls, p: Float64[Tensor, "n"], q: Float64[Tensor, "m"]) -> "Masses":
        """Exact for whole weights with small sums, such as counts; else to 2^-50 of the total.

        >>> ones = torch.ones(6, dtype=torch.float64)
        >>> Masses.of(ones[:4], ones)[:2]
        (tensor([3, 3, 3, 3]), tensor([2, 2, 2, 2, 2, 2]))
        """
        whole = all(bool((w == w.round()).all()) and float(w.sum()) < _MOST_UNITS for w in (p, q))
        units = math.lcm(*(int(w.sum()) for w in (p, q))) if whole else _MOST_UNITS
        if units < _MOST_UNITS:
            supply, demand = (w.long() * (units // int(w.sum())) for w in (p, q))
            return cls(supply, demand, Fraction(0))
        (supply, first), (demand, second) = map(_quantised, (p, q))
        return cls(supply, demand, first + second)


def _quantised(weights: Tensor) -> tuple[Tensor, Fraction]:
    """Weights in units that sum to `_UNITS`, and the share of the mass that rounding moved."""
    exact = [Fraction(weight) for weight in weights.tolist()]
    total = sum(exact, Fraction(0))
    shares = [weight / total * _UNITS for weight in exact]
    units = [int(share) for share in shares]
    by_loss = sorted(range(len(units)), key=lambda i: units[i] - shares[i])
    for i in by_loss[: _UNITS - sum(units)]:
        units[i] += 1
    moved = sum((abs(u - share) for u, share in zip(units, shares, strict=True)), Fraction(0))
    return torch.tensor(units, device="cpu"), moved / 2 / _UNITS


@final
@dataclass(frozen=True)
class TransportPlan:
    """A feasible transport plan between two samples.

    Entry by entry the places in both samples and the units moved; refused unless the marginals are
    those of `masses`, to the last unit.
    """

    rows: Int64[Tensor, "k"]
    columns: Int64[Tensor, "k"]
    mass: Int64[Tensor, "k"]
    masses: Masses

    def __post_init__(self) -> None:
        supply, demand, _ = self.masses
        met = _summed(self.rows, self.mass, supply) and _summed(self.columns, self.mass, demand)
        if not met or bool((self.mass <= 0).any()):
            raise ValueError("the marginals of the plan are not those of the samples.")

    def cost(self, p: Float64[Tensor, "n d"], q: Float64[Tensor, "m d"]) -> float:
        """The mean l2 distance that mass is moved; rounded up."""
        units, ratios = self.lengths(p, q)
        entries = zip(units.tolist(), ratios.tolist(), self.mass.tolist(), strict=True)
        total = sum((Fraction(u) * Fraction(r) * mass for u, r, mass in entries), Fraction(0))
        return up(total / int(self.masses.supply.sum()) * (1 + Fraction(length_error(p.shape[1]))))

    def lengths(self, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        """The distance of each entry in two factors, from `split_lengths`."""
        parts = zip(self.rows.split(_CHUNK), self.columns.split(_CHUNK), strict=True)
        pairs = [split_lengths(p[i.to(p.device)] - q[j.to(q.device)]) for i, j in parts]
        units, ratios = (torch.cat(factors).cpu() for factors in zip(*pairs, strict=True))
        return units, ratios


def _summed(places: Tensor, mass: Tensor, totals: Tensor) -> bool:
    """Whether the mass at each place has the given total."""
    return torch.equal(torch.zeros_like(totals).index_add_(0, places, mass), totals)


def staircase(
    first: Int64[Tensor, "n"], second: Int64[Tensor, "m"], masses: Masses
) -> TransportPlan:
    """The plan that fills points up in two given orders; optimal on a line for sorted points.

    >>> masses = Masses.of(torch.ones(2).double(), torch.ones(3).double())
    >>> staircase(torch.tensor([0, 1]), torch.tensor([2, 0, 1]), masses).mass.tolist()
    [2, 1, 1, 2]
    """
    sums = masses.supply[first].cumsum(0), masses.demand[second].cumsum(0)
    ends = torch.cat(sums).unique()
    ends = ends[ends > 0]
    mass = torch.diff(ends, prepend=ends.new_zeros(1))
    rows, columns = (torch.searchsorted(total, ends) for total in sums)
    return TransportPlan(first[rows], second[columns], mass, masses)


class OptimalPlan(NamedTuple):
    r"""An optimal plan, and what its dual says of each point of the second sample.

    :math:`f(x) = \min_j \lVert x - y_j \rVert - v_j` is an optimal potential; a point of no mass
    has an infinite v.
    """

    plan: TransportPlan
    offsets: Float64[Tensor, "m"]


def optimal(
    p: Float64[Tensor, "n d"], q: Float64[Tensor, "m d"], masses: Masses
) -> OptimalPlan | None:
    """An optimal plan by the network simplex of POT, or None if it did not finish.

    Optimal is checked by its dual: the potentials must reach the cost of the plan to 1e-9 of the
    largest distance.
    """
    costs = distances(p, q)
    supply, demand, _ = masses
    solved = _simplex(costs, supply, demand)
    if solved is None:
        return None
    rows, columns, mass, v = solved
    try:
        plan = TransportPlan(rows, columns, mass, masses)
    except ValueError:
        return None
    v = torch.where(demand > 0, v, -math.inf)
    shares = supply.double() / supply.sum(), demand.double() / demand.sum()
    reached = (costs - v).amin(1) @ shares[0] + v[demand > 0] @ shares[1][demand > 0]
    gap = plan.cost(p, q) - float(reached)
    return OptimalPlan(plan, v) if gap <= 1e-9 * float(costs.max()) else None


def improved(
    plan: TransportPlan,
    p: Float64[Tensor, "n d"],
    q: Float64[Tensor, "m d"],
    *,
    block: int,
    generator: torch.Generator,
) -> TransportPlan:
    """The plan with its entries, in blocks, moved optimally: never a higher cost.

    Entries are sorted by their midpoint along a random direction and cut into blocks. Within a
    block the mass that arrives at each point stays what it was: the whole stays feasible.

    >>> p = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    >>> masses = Masses.of(torch.ones(2).double(), torch.ones(2).double())
    >>> worst = staircase(torch.tensor([0, 1]), torch.tensor([1, 0]), masses)
    >>> improved(worst, p, p, block=2, generator=torch.Generator()).cost(p, p)
    0.0
    """
    direction = torch.randn(p.shape[1], generator=generator, dtype=p.dtype, device="cpu").to(
        p.device
    )
    heights = (p @ direction).cpu()[plan.rows] + (q @ direction).cpu()[plan.columns]
    units, ratios = plan.lengths(p, q)
    parts = [
        _improved_block(plan, places, units * ratios, p, q)
        for places in heights.argsort().split(block)
    ]
    rows, columns, mass = (torch.cat(part) for part in zip(*parts, strict=True))
    return TransportPlan(rows, columns, mass, plan.masses)


def distances(p: Float64[Tensor, "n d"], q: Float64[Tensor, "m d"]) -> Float64[Tensor, "n m"]:
    """All l2 distances on the CPU, from differences: squares expanded would cancel."""
    return torch.cdist(p, q, compute_mode="donot_use_mm_for_euclid_dist").cpu()


_Entries = tuple[Tensor, Tensor, Tensor]


def _improved_block(
    plan: TransportPlan, places: Tensor, lengths: Tensor, p: Tensor, q: Tensor
) -> _Entries:
    """The entries at some places of the plan, or cheaper ones with the same marginals."""
    old = plan.rows[places], plan.columns[places], plan.mass[places]
    rows, row_of = old[0].unique(return_inverse=True)
    columns, column_of = old[1].unique(return_inverse=True)
    a = torch.zeros(len(rows), dtype=torch.int64, device="cpu").index_add_(0, row_of, old[2])
    b = torch.zeros(len(columns), dtype=torch.int64, device="cpu").index_add_(0, column_of, old[2])
    costs = distances(p[rows.to(p.device)], q[columns.to(q.device)])
    solved = _simplex(costs, a, b)
    if solved is None:
        return old
    i, j, mass, _ = solved
    cheaper = (costs[i, j] * mass).sum() < (lengths[places] * old[2]).sum()
    met = _summed(i, mass, a) and _summed(j, mass, b)
    return (rows[i], columns[j], mass) if met and cheaper else old


def _simplex(costs: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    """Rows, columns and units of the entries of the solver's plan, and its column potentials."""
    ot = extra("ot", "An optimal transport plan", "set `max_memory=0` for another feasible plan")
    exponent = exponent_of(float(costs.max()))  # the solver's tolerances are absolute
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the solver warns of is checked by the callers
        moved, log = ot.emd(
            a.double().numpy(),
            b.double().numpy(),
            rescaled(costs, -exponent).numpy(),
            numItermax=10**9,
            log=True,
        )
    if log["warning"] is not None:
        return None
    units = torch.from_numpy(moved).round().long()
    i, j = units.nonzero(as_tuple=True)
    return i, j, units[i, j], rescaled(torch.from_numpy(log["v"]), exponent)
