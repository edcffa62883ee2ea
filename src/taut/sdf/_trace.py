r"""Sphere tracing with every rounding counted.

Let f be the exact function of the stored weights, L its proved constant and p(t) = o + t d. At the
parameter t the program computes :math:`\hat v` at a rounded point :math:`\hat x`, with

.. math:: |\hat v - f(\hat x)| \le E = a \|\hat x\| + b, \qquad \|\hat x - p(t)\| \le e.

So :math:`|f(p(t))| \ge m = |\hat v| - E - L e`, and f has no zero at p(s) for
:math:`|s - t| < m / (L \|d\|)`. All of it is rounded so that the step comes out shorter.
"""

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from taut._arguments import check_tensor, is_number, whole
from taut._sharding import gathers
from taut.certification import Certificate, norms_upper, output_error, prove
from taut.linalg.rounding import U64, next_down, next_up

__all__ = ["RayHits", "normals", "sphere_trace"]


@final
@dataclass(frozen=True, eq=False)
class RayHits:
    """What is known of each ray; the parameter t counts in lengths of its direction.

    Attributes:
        distance: t up to which f has no zero on the ray: proved, in float64.
        points: where the ray is then, rounded, in the precision of the origins.
        hit: whether the computed abs(f) is at most the tolerance there.
        clear: whether it is proved that f has no zero up to `far`. A ray that is neither hit nor
            clear ran out of steps, or cannot go on for rounding.
        steps: how many values of f were computed.

    Example:
        >>> rays = torch.tensor([[0.0, 2.0]]), torch.tensor([[0.0, -1.0]])
        >>> found = sphere_trace(nn.Linear(2, 1), *rays)
        >>> (found.hit & found.clear).any()
        tensor(False)
    """

    distance: Float[Tensor, " rays"]
    points: Float[Tensor, "rays n"]
    hit: Bool[Tensor, " rays"]
    clear: Bool[Tensor, " rays"]
    steps: Int[Tensor, " rays"]


@gathers
def sphere_trace(
    model: nn.Module,
    origins: Float[Tensor, "rays n"],
    directions: Float[Tensor, "rays n"],
    *,
    far: float = 10.0,
    tolerance: float = 1e-3,
    steps: int = 256,
    arithmetic: str = "float64",
) -> RayHits:
    r"""Follow rays until they reach the zero level set of a model, without ever crossing it.

    At a point with value f there is no zero within f / L: the ray moves on by that much. L is
    proved from the weights, whatever the net is; a 1-Lipschitz net takes few steps, because its
    value is nearly the distance.

    Guarantee: the exact function of the stored weights has no zero on a ray before `distance`, and
        none up to `far` on a ray that is `clear`. The rounding of the model as it runs, of the
        points and of the steps is counted, in any order of summation.
    Cost: one proof of the model, and at most `steps` calls on the rays that are under way.

    Args:
        model: from points `(batch, n)` to one number each; as of :func:`taut.certify`.
        origins: of the rays, inside or outside of the surface.
        directions: of any length but 0.
        far: parameter at which a ray ends.
        tolerance: abs(f) up to which a ray counts as a hit.
        steps: values of f per ray, at most.
        arithmetic: that the model runs in, "float64" or "float32"; in float32 rays stop further
            from the surface, where rounding may hide it.

    Raises:
        UnprovenError: (a NotImplementedError and ValueError) if the model has no proven bound.
        ValueError: if an argument is wrong.

    Reference:
        Hart (1996), *Sphere tracing: a geometric method for the antialiased ray tracing of implicit
        surfaces*. Coiffier and Béthune (2024), *1-Lipschitz neural distance fields*,
        arXiv:2407.09505, trace 1-Lipschitz nets; the count of rounding is ours.

    Example:
        >>> plane = nn.Linear(2, 1, bias=False)
        >>> with torch.no_grad():
        ...     _ = plane.weight.copy_(torch.tensor([[1.0, 0.0]]))
        >>> rays = torch.tensor([[2.0, 0.0], [2.0, 0.0]]), torch.tensor([[-1.0, 0.0], [0.0, 1.0]])
        >>> found = sphere_trace(plane, *rays)
        >>> found.hit.tolist(), found.clear.tolist(), 1.99 < found.distance[0] < 2
        ([True, False], [False, True], tensor(True))
    """
    _check(origins, directions, far, tolerance)
    if arithmetic not in ("float64", "float32"):
        raise ValueError(f'`arithmetic` must be "float64" or "float32"; got {arithmetic!r}.')
    certificate = prove(model, (origins.shape[1],), arithmetic=arithmetic)
    if certificate.output_shape not in ((), (1,)):
        raise ValueError(
            f"`model` must give one number a point; its outputs are {certificate.output_shape}."
        )
    rays = _Rays(
        certificate, origins.detach().double(), directions.detach().double(), float(tolerance)
    )
    return rays.traced(float(far), whole("steps", steps), origins)


