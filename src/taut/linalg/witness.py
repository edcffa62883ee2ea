"""Witnesses for `border`: hints, of which nothing is trusted."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from taut.linalg.torus import Fields, TorusPart

_LOOK = 10
"""Steps from one look at the convergence of an iteration to the next."""

_SOLVED = 2.0**-14
"""Relative residual at which a linear system counts as solved; the proof sees its square."""


def columns(a: Fields, b: Fields) -> Float[Tensor, "q n"]:
    """The pairs (a, b) as vectors, one a row."""
    return torch.cat([a.flatten(1), b.flatten(1)], 1)


def norm_estimate(part: TorusPart, most: int = 1000) -> float:
    """Estimate of the norm of T from below, by Lanczos' method."""
    generator = torch.Generator().manual_seed(0)
    shape = (1, *part.inputs.shape)
    v = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
    v = part.inputs * v.to(part.inputs)
    v, before, side = v / v.norm(), torch.zeros_like(v), 0.0
    diagonal, sides, square = [], [], 0.0
    for step in range(1, most + 1):
        w = part.normal(v) - side * before
        diagonal.append(float((v * w).sum()))
        w -= diagonal[-1] * v
        side = float(w.norm())
        if step % _LOOK == 0 or side <= 1e-14 * abs(diagonal[0]):
            # A hint: single precision will do.
            middle, below = (
                torch.tensor(entries, dtype=torch.float32, device="cpu").double()
                for entries in (diagonal, sides)
            )
            matrix = middle.diag() + below.diag(-1)
            last, square = square, float(torch.linalg.eigvalsh(matrix)[-1])
            if side <= 1e-14 * square or abs(square - last) <= 1e-10 * square:
                break
        sides.append(side)
        before, v = v, w / side
    return math.sqrt(square)


def mode_fields(
    part: TorusPart, group: int, frequency: list[int], vectors: Tensor, *, mirrored: bool
) -> tuple[Fields, Fields]:
    r"""Real fields (a, b) with C b = s a and C^* a = s b, nearly, of one frequency.

    The columns of `vectors` are eigenvectors of the Gram matrix of the smaller side at
    :math:`\omega = 2 \pi j / N`. If `mirrored`, :math:`-\omega` is another frequency, whose fields
    are given as well. The fields are 0 outside of the group.
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
    mix = torch.linalg.solve_triangular(
        factor, torch.eye(len(z), dtype=z.dtype, device=z.device), upper=False
    )
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
