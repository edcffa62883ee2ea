r"""Nearest matrices with orthonormal columns, by products alone.

The nearest one to A, its polar factor, is :math:`A (I + E)^{-1/2}` with the small matrix
:math:`E = A^\top A - I`. Polynomials of E stand for the inverse square root.
"""

import functools
import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from taut.linalg.bases import orthonormal_basis
from taut.linalg.products import gram, product, uses_onednn

# Degrees of polynomials of E: three more a product.
_DEGREES = (5, 8, 11, 14)
# Above this size it is worth while to look for a better middle of the eigenvalues of E.
_WIDE = 0.25
# Where E is larger than this, polynomials of it would take too many rounds.
_LIMIT = 0.8
# Rounds after which E is rounding alone, from the limit on.
_ROUNDS = 4


def nearest_orthonormal(a: Float[Tensor, "*b m n"]) -> Float[Tensor, "*b m n"]:
    r"""The nearest matrices with orthonormal columns, without a gradient.

    A retraction to the Stiefel manifold: for V on it and a small X, the nearest matrix to V + X is
    :math:`V + X - V \operatorname{sym}(V^\top X)` up to :math:`O(|X|^2)`, a step along the
    projection of X to the tangent space, which need not be computed.

    Guarantee: orthonormal to rounding for every finite `a`. It is the nearest such matrix where
        the singular values of `a` are within a factor of 1.5 of each other (of 3, for small n);
        beyond, the answer is :func:`orthonormal_basis`.
    Cost: one Gram matrix, one product, and products of `(n, n)`: one if `a` is off by less than
        0.003, six at most up to about 0.2, ten beyond. Sizes of E are read on the CPU: one to four
        synchronisations with a GPU.

    Reference:
        Absil and Malick (2012), *Projection-like retractions on matrix manifolds*, SIAM Journal on
        Optimization 22(1), section 4. Series: Bjorck and Bowie (1971), *An iterative algorithm for
        computing the best estimate of an orthogonal matrix*, SIAM Journal on Numerical Analysis.

    Example:
        >>> nearest_orthonormal(torch.tensor([[1.1, 0.0], [0.0, 0.9], [0.0, 0.0]]))
        tensor([[1., 0.],
                [0., 1.],
                [0., 0.]])
    """
    if not a.numel():
        return a
    if a.dtype not in (torch.float32, torch.float64):
        return nearest_orthonormal(a.float()).to(a.dtype)
    scale, rest = _inverse_root(_gram(a))
    if rest is None:
        return _one_by_one(a)
    return product(a, rest).add_(a).mul_(scale)


def is_orthonormal(a: Float[Tensor, "*b m n"]) -> bool:
    """Whether all columns are orthonormal to rounding, by one Gram matrix; NaN is not.

    Example:
        >>> is_orthonormal(torch.eye(3, 2)), is_orthonormal(1.001 * torch.eye(3, 2))
        (True, False)
    """
    if not a.numel():
        return True
    columns = a.shape[-1]
    square = _gram(a if a.dtype == torch.float64 else a.float())
    defect = square - torch.eye(columns, dtype=square.dtype, device=a.device)
    # Several times what an exact basis has.
    rounding = 16 * columns**0.5 * torch.finfo(a.dtype).eps
    return bool(torch.linalg.matrix_norm(defect).amax() <= rounding)


def _one_by_one(a: Tensor) -> Tensor:
    """Each matrix by itself, those too far from orthonormal by their exact bases."""
    if a.ndim == 2:
        return orthonormal_basis(a)
    return torch.stack([nearest_orthonormal(matrix) for matrix in a])


def _gram(a: Tensor) -> Tensor:
    if a.ndim == 2 and uses_onednn(a, a.shape[-1]):
        lower = gram(a).float()
        return lower.tril() + lower.tril(-1).mT
    return product(a.mT, a)


