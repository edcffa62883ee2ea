r"""Orthonormal bases by one route for every matrix, so that no number goes to the host.

The routes of :mod:`taut.linalg.factors` are chosen by values. On a GPU each such question waits for
all work in flight, cannot be captured in a CUDA graph, and stops `torch.compile`. This route has no
question: two passes of Cholesky QR with a shift that keeps every factorisation from failing.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from taut.linalg.rates import double_rate

HOST_DEVICES = ("cpu", "meta")
"""Devices on which reading a number costs nothing, or that have no numbers."""

# Added to the Gram matrix of a float32 matrix, for one that is zero; less than any square in range.
_TINY = 1e-100
# Where a third pass in float64 finds columns farther from orthonormal, `a` has no full rank.
_DEFECT_LIMIT = 0.1


def takes_one_route(a: Tensor) -> bool:
    """Whether the basis of `a` is computed in one route: in training, off the host, in float64.

    Where no gradient is asked (evaluation, freezing, certificates, :func:`taut.retract_`), the
    basis is exact for every finite `a`, and the route is chosen by values.
    """
    learned = torch.is_grad_enabled() and a.requires_grad
    return learned and a.device.type not in HOST_DEVICES and double_rate(a.device) == "fast"


def one_route_basis(
    a: Float[Tensor, "*b m n"],
) -> tuple[Float[Tensor, "*b m n"], Float[Tensor, "*b n n"]]:
    r"""The orthonormal basis Q of A = Q S, and the transposed inverse of S in float64.

    Two passes of :math:`L L^\top = A^\top A + s I`, :math:`A \leftarrow A L^{-\top}`, in float64;
    for float64 a third one without a shift where the columns are near-orthonormal by then.

    *No pass fails.* With unit roundoff u the Gram matrix is off by at most
    :math:`\gamma_m \|A\|_F^2`, and Cholesky's method succeeds on a matrix of trace t whose least
    eigenvalue exceeds :math:`\gamma_{n+1} t / (1 - \gamma_{n+1})`; so
    :math:`s = 2 (m + n) u \|A\|_F^2` suffices. In the second pass :math:`\|A\|_F^2 \le n`.

    Guarantee: every singular value <= 1 to rounding for every finite `a`; orthonormal to rounding
        where the condition number of `a` is at most 1e6, up to 1024 rows and columns. Otherwise
        singular values :math:`\sigma` of `a` below about 1e-6 of the largest one become
        less than 1, down to 0 where `a` has no full rank.
    Cost: two Gram matrices, two Cholesky factors with their inverses and two products.

    Reference:
        Fukaya et al. (2020), *Shifted Cholesky QR for computing the QR factorization of
        ill-conditioned matrices*, SIAM J. Sci. Comput. 42, arXiv:1809.11085. Success of Cholesky's
        method: Rump (2006), *Verification of positive definiteness*, BIT 46.
    """
    rows, columns = a.shape[-2:]
    unit = (rows + columns) * torch.finfo(torch.float64).eps
    identity = torch.eye(columns, dtype=torch.float64, device=a.device)
    x, scale = a.double(), None
    if a.dtype == torch.float64:  # whose squares may leave the range
        scale = x.abs().amax((-2, -1), keepdim=True).clamp_min(1e-250)
        x = x / scale
    square = x.mT @ x
    size = square.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    inverse = _inverse_factor(square + (unit * size + _TINY) * identity, identity)
    q = x @ inverse.mT
    second = _inverse_factor(q.mT @ q + unit * columns * identity, identity)
    q, inverse = q @ second.mT, second @ inverse
    if scale is None:
        return q.to(a.dtype), inverse
    square = q.mT @ q
    near = torch.linalg.matrix_norm(square - identity, keepdim=True) < _DEFECT_LIMIT
    third = _inverse_factor(torch.where(near, square, identity), identity)
    return q @ third.mT, third @ inverse / scale


def _inverse_factor(square: Tensor, identity: Tensor) -> Tensor:
    """The inverse of the Cholesky factor of matrices; nobody asks whether there is one."""
    lower = torch.linalg.cholesky_ex(square).L
    return torch.linalg.solve_triangular(lower, identity.expand_as(lower), upper=False)
