"""Witnesses for `border`: hints, of which nothing is trusted."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from taut.linalg.torus import Fields, TorusPart

__all__ = ["columns", "mode_fields", "norm_estimate", "witness"]

_LOOK = 10
"""Steps from one look at the convergence of an iteration to the next."""

_SOLVED = 2.0**-14
"""Relative residual at which a linear system counts as solved; the proof sees its square."""


def columns(a: Fields, b: Fields) -> Float[Tensor, "q n"]:
    """The pairs (a, b) as vectors, one a row.

    >>> columns(torch.ones(3, 2, 4), torch.zeros(3, 1, 4)).shape
    torch.Size([3, 12])
    """
    return torch.cat([a.flatten(1), b.flatten(1)], 1)


def norm_estimate(part: TorusPart, most: int = 1000) -> float:
    """Norm of T, nearly and from below, by Lanczos' method.

    >>> from taut.linalg.operators import ConvOperator
    >>> from taut.linalg.torus import torus_part
    >>> round(norm_estimate(torus_part(ConvOperator(torch.ones(1, 1, 2).double(), (3,)))), 6)
    1.732051
    """
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(1, *part.inputs.shape, generator=generator, dtype=torch.float64)
    v = part.inputs * v.to(part.inputs)
    v, before, side = v / v.norm(), torch.zeros_like(v), 0.0
    diagonal, sides, found = [], [], 0.0
    for step in range(1, most + 1):
        w = part.normal(v) - side * before
        diagonal.append(float((v * w).sum()))
        w -= diagonal[-1] * v
        side = float(w.norm())
        if step % _LOOK == 0 or side <= 1e-14 * abs(diagonal[0]):
            matrix = torch.tensor(diagonal).double().diag() + torch.tensor(sides).double().diag(-1)
            last, found = found, float(torch.linalg.eigvalsh(matrix)[-1])
            if side <= 1e-14 * found or abs(found - last) <= 1e-10 * found:
                break
        sides.append(side)
        before, v = v, w / side
    return math.sqrt(found)


def mode_fields(
    part: TorusPart, group: int, frequency: list[int], vectors: Tensor, *, mirrored: bool
) -> tuple[Fields, Fields]:
    r"""Real fields (a, b) with C b = s a and C^* a = s b, nearly, of one frequency.

    Args:
        part: C, whose Gram kernel is that of its smaller side.
        group: where the fields are not 0.
        frequency: integers j, for :math:`\omega = 2 \pi j / N`.
        vectors: eigenvectors of the Gram matrix there, one a column.
        mirrored: whether :math:`-\omega` is another frequency, whose fields are given as well.

    Returns:
        One or two fields for each vector.

    Example:
        >>> from taut.linalg.operators import ConvOperator
        >>> from taut.linalg.torus import torus_part
        >>> part = torus_part(ConvOperator(torch.ones(1, 1, 2).double(), (3,)))
        >>> a, b = mode_fields(part, 0, [0], torch.ones(1, 1).double(), mirrored=False)
        >>> (part.forward(b) / a).flatten().tolist()
        [2.0, 2.0, 2.0]
    """
    groups, outputs, inputs = part.kernel.shape[:3]
    angle = vectors.new_zeros((), dtype=torch.float64)
    for j, n in zip(frequency, part.size, strict=True):
        turns = torch.arange(n, device=vectors.device) * j % n
        angle = angle[..., None] + turns.double() * (2 * math.pi / n)
    # The Gram kernel of inputs is that of the transposed kernel: its vectors are conjugate.
    waves = torch.polar(torch.ones_like(angle), angle if outputs <= inputs else -angle)
    fields = vectors.T[(...,) + (None,) * angle.dim()] * waves
    fields = torch.cat([fields.real, fields.imag]) if mirrored else fields.real
    small = fields.new_zeros(len(fields), groups, *fields.shape[1:])
    small[:, group] = fields
    small = small.flatten(1, 2)
    other = part.adjoint(small) if outputs <= inputs else part.forward(small)
    other /= (other.square().sum() / small.square().sum()).sqrt()
    return (small, other) if outputs <= inputs else (other, small)


def witness(part: TorusPart, s: float, a: Fields, b: Fields) -> tuple[Fields, Fields]:
    r"""Vectors Z with J Z near 0 inside and :math:`Z^* J Z` near -I, from fields of C above s.

    (a, b) less the (y, u) inside T with J (y, u) = J (a, b) there: :math:`(s^2 - T^* T) u =
    s b_u + T^* b_y` and :math:`s y = b_y + T u`, by conjugate gradients. Then a Cholesky factor.
    """
    right_y = part.outputs * (s * a - part.forward(b))
    right_u = part.inputs * (s * b - part.adjoint(a))
    u = _solved(part, s, s * right_u + part.inputs * part.adjoint(right_y))
    a, b = a - (right_y + part.outputs * part.forward(u)) / s, b - u
    z, j = columns(a, b), columns(s * a - part.forward(b), s * b - part.adjoint(a))
    factor = torch.linalg.cholesky_ex(-(z @ j.T + j @ z.T) / 2).L
    mix = torch.linalg.solve_triangular(factor, torch.eye(len(z)).to(factor), upper=False)
    return tuple(torch.tensordot(mix, field, 1) for field in (a, b))


def _solved(part: TorusPart, s: float, right: Fields, most: int = 1000) -> Fields:
    """Conjugate gradients for s^2 - T^* T, on all right sides side by side."""
    axes = list(range(1, right.dim()))
    x, rest, direction = torch.zeros_like(right), right.clone(), right.clone()
    goal = square = rest.square().sum(axes, keepdim=True)
    for step in range(most):
        moved = s * s * direction - part.normal(direction)
        curvature = (direction * moved).sum(axes, keepdim=True)
        if bool((curvature < 0).any()):
            break  # s is below the norm of T: there is no witness
        length = square / curvature.clamp_min(1e-300)
        x += length * direction
        rest -= length * moved
        last, square = square, rest.square().sum(axes, keepdim=True)
        if step % _LOOK == 0 and bool((square <= _SOLVED**2 * goal).all()):
            break
        direction = rest + square / last.clamp_min(1e-300) * direction
    return x
