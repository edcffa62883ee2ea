"""Norm bounds of the maps of a program: cheap ones first, tight ones where they matter most."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final

from taut.linalg.adjoint import AdjointOperator
from taut.linalg.geometry import AbstractConvolution
from taut.linalg.operator import AbstractOperator, NormBound
from taut.linalg.torus import torus_part
from taut.linalg.witness import norm_estimate
from taut.program._walk import Progress

__all__ = ["WORK", "Norms"]

WORK = 2.0**31
"""Work on tight bounds that is done without being asked for, in multiplications."""

_STEPS = 16
"""Steps of the iterations that estimate norms from below."""


@final
@dataclass
class _Entry:
    bound: NormBound
    tighter: Callable[[], NormBound] | None
    operator: AbstractOperator | None
    estimate: float | None = None


@final
@dataclass
class Norms:
    """Norm bounds by name, each computed once.

    Attributes:
        progress: told about each bound.
    """

    progress: Progress | None = None
    entries: dict[str, _Entry] = field(default_factory=dict)

    def bound(
        self,
        name: str,
        make: Callable[[bool], NormBound],
        operator: Callable[[], AbstractOperator | None],
    ) -> NormBound:
        """The best bound that is known.

        Args:
            name: of the map.
            make: the bound; whether more time may be spent.
            operator: the map, if it is one whose bound may be tightened.
        """
        if name not in self.entries:
            if self.progress is not None:
                self.progress(name.rstrip("\0"), 0.0)
            bound, map_ = make(False), operator()
            map_ = map_.op if isinstance(map_, AdjointOperator) else map_
            loose = isinstance(map_, AbstractConvolution) and _may_be_loose(map_, bound)
            self.entries[name] = _Entry(
                bound, (lambda: make(True)) if loose else None, map_ if loose else None
            )
        return self.entries[name].bound

    def tighten(self, seconds: float | None, work: float) -> None:
        """Tighten bounds while there is time, those first that may gain most for their work.

        Args:
            seconds: time for all; None for no limit.
            work: for all together, in multiplications, where `seconds` is None.
        """
        begun = time.monotonic()
        open_ = {name: e for name, e in self.entries.items() if e.tighter is not None}
        if seconds is not None or sum(_work(e.operator) for e in open_.values()) > work:
            for entry in open_.values():
                entry.estimate = _estimate(entry.operator)
        order = sorted(open_, key=lambda name: -_promise(open_[name]))
        for place, name in enumerate(order):
            entry, cost = open_[name], _work(open_[name].operator)
            if seconds is not None and time.monotonic() - begun > seconds:
                return
            if seconds is None and cost > work:
                continue
            work -= cost
            if self.progress is not None:
                self.progress(name.rstrip("\0"), place / len(order))
            assert entry.tighter is not None
            better = entry.tighter()
            entry.tighter = None
            entry.bound = min(better, entry.bound, key=lambda bound: bound.value)

    def excess(self, bound: NormBound) -> float | None:
        """How many times the norm a bound may be at most, by an estimate from below; or None."""
        for entry in self.entries.values():
            if entry.bound is bound and entry.estimate:
                return max(1.0, bound.value / entry.estimate)
        return None


def _may_be_loose(op: AbstractConvolution, bound: NormBound) -> bool:
    """Whether zeros or copies at the border were bounded by more than they do."""
    pads = any((*op.padding.left, *op.padding.right)) and op.padding.mode != "circular"
    windows = math.prod(op.kernel.shape[2:]) > 1
    return (pads or windows) and "any input size" not in bound.proof and bound.value > 0


def _work(op: AbstractOperator | None) -> float:
    assert isinstance(op, AbstractConvolution)
    size = op.output_size
    return 2.0 * op.kernel.numel() * math.prod(size) * max(size, default=1)


def _promise(entry: _Entry) -> float:
    gain = 1.0 if not entry.estimate else math.log(entry.bound.value / entry.estimate)
    return gain / _work(entry.operator)


def _estimate(op: AbstractOperator | None) -> float | None:
    """Estimate of a norm from below, never used in a proof."""
    part = torus_part(op) if isinstance(op, AbstractConvolution) else None
    return None if part is None else norm_estimate(part, _STEPS)
