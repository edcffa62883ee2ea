"""What each feature contributes to the difference of two samples."""

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from taut.wasserstein._exact import rescaled
from taut.wasserstein._training import MeasuredCritic

_PAIRS, _NODES, _BATCH = 512, 16, 256


def contributions(
    critic: MeasuredCritic, p: Float[Tensor, "n *shape"], q: Float[Tensor, "m *shape"]
) -> Float64[Tensor, "*shape"]:
    r"""The share of each feature in the difference of the mean scores, over the bound.

    Along the segment from y to x, :math:`f(x) - f(y) = \sum_k (x_k - y_k) \int_0^1 \partial_k f(y +
    t (x - y))\, dt`: one term a feature, here by the midpoint rule, the mean over pairs of points.
    For a linear critic it is the difference of the means times the slope, whatever the pairs.

    Reference:
        Sundararajan et al. (2017), *Axiomatic attribution for deep networks*, arXiv:1703.01365,
        equation 1: integrated gradients.

    >>> model = torch.nn.Linear(2, 1, bias=False).double().requires_grad_(False)
    >>> _ = model.weight.copy_(torch.tensor([[1.0, 0.0]]))
    >>> critic = MeasuredCritic(model, taut.lipschitz_bound(model, (2,)))
    >>> contributions(critic, torch.ones(3, 2), torch.zeros(3, 2))
    tensor([1.0000, 0.0000], dtype=torch.float64)
    """
    count = min(max(len(p), len(q)), _PAIRS)
    places = torch.arange(count, device=p.device)
    x, y = p.double()[places % len(p)], q.double()[places % len(q)]
    total = torch.zeros_like(x[0])
    for node in range(_NODES):
        t = (node + 0.5) / _NODES
        for start, end in zip(x.split(_BATCH), y.split(_BATCH), strict=True):
            away = start - end
            middle = rescaled(end + t * away, critic.exponent).requires_grad_()
            with torch.enable_grad():
                (slope,) = torch.autograd.grad(critic.model(middle).sum(), middle)
            total += (slope * away).sum(0)
    return total / (count * _NODES * max(float(critic.bound), 2.0**-1000))