def _inverse_root(square: Float[Tensor, "*b n n"]) -> tuple[Tensor, Tensor | None]:
    """A scale s and R, with inverse square roots s (I + R); no R where a matrix is far from sI.

    All sums are of small matrices, without I, so that little is lost in rounding.
    """
    identity = torch.eye(square.shape[-1], dtype=square.dtype, device=square.device)
    # The root of the mean square of the singular values of A: then E has both signs.
    mean = square.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    defect = square / mean - identity
    rest, error = _factor(defect, identity)
    last = rest
    for _ in range(_ROUNDS):
        if rest is None or last is None or error <= torch.finfo(square.dtype).eps:
            break
        # (I + F) (I + E) (I + F) = I + E + 2 H + H F with H = F (I + E)
        half = last + product(last, defect)
        defect = defect + 2 * half + product(half, last)
        last, error = _factor(defect, identity)
        rest = None if last is None else rest + last + product(rest, last)
    return mean.rsqrt(), rest


def _factor(defect: Tensor, identity: Tensor) -> tuple[Tensor | None, float]:
    """F of an inverse square root I + F of I + E, and how far it is off; None for large E.

    Norms of powers bound that of E: they are at most n^(1/4) and n^(1/6) times too large.
    """
    goal, two = torch.finfo(defect.dtype).eps, product(defect, defect)
    coefficients, error = _polynomial(2, _root_of_norm(two, 2))
    if error <= goal:
        return _sum(coefficients, identity, defect, two), error
    three = product(two, defect)
    powers, size, middle = (defect, two, three), _root_of_norm(three, 3), 0.0
    if size > _WIDE:  # a few large steps: eigenvalues from about 0 to the size
        moved = _around(size / 2, identity, *powers)
        if (moved_size := _root_of_norm(moved[2], 3)) < size:
            powers, size, middle = moved, moved_size, size / 2
    if not size < _LIMIT:  # NaN fails, too
        return None, math.inf
    for degree in _DEGREES:
        coefficients, error = _polynomial(degree, size)
        if error <= goal:
            break
    parts = [coefficients[start : start + 3] for start in range(0, len(coefficients), 3)]
    total = _sum(parts[-1], identity, *powers[:2])
    for part in parts[-2::-1]:
        total = product(total, powers[2]) + _sum(part, identity, *powers[:2])
    scale = (1 + middle) ** -0.5
    return (scale * total + (scale - 1) * identity if middle else total), error


def _around(middle: float, identity: Tensor, *powers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The first three powers of (E - m) / (1 + m) from those of E."""
    one, two, three = powers
    scale = 1 / (1 + middle)
    return (
        (one - middle * identity) * scale,
        (two - 2 * middle * one + middle**2 * identity) * scale**2,
        (three - 3 * middle * two + 3 * middle**2 * one - middle**3 * identity) * scale**3,
    )


def _root_of_norm(power: Tensor, exponent: int) -> float:
    return float(torch.linalg.matrix_norm(power).amax()) ** (1 / exponent)


def _sum(coefficients: tuple[float, ...], *powers: Tensor) -> Tensor:
    terms = [c * power for c, power in zip(coefficients, powers, strict=True)]
    return terms[0] + terms[1] + terms[2]


def _polynomial(degree: int, size: float) -> tuple[tuple[float, ...], float]:
    """A polynomial near (1 + e)^(-1/2) - 1 for |e| <= size, and how far it is off at most."""
    if not size < _LIMIT:
        return (), math.inf
    return _interpolated(degree, math.ceil(16 * math.log2(max(size, 1e-12))))


@functools.lru_cache(maxsize=1024)
def _interpolated(degree: int, sixteenths: int) -> tuple[tuple[float, ...], float]:
    """For all sizes in a sixteenth of an octave, through the Chebyshev nodes."""
    from numpy.polynomial import Chebyshev, Polynomial  # takes a tenth of a second

    r = 2 ** (sixteenths / 16)
    nearest = Chebyshev.interpolate(lambda e: (1 + e) ** -0.5 - 1, degree, domain=[-r, r])
    polynomial = nearest.convert(kind=Polynomial)
    # r^(d+1) / 2^d times the next coefficient at most; far less for a large r, where it is seen.
    following = math.comb(2 * degree + 2, degree + 1) / 4 ** (degree + 1)
    bound = following * (1 - r) ** -(degree + 1.5) * r ** (degree + 1) / 2**degree
    e = np.linspace(-r, r, 1001)
    seen = 1.1 * float(np.abs(polynomial(e) + 1 - (1 + e) ** -0.5).max())
    padded = [*polynomial.coef, *[0.0] * degree][: degree + 1]
    return tuple(map(float, padded)), min(bound, seen)
