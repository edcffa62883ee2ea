r"""Families of changes with few parameters: their parameters are covered with proven cells.

Let :math:`T_t x` be the changed image for parameters t, and :math:`f = h \circ A` the cut of
`taut.threats._cut`. A cell is an interval of parameters, a rectangle for two. Its centre c is
answered by the program itself. If the margins there exceed

.. math:: L^h_{yj} \max_{t \in \text{cell}} \|A (T_t x - T_c x)\|,

the label is ahead in the whole cell. A cell without proof is halved along each axis. The one
nearest to "no change" always comes next, so that the distance of the first cell that is too small
to be halved is the radius. It may come close to the truth, whatever the Lipschitz constant; that
decides how many cells there are.

*Rounding.* A changed image is off by at most :math:`\delta = n u N` for the precision u of the
images, a number n of roundings and a bound N of the norms of all :math:`T_t x`. That counts for the
changed image, for the centre, and for both in the maximum above. The rounding of the program counts
as in `taut.certification`.
"""

import heapq
import itertools
import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from taut._arguments import positive, whole
from taut.certification import margin_error, norms_upper, pair_constants, radius_to_leave
from taut.linalg.rounding import next_down, up_root
from taut.threats._base import AbstractThreat, Radii
from taut.threats._cut import Cut

__all__ = ["AbstractTransformation", "beside", "check_search", "length_of_ones"]

_ROOM = 1 + 2.0**-40
"""For the few roundings of sums of bounds in float64."""


class _Cell(NamedTuple):
    """Parameters from `low` to `high`; the nearest to 0 are at `distance`, of the largest axis."""

    distance: float
    low: tuple[float, ...]
    high: tuple[float, ...]


class AbstractTransformation(AbstractThreat):
    r"""Images :math:`T_t x` for parameters t; the size is the largest of their absolute values.

    Attributes:
        axes: number of parameters.
        planar: whether images must have two axes, height and width.
        clip: whether changed pixels are clipped to [0, 1].
        halvings: how often a cell is halved, at most.
        limit: sizes are searched up to this one, which is the largest radius.
        cells: how many are tried for each image, at most.
    """

    axes: ClassVar[int] = 1
    planar: ClassVar[bool] = False
    clip: bool = False
    halvings: ClassVar[int] = 10
    limit: float
    cells: int

    @abstractmethod
    def transformed(self, images: Tensor, parameters: Tensor) -> Tensor:
        """The changed images, in the precision of the images.

        Args:
            images: a batch.
            parameters: `(b, axes)`, of each image.
        """

    @abstractmethod
    def largest_norm(self, norms: Tensor, entries: int) -> Tensor:
        """A bound of the norms of all changed images and of the terms of their sums.

        Args:
            norms: of the images.
            entries: numbers of an image.
        """

    def roundings(self, shape: tuple[int, ...]) -> float:
        """Of a changed pixel: here, of sums of few products of numbers up to 1."""
        return 32.0

    def breaks(self) -> Sequence[float]:
        """Numbers between which changed images are affine in each parameter alone; 0 is one."""
        return (0.0,)

    def spread(self, cut: Cut, images: Tensor, low: Tensor, high: Tensor, centre: Tensor) -> Tensor:
        r"""The largest :math:`\|A (T_t x - T_c x)\|` in a cell, but for rounding.

        By default that of its corners: changed images are affine in each parameter alone, so that
        the norm is convex in each. Clipped pixels move most at corners, too, but not along a line.

        Args:
            cut: of the model.
            images: a batch in float64.
            low: `(b, axes)`.
            high: `(b, axes)`.
            centre: `(b, axes)`.
        """
        if self.clip:
            return self.spread_of_pixels(cut, images, low, high, centre)
        middle = cut.value(self.transformed(images, centre))
        moves = (cut.value(corner) - middle for corner in self._corners(images, low, high))
        return torch.stack([norms_upper(move) for move in moves]).amax(0)

    def spread_of_pixels(
        self, cut: Cut, images: Tensor, low: Tensor, high: Tensor, centre: Tensor
    ) -> Tensor:
        """A bound of `spread` if each pixel moves most at the corners, along any curve."""
        middle = self.transformed(images, centre)
        moves = [(corner - middle).abs() for corner in self._corners(images, low, high)]
        return cut.norm * norms_upper(torch.stack(moves).amax(0)) * _ROOM

    def _corners(self, images: Tensor, low: Tensor, high: Tensor) -> Iterator[Tensor]:
        """The images at each corner of their cells."""
        for ends in itertools.product((False, True), repeat=self.axes):
            corner = torch.where(torch.tensor(ends, device="cpu"), high, low)
            yield self.transformed(images, corner)

    def check(self, images: Tensor, sizes: Sequence[float]) -> None:
        """Refuse sizes beyond the limit of the search, and images without the axes."""
        if any(size >= self.limit for size in sizes):
            raise ValueError(
                f"`eps` must be below `limit` of the threat, {self.limit:g}; got {max(sizes):g}."
            )
        if self.planar and images.dim() < 3:
            raise ValueError(
                f"`images` must be (n, ..., h, w) for a {self.kind}; got {tuple(images.shape)}."
            )

    def prepared(self, cut: Cut, top_k: int) -> Radii:
        """The search, for batches of images."""

        def radii(images: Tensor, logits: Tensor, labels: Tensor) -> tuple[Tensor, None]:
            return _Covering(self, cut, top_k, images, labels).radii(logits), None

        return radii


