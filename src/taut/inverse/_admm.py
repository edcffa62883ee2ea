r"""Plug-and-play ADMM, which is a Douglas-Rachford iteration.

With :math:`t_k = x_{k+1} + u_k`: :math:`v_{k+1} = D t_k`, :math:`u_{k+1} = t_k - D t_k` and
:math:`t_{k+1} = \mathrm{prox}(2 D t_k - t_k) + t_k - D t_k = \frac12 (I + R_f R_D) t_k`, where
:math:`R_D = 2 D - I` and :math:`R_f` is that of the proximal step. Both are nonexpansive, so that
the map of t is 1/2-averaged. A fixed point t has :math:`v = x`: a zero of
:math:`s \nabla f + D^{-1} - I`, as the fixed points of the proximal gradient without a box are.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from taut.inverse._data_term import AbstractDataTerm
from taut.inverse._restoration import Restoration, check_arguments, distance, proved_denoiser
from taut.parametrizations import cached

__all__ = ["admm"]

_THEOREM = (
    "Krasnosel'skii-Mann for Douglas-Rachford: the iterated map is 1/2-averaged, so residuals "
    "never grow, and iterates converge to a fixed point if there is one"
)


@torch.no_grad()
def admm(
    denoiser: nn.Module,
    data: AbstractDataTerm,
    start: Float[Tensor, "b c h w"],
    *,
    step: float,
    sigma: float,
    iterations: int = 100,
    proved: bool = True,
) -> Restoration:
    r"""Restore images by a proximal step on the data term and a denoiser, in turn (ADMM).

    .. math::
        x \leftarrow \mathrm{prox}_{s f}(v - u), \quad v \leftarrow D_\sigma(x + u), \quad
        u \leftarrow u + x - v

    Guarantee: for any convex data term and any step s, with a denoiser that is proved to be firmly
        nonexpansive: the residual, the change of :math:`t = x + u`, never grows, no distance to a
        fixed point ever grows, and t converges if there is a fixed point; there is one if, say, A
        is injective. In real arithmetic, with exact proximal steps.
    Cost: for each iteration a proximal step and the denoiser, whose weights are computed once.

    Args:
        denoiser: called with images and `sigma`, such as :class:`Denoiser`.
        data: the data term f.
        start: the first v, one image for each in the batch of measurements; u starts at 0.
        step: s.
        sigma: noise level that the denoiser removes; a parameter of the restoration.
        iterations: number of iterations.
        proved: whether to prove that the denoiser is firmly nonexpansive, and refuse it otherwise.

    Returns:
        The images v, and the residuals: distances of successive :math:`t`, which equal those of x
        and v.

    Raises:
        ValueError: if an argument is not one of those.
        UnprovenError: if the denoiser has no proof.

    Reference:
        Venkatakrishnan, Bouman, Wohlberg (2013), *Plug-and-Play priors for model based
        reconstruction*; the identity with Douglas-Rachford is shown at the head of the source.

    Example:
        >>> denoiser = taut.inverse.Denoiser(nn.Identity())
        >>> data = taut.inverse.LeastSquares(nn.Identity(), torch.ones(1, 1, 2, 2))
        >>> admm(denoiser, data, torch.zeros(1, 1, 2, 2), step=1.0, sigma=0.1).averaged
        0.5
    """
    step, iterations = check_arguments(data, start, step, iterations)
    shape = tuple(start.shape[1:])
    data.check(shape)
    if proved:
        proved_denoiser(denoiser, sigma, shape, firmly=True)
    residuals = []
    with cached():
        v, t = start, data.prox(start, step)  # u = 0
        for _ in range(iterations):
            v = denoiser(t, sigma)
            x = data.prox(2 * v - t, step)
            residuals.append(distance(x, v))
            t = t + x - v
    theorem = _THEOREM if proved else ""
    return Restoration(v, torch.stack(residuals), 0.5 if proved else None, theorem)
