"""Transport plans between two samples, kept in whole numbers so that feasible is exact."""

import math
import warnings
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

BYTES_PER_PAIR = 40
"""Of exact transport: costs, their copy, flows, their copy, and the solver's state of each arc."""

_CHUNK = 1 << 12


@final
@dataclass(frozen=True)
class Plan:
    """A feasible transport plan between two samples of n and m points of equal weights.

    Mass comes in units of 1 / lcm(n, m): each row sums to lcm / n units, each column to lcm / m.

    Attributes:
        rows: index in the first sample, one an entry.
        columns: index in the second sample.
        mass: units moved; positive.
        sizes: n and m.

    Raises:
        ValueError: if the marginals are not met, to the last unit.

    Example:
        >>> Plan(torch.tensor([0, 1]), torch.tensor([1, 0]), torch.tensor([1, 1]), (2, 2)).units
        2
    """

    rows: Int64[Tensor, "k"]
    columns: Int64[Tensor, "k"]
    mass: Int64[Tensor, "k"]
    sizes: tuple[int, int]

    def __post_init__(self) -> None:
        for places, size, unit in zip(
            (self.rows, self.columns), self.sizes, row_units(*self.sizes), strict=True
        ):
            sums = torch.zeros(size, dtype=torch.int64).index_add_(0, places, self.mass)
            if bool((self.mass <= 0).any()) or bool((sums != unit).any()):
                raise ValueError("the marginals of the plan are not those of the samples.")

    @property
    def units(self) -> int:
        """Units in all."""
        return math.lcm(*self.sizes)

    def cost(self, p: Float64[Tensor, "n d"], q: Float64[Tensor, "m d"]) -> float:
        """Mean l2 distance that the plan moves mass, from the differences themselves."""
        return float((self.lengths(p, q) * self.mass).sum()) / self.units

    def lengths(self, p: Float64[Tensor, "n d"], q: Float64[Tensor, "m d"]) -> Float64[Tensor, "k"]:
        """The distance of each entry."""
        parts = zip(self.rows.split(_CHUNK), self.columns.split(_CHUNK), strict=True)
        return torch.cat(
            [(p[i.to(p.device)] - q[j.to(q.device)]).norm(dim=1).cpu() for i, j in parts]
        )


def row_units(n: int, m: int) -> tuple[int, int]:
    """Units of mass in each point of the first and of the second sample.

    Example:
        >>> row_units(4, 6)
        (3, 2)
    """
    return math.lcm(n, m) // n, math.lcm(n, m) // m


