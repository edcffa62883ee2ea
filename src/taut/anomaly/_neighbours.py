"""Scores from the distances to the nearest training samples: 1-Lipschitz without training."""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from taut._arguments import not_negative, whole
from taut.certification import norms_upper
from taut.linalg.rounding import up_sum
from taut.program import AbstractOp, Rounding, Site, op

__all__ = ["Neighbours"]

_PAIRS = 1 << 22
"""Distances that are computed at once, at most."""


@final
class Neighbours(nn.Module):
    r"""Minus the mean of the `count` least corrected distances to points.

    :math:`f(x) = -\frac1m \sum_{i=1}^m d_{(i)}` with :math:`d_j = \lVert x - y_j \rVert_2 - v_j`,
    in rising order. With :math:`v_j` a share of the distance from :math:`y_j` to its own nearest
    neighbour, a point counts as near where the points are sparse; see :meth:`of`.

    Guarantee: 1-Lipschitz in l2: the sum of the m least of these 1-Lipschitz functions is the
        least of all sums of m of them, and a minimum of m-Lipschitz functions is m-Lipschitz.
    Cost: a distance to each point, computed from differences, as an expanded square would cancel.

    Args:
        points: the y, each of the shape of one sample.
        corrections: the v.
        count: m; at most the number of points.

    Raises:
        ValueError: if `count` is out of its range, there is not one correction a point, or the
            points are not finite float32 or float64 numbers.

    Example:
        >>> f = Neighbours(torch.tensor([[0.0], [4.0]]), torch.tensor([0.0, 1.0]), count=1)
        >>> f(torch.tensor([[1.0], [4.0]])).flatten()
        tensor([-1.,  1.])
    """

    points: Tensor
    corrections: Tensor

    def __init__(
        self, points: Float[Tensor, "m *shape"], corrections: Float[Tensor, " m"], count: int = 10
    ) -> None:
        super().__init__()
        _check_points(points)
        self.count = whole("count", count)
        if self.count > len(points) or corrections.shape != points.shape[:1]:
            raise ValueError(
                f"`points` must be at least `count` = {count}, with a correction each; got "
                f"{len(points)} points and {tuple(corrections.shape)} corrections."
            )
        self.register_buffer("points", points.detach().clone())
        self.register_buffer("corrections", corrections.detach().clone())

    @classmethod
    def of(
        cls, points: Float[Tensor, "m *shape"], *, count: int = 10, share: float = 0.5
    ) -> "Neighbours":
        """The score of points, each corrected by a share of the distance to its nearest one.

        Args:
            points: normal samples.
            count: of the least distances that are averaged.
            share: of the distance to the nearest other point; 0 for plain distances.

        Raises:
            ValueError: if there are fewer than two points, or `share` is no number >= 0.

        Example:
            >>> f = Neighbours.of(torch.tensor([[0.0], [1.0], [5.0]]), count=1, share=0.5)
            >>> f.corrections
            tensor([0.5000, 0.5000, 2.0000])
        """
        _check_points(points)
        share = not_negative("share", share)
        if len(points) < 2:
            raise ValueError(f"`points` must be at least 2; got {len(points)}.")
        gaps = torch.cat([least[:, 1] for least in _least(points, points, 2)])
        return cls(points, share * gaps, count)

    def forward(self, x: Float[Tensor, "b *shape"]) -> Float[Tensor, "b 1"]:
        """The scores as a column."""
        nearest = _least(x, self.points, self.count, self.corrections)
        return -torch.cat([distances.mean(1, keepdim=True) for distances in nearest])

    def extra_repr(self) -> str:
        """Number and shape of the points."""
        return f"{tuple(self.points.shape)}, count={self.count}"


def _check_points(points: Tensor) -> None:
    kinds, finite = (torch.float32, torch.float64), points.is_meta or points.isfinite().all()
    if points.dim() < 2 or points.dtype not in kinds or not finite:
        raise ValueError(
            "`points` must be samples of finite float32 or float64 numbers; got "
            f"{points.dtype} of shape {tuple(points.shape)}."
        )


def _least(
    x: Tensor, points: Tensor, count: int, corrections: Tensor | None = None
) -> list[Tensor]:
    """The least corrected distances of each sample in rising order, in blocks of samples."""
    flat, blocks = points.flatten(1), x.flatten(1).split(max(1, _PAIRS // len(points)))
    mode = "donot_use_mm_for_euclid_dist"
    distances = (torch.cdist(block, flat, compute_mode=mode) for block in blocks)
    moved = (d if corrections is None else d - corrections for d in distances)
    return [d.topk(count, largest=False).values for d in moved]


@op(Neighbours)
class _NeighboursOp(AbstractOp):
    proof = "mean of the least distances, each with a constant"

    def gains(self, site: Site) -> tuple[float, ...]:
        return (1.0,)

    def rounding(self, site: Site) -> Rounding:
        r"""A distance and a correction, then a mean of `count`.

        A difference of coordinates passes its own rounding, that of its square, n of the sum, of
        the root, of the correction, and those of the mean. Equal ranks differ by at most the
        largest error of a distance. Squares below the smallest normal number :math:`\eta` change
        a distance by at most :math:`\sqrt{2 n \eta}`, which is below :math:`2^{-38} \gamma_n`.
        """
        points, corrections = (site.tensors[name] for name in ("points", "corrections"))
        farthest = float(norms_upper(points).max())
        constant = up_sum(farthest, float(corrections.abs().max()), 2.0**-38)
        roundings = points[0].numel() + site.args["count"] + 10
        return Rounding(roundings, 1.0, constant, squares=True)
