"""Norm bounds of the maps of a program: cheap ones first, sharp ones where they matter most."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import final

from taut.linalg.adjoint import AdjointOperator
from taut.linalg.bounds import distinct, is_settled
from taut.linalg.geometry import AbstractConvolution
from taut.linalg.operator import AbstractOperator, NormBound, Proof
from taut.linalg.torus import torus_part
from taut.linalg.witness import norm_estimate
from taut.program._walk import Progress

__all__ = ["WORK", "Effort", "Norms"]

WORK = 2.0**31
"""Work on tight bounds that is done without being asked for, in multiplications."""

_STEPS = 16
"""Steps of the iterations that estimate norms from below."""

_IMAGE = 32
"""Steps along an axis of the largest image on which norms are estimated."""

_SHARP = ((1.031, 2.0**37), (1.04, 2.0**38), (1.071, math.inf))
"""Without a limit of time the first proof is the cheapest within a factor, up to a work; or the
cheapest within the next."""


@final
@dataclass(frozen=True)
class Effort:
    """The time and the work that a proof may take.

    Attributes:
        seconds: time for all bounds; None for no limit.
        work: for tight bounds, in multiplications, where `seconds` is None; 0 for none at all, and
            first proofs that others repeat.
        begun: when the time began.
    """

    seconds: float | None = None
    work: float = WORK
    begun: float = field(default_factory=time.monotonic)

    @property
    def has_time(self) -> bool:
        """Whether time is left."""
        return self.seconds is None or time.monotonic() - self.begun < self.seconds


@final
@dataclass
class _Entry:
    """The bound of a map, and what may still be proven of it.

    Attributes:
        bound: the least that is proven.
        factor: about how many times the norm it may be.
        proofs: that may give less, from cheap to sharp.
        operator: the map; None where nothing more is known of it than the bound.
        estimate: of its norm from below; None where there is none.
    """

    bound: NormBound
    factor: float
    proofs: Sequence[Proof]
    operator: AbstractConvolution | None
    estimate: float | None = None

    def promise(self, proof: Proof) -> float:
        """What a proof may take off the logarithm of the bound, for each multiplication."""
        above = self.bound.value / self.estimate if self.estimate else self.factor
        return math.log(max(1.0, above / proof.factor)) / max(1.0, proof.work)

    def take(self, proof: Proof) -> None:
        """Keep the smaller bound, and the proofs that are sharper."""
        self.bound = min(proof.bound(), self.bound, key=lambda bound: bound.value)
        self.factor = proof.factor
        self.proofs = self.proofs[self.proofs.index(proof) + 1 :]


@final
@dataclass
class Norms:
    """Norm bounds by name, each computed once.

    Attributes:
        effort: what may be spent.
        progress: told about each bound.
    """

    effort: Effort
    progress: Progress | None = None
    entries: dict[str, _Entry] = field(default_factory=dict)

    def bound(
        self,
        name: str,
        proofs: Sequence[Proof],
        operator: AbstractOperator | None = None,
    ) -> NormBound:
        """The best bound that is known.

        Args:
            name: of the map.
            proofs: ways to bound it, from cheap to sharp.
            operator: the map, for estimates of its norm.
        """
        if name not in self.entries:
            self._tell(name, 0.0)
            first = self._first(proofs)
            bound = first.bound()
            later = () if is_settled(bound) else proofs[proofs.index(first) + 1 :]
            map_ = _convolution(operator) if later else None
            self.entries[name] = _Entry(bound, first.factor, later, map_)
        return self.entries[name].bound

    def _first(self, proofs: Sequence[Proof]) -> Proof:
        """The proof to begin with."""
        if self.effort.seconds is not None:
            return proofs[0]
        usual = next(proof for proof in proofs if proof.repeated)
        if self.effort.work == 0:
            return usual
        fair = (
            proof for factor, work in _SHARP for proof in proofs
            if proof.factor <= factor and proof.work <= work
        )  # fmt: skip
        return next(fair, usual)

    def tighten(self) -> None:
        """Tighten bounds within the effort, those first that may gain most for their work."""
        work = self.effort.work
        self._estimate()
        while (choice := self._most_promising(work)) is not None and self.effort.has_time:
            name, proof = choice
            work -= proof.work if self.effort.seconds is None else 0.0
            self._tell(name, self._share())
            self.entries[name].take(proof)

    def _most_promising(self, work: float) -> tuple[str, Proof] | None:
        """The map and the proof that promise most; None where none is left within the work."""
        most = math.inf if self.effort.seconds is not None else work
        all_ = most == math.inf and self.effort.seconds is None  # the last proof is the sharpest
        choices = [
            (entry.promise(proof), name, proof)
            for name, entry in self.entries.items()
            for proof in (entry.proofs[-1:] if all_ else entry.proofs)
            if proof.work <= most
        ]
        best = max(choices, key=lambda choice: choice[0], default=None)
        return best[1:] if best is not None and best[0] > 0 else None

    def _estimate(self) -> None:
        """Estimate the norms of maps that not all can be bounded sharply."""
        open_ = [entry for entry in self.entries.values() if entry.proofs]
        total = sum(entry.proofs[-1].work for entry in open_)
        if self.effort.seconds is None and total <= self.effort.work:
            return
        for entry in open_:
            quick = entry.proofs[-1].work <= WORK
            if entry.operator is not None and (quick or self.effort.has_time):
                entry.estimate = _norm_estimate(entry.operator)

    def _share(self) -> float:
        """Of the maps, those for which nothing is left to prove."""
        return sum(not entry.proofs for entry in self.entries.values()) / len(self.entries)

    def _tell(self, name: str, share: float) -> None:
        if self.progress is not None:
            self.progress(name.rstrip("\0"), share)

    def excess(self, bound: NormBound) -> float | None:
        """How many times the norm a bound may be at most, by an estimate from below; or None."""
        for entry in self.entries.values():
            if entry.bound is bound and entry.estimate:
                return max(1.0, bound.value / entry.estimate)
        return None


def _convolution(operator: AbstractOperator | None) -> AbstractConvolution | None:
    """The convolution that a map, or its adjoint, is."""
    operator = operator.op if isinstance(operator, AdjointOperator) else operator
    return operator if isinstance(operator, AbstractConvolution) else None


def _norm_estimate(op: AbstractConvolution) -> float | None:
    """Estimate of a norm from below, never used in a proof.

    With zero padding a smaller image has no larger norm: put into the corner of the larger one it
    gives the same outputs, and more.
    """
    axes = zip(op.input_size, op.stride, op.dilation, op.kernel.shape[2:], strict=True)
    size = tuple(min(n, _IMAGE * s + d * k) for n, s, d, k in axes)
    part = torus_part(distinct(replace(op, input_size=size)))
    return None if part is None else norm_estimate(part.single(), _STEPS)