def staircase(first: Int64[Tensor, "n"], second: Int64[Tensor, "m"]) -> Plan:
    """The plan that fills points up in two given orders; optimal on a line for sorted points.

    Args:
        first: an order of the first sample.
        second: an order of the second sample.

    Example:
        >>> staircase(torch.tensor([0, 1]), torch.tensor([2, 0, 1])).mass.tolist()
        [2, 1, 1, 2]
    """
    n, m = len(first), len(second)
    a, b = row_units(n, m)
    ends = torch.cat([a * torch.arange(1, n + 1), b * torch.arange(1, m + 1)]).unique()
    mass = torch.diff(ends, prepend=torch.zeros(1, dtype=torch.int64))
    inside = ends - 1
    return Plan(first[inside // a], second[inside // b], mass, (n, m))


class Solution(NamedTuple):
    """An optimal plan, and what its dual says of each point of the second sample."""

    plan: Plan
    offsets: Tensor


def optimal(p: Float64[Tensor, "n d"], q: Float64[Tensor, "m d"]) -> Solution | None:
    r"""An optimal plan by the network simplex of POT, or None if it did not finish.

    The solver works in whole units, where its sums are exact. Optimal is checked by its dual: the
    potentials must reach the cost of the plan to 1e-9 of the largest distance.

    Args:
        p: the first sample.
        q: the second sample.

    Returns:
        The plan, and :math:`v` with :math:`f(x) = \min_j \lVert x - y_j \rVert - v_j` an optimal
        potential.

    Example:
        >>> p = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
        >>> optimal(p, p.flip(0)).plan.cost(p, p.flip(0))
        0.0
    """
    costs = distances(p, q)
    n, m = costs.shape
    a, b = row_units(n, m)
    weights = torch.full((n,), a, dtype=torch.int64), torch.full((m,), b, dtype=torch.int64)
    found = _simplex(costs, *weights)
    if found is None:
        return None
    rows, columns, mass, v = found
    try:
        plan = Plan(rows, columns, mass, (n, m))
    except ValueError:
        return None
    dual = (costs - v).amin(1).mean() + v.mean()
    gap = plan.cost(p, q) - float(dual)
    return Solution(plan, v) if gap <= 1e-9 * float(costs.max()) else None


def improved(
    plan: Plan,
    p: Float64[Tensor, "n d"],
    q: Float64[Tensor, "m d"],
    *,
    block: int,
    generator: torch.Generator,
) -> Plan:
    """The plan with its entries, in blocks, moved optimally: never a higher cost.

    Entries are sorted by their midpoint along a random direction and cut into blocks. Within a
    block the mass that arrives at each point stays what it was: the whole stays feasible.

    Args:
        plan: to begin with.
        p: the first sample.
        q: the second sample.
        block: entries in a block; memory is that of exact transport between so many points.
        generator: of the direction.

    Example:
        >>> p = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
        >>> worst = staircase(torch.tensor([0, 1]), torch.tensor([1, 0]))
        >>> improved(worst, p, p, block=2, generator=torch.Generator()).cost(p, p)
        0.0
    """
    direction = torch.randn(p.shape[1], generator=generator, dtype=p.dtype).to(p.device)
    heights = (p @ direction).cpu()[plan.rows] + (q @ direction).cpu()[plan.columns]
    lengths = plan.lengths(p, q)
    parts = [
        _improved_block(plan, places, lengths, p, q) for places in heights.argsort().split(block)
    ]
    rows, columns, mass = (torch.cat(part) for part in zip(*parts, strict=True))
    return Plan(rows, columns, mass, plan.sizes)


def distances(p: Float64[Tensor, "n d"], q: Float64[Tensor, "m d"]) -> Float64[Tensor, "n m"]:
    """All l2 distances on the CPU, from differences: squares expanded would cancel.

    Example:
        >>> distances(torch.tensor([[0.0]]).double(), torch.tensor([[3.0]]).double())
        tensor([[3.]], dtype=torch.float64)
    """
    return torch.cdist(p, q, compute_mode="donot_use_mm_for_euclid_dist").cpu()


_Entries = tuple[Tensor, Tensor, Tensor]


def _improved_block(plan: Plan, places: Tensor, lengths: Tensor, p: Tensor, q: Tensor) -> _Entries:
    old = plan.rows[places], plan.columns[places], plan.mass[places]
    rows, row_of = old[0].unique(return_inverse=True)
    columns, column_of = old[1].unique(return_inverse=True)
    a = torch.zeros(len(rows), dtype=torch.int64).index_add_(0, row_of, old[2])
    b = torch.zeros(len(columns), dtype=torch.int64).index_add_(0, column_of, old[2])
    costs = distances(p[rows.to(p.device)], q[columns.to(q.device)])
    found = _simplex(costs, a, b)
    if found is None:
        return old
    i, j, mass, _ = found
    met = torch.equal(torch.zeros_like(a).index_add_(0, i, mass), a)
    met = met and torch.equal(torch.zeros_like(b).index_add_(0, j, mass), b)
    better = met and (costs[i, j] * mass).sum() < (lengths[places] * old[2]).sum()
    return (rows[i], columns[j], mass) if better else old


def _simplex(costs: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    """Rows, columns and units of the entries of the solver's plan, and its column potentials."""
    try:
        import ot
    except ImportError as error:
        raise ImportError(
            "Optimal transport needs POT; install the extra `wasserstein`: "
            "pip install taut[wasserstein]."
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the solver warns of is checked by the callers
        moved, log = ot.emd(
            a.double().numpy(), b.double().numpy(), costs.numpy(), numItermax=10**9, log=True
        )
    if log["warning"] is not None:
        return None
    units = torch.from_numpy(moved).round().long()
    i, j = units.nonzero(as_tuple=True)
    return i, j, units[i, j], torch.from_numpy(log["v"])