def check_search(limit: float, cells: int) -> None:
    """Refuse settings of a search that are out of range.

    Raises:
        ValueError: if there are such.
    """
    positive("limit", limit)
    whole("cells", cells)


class _Covering:
    """The search for one batch."""

    def __init__(
        self, threat: AbstractTransformation, cut: Cut, top_k: int, images: Tensor, labels: Tensor
    ) -> None:
        self.threat, self.cut, self.top_k = threat, cut, top_k
        self.images, self.labels = images.detach().cpu(), labels
        entries = self.images[0].numel()
        norms = threat.largest_norm(norms_upper(self.images), entries) * _ROOM
        unit = torch.finfo(images.dtype).eps / 2
        off = threat.roundings(tuple(self.images.shape[1:])) * unit
        self.off = off * (norms + 2.0**-90 * length_of_ones(entries)) * _ROOM
        self.norms = (norms + 2 * self.off) * _ROOM
        self.pairs = pair_constants(cut.rest, cut.certificate.classes)

    def radii(self, logits: Tensor) -> Tensor:
        """The size of the first change that is not proven, of each image."""
        everyone = torch.arange(len(self.images), device="cpu")
        found = torch.full((len(everyone),), self.threat.limit, dtype=torch.float64, device="cpu")
        right = self._reach(logits, everyone) > 0
        found[~right] = 0.0
        heaps = {i: self._first_cells() for i in right.nonzero().flatten().tolist()}
        for _ in range(self.threat.cells):
            cells = {i: heapq.heappop(heap) for i, heap in heaps.items()}
            if not cells:
                break
            proven = self._proven(cells)
            for i, cell in cells.items():
                if proven[i]:
                    continue
                if self._is_small(cell):
                    found[i] = cell.distance
                    heaps[i].clear()
                    continue
                for part in _halves(cell):
                    heapq.heappush(heaps[i], part)
            heaps = {i: heap for i, heap in heaps.items() if heap}
        for i, heap in heaps.items():  # no time is left: all that is nearer has been proven
            found[i] = heap[0].distance
        return found

    def _first_cells(self) -> list[_Cell]:
        """Cells between the breaks, up to the limit."""
        limit = self.threat.limit
        inner = {t for t in self.threat.breaks() if -limit < t < limit}
        ends = sorted({-limit, 0.0, limit, *inner})
        intervals = list(itertools.pairwise(ends))
        parts = itertools.product(intervals, repeat=self.threat.axes)
        heap = [_cell(*zip(*part, strict=True)) for part in parts]
        heapq.heapify(heap)
        return heap

    def _is_small(self, cell: _Cell) -> bool:
        least = min(1.0, self.threat.limit) / 2.0**self.threat.halvings
        return max(b - a for a, b in zip(cell.low, cell.high, strict=True)) <= least

    def _proven(self, cells: dict[int, _Cell]) -> dict[int, bool]:
        """Whether the label is ahead in all of a cell, of each image."""
        chosen = torch.tensor(list(cells), device="cpu")
        ends = {"dtype": torch.float64, "device": "cpu"}
        low = torch.tensor([cell.low for cell in cells.values()], **ends)
        high = torch.tensor([cell.high for cell in cells.values()], **ends)
        centre, images = (low + high) / 2, self.images[chosen].double()
        centres = self.threat.transformed(images, centre).to(self.images.dtype)
        reach = self._reach(self.cut.certificate.logits(centres).cpu(), chosen)
        spread = self.threat.spread(self.cut, images, low, high, centre)
        a, b = self.cut.error
        off, norms = self.off[chosen], self.norms[chosen]
        spread = spread + 4 * self.cut.norm * off + 2 * (a * norms + b)
        return dict(zip(cells, (reach > spread * _ROOM).tolist(), strict=True))

    def _reach(self, logits: Tensor, chosen: Tensor) -> Tensor:
        """How far the value of the cut may move from that of centres until the label is lost."""
        z, labels, norms = logits.double(), self.labels[chosen], self.norms[chosen]
        error = torch.zeros_like(norms)
        composed = self.cut.certificate.composed
        if self.cut.certificate.arithmetic != "real":
            error = margin_error(composed, norms)
        usable = (z.isfinite().all(1) & (norms <= composed.norm_limit))[:, None]
        gaps = next_down(next_down(z.gather(1, labels[:, None]) - z) - error[:, None]).where(
            usable, 0.0
        )
        radii = next_down(gaps / self.pairs[labels]).where(gaps > 0, 0.0)
        radii = radii.scatter(1, labels[:, None], math.inf)
        return radius_to_leave(radii, gaps, labels, self.top_k, self.cut.rest.value)


def _cell(low: tuple[float, ...], high: tuple[float, ...]) -> _Cell:
    """A cell on one side of 0 along each axis."""
    sides = zip(low, high, strict=True)
    return _Cell(max(min(abs(a), abs(b)) for a, b in sides), low, high)


def _halves(cell: _Cell) -> list[_Cell]:
    """The parts of a cell that is halved along each axis."""
    sides = [((a, (a + b) / 2), ((a + b) / 2, b)) for a, b in zip(cell.low, cell.high, strict=True)]
    return [_cell(*zip(*part, strict=True)) for part in itertools.product(*sides)]


def beside(values: Tensor, images: Tensor) -> Tensor:
    """One value an image, to be combined with its pixels, in their precision."""
    return values.to(images).reshape(-1, *[1] * (images.dim() - 1))


def length_of_ones(count: int) -> float:
    """The norm of an image of ones with this number of entries, rounded up."""
    return up_root(float(count))