@final
class _Rays:
    """Rays under way, in float64."""

    def __init__(
        self, certificate: Certificate, origins: Tensor, directions: Tensor, tolerance: float
    ) -> None:
        self.certificate, self.tolerance = certificate, tolerance
        self.origins, self.directions = origins, directions
        lipschitz = certificate.composed.lipschitz
        speeds = next_up(norms_upper(directions) * lipschitz)  # above 0, if it underflows
        self.speeds = speeds if lipschitz else torch.zeros_like(speeds)

    def traced(self, far: float, steps: int, like: Tensor) -> RayHits:
        """Follow all rays."""
        count, device = len(self.origins), self.origins.device
        t = torch.zeros(count, dtype=torch.float64, device=device)
        hit, clear = (torch.zeros(count, dtype=torch.bool, device=device) for _ in range(2))
        taken = torch.zeros(count, dtype=torch.int64, device=device)
        under_way = torch.arange(count, device=device)
        for _ in range(steps):
            if not len(under_way):
                break
            now = t[under_way]
            near, margin = self.look(under_way, now)
            after = next_down(now + next_down(margin / self.speeds[under_way]))
            after = torch.where(self.speeds[under_way] == 0, math.inf, after)  # f is constant
            moves = ~near & (margin > 0) & (after > now)
            t[under_way] = torch.where(moves, after, now)
            hit[under_way], clear[under_way] = near, moves & (after > far)
            taken[under_way] += 1
            under_way = under_way[moves & ~(after > far)]
        points = self.origins + t.clamp(max=far)[:, None] * self.directions
        return RayHits(t, points.to(like.dtype), hit, clear, taken)

    def look(self, rays: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Whether each ray is at the surface, and m: abs(f) there is at least as much."""
        ways = t[:, None] * self.directions[rays]
        exact = self.origins[rays] + ways
        single = self.certificate.arithmetic == "float32"
        x = exact.float() if single else exact
        # A product and a sum are rounded, and the point once more to float32; and underflow.
        moved = norms_upper(ways.abs() + exact.abs()) * (2 * U64) + norms_upper(x.double() - exact)
        moved = moved * (1 + 2.0**-40) + 2.0**-1000
        lipschitz = self.certificate.composed.lipschitz
        values = self.certificate.logits(x)[:, 1].to(t.device).double().abs()
        error = output_error(self.certificate, x).to(t.device) + lipschitz * moved
        margin = next_down(values - (error * (1 + 2.0**-40) + 2.0**-1000))
        return error.isfinite() & (values <= self.tolerance), margin.nan_to_num(0.0, 0.0, 0.0)


def _check(origins: Tensor, directions: Tensor, far: float, tolerance: float) -> None:
    check_tensor("origins", origins)
    check_tensor("directions", directions)
    if origins.dim() != 2 or origins.shape != directions.shape:
        raise ValueError(
            "`origins` and `directions` must both be (rays, n); got "
            f"{tuple(origins.shape)} and {tuple(directions.shape)}."
        )
    if not (origins.isfinite().all() and directions.isfinite().all()):
        raise ValueError("`origins` and `directions` must be finite; got NaN or Inf.")
    if not (directions != 0).any(1).all():
        raise ValueError("`directions` must not be 0; got a row of zeros.")
    for name, value in (("far", far), ("tolerance", tolerance)):
        if not (is_number(value) and 0 <= value < math.inf):
            raise ValueError(f"`{name}` must be a finite number >= 0; got {value!r}.")


def normals(model: nn.Module, points: Float[Tensor, "b n"]) -> Float[Tensor, "b n"]:
    """Unit normals of the level sets of a model: its gradients, divided by their norms.

    Args:
        model: from points `(batch, n)` to one number each.
        points: where.

    Returns:
        Normals; 0 where the gradient is 0.

    Raises:
        ValueError: if points are no floating-point tensor.

    Example:
        >>> normals(nn.Linear(3, 1), torch.randn(4, 3)).norm(dim=1).round(decimals=4)
        tensor([1., 1., 1., 1.])
    """
    check_tensor("points", points)
    if not points.is_floating_point():
        raise ValueError(f"`points` must be a floating-point tensor; got {points.dtype}.")
    with torch.enable_grad():
        x = points.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(model(x).sum(), x)
    largest = gradient.abs().amax(1, keepdim=True)
    scaled = gradient / largest.where(largest > 0, 1.0)
    return nn.functional.normalize(scaled, dim=1)
