"""Stochastic gradient descent on the Stiefel manifold."""

from typing import Any, final

import torch

from taut.optim._manifold import keep_on_manifold


@final
class SGD(torch.optim.SGD):
    r"""SGD on the Stiefel manifold: keeps the parameters of orthogonal layers orthonormal.

    .. math:: V \leftarrow \pi(V - \eta\, m), \qquad m \leftarrow \mu m + g

    with the Riemannian gradient :math:`g = G - V \operatorname{sym}(V^\top G)` and the nearest
    orthonormal matrix :math:`\pi`. All else is as :class:`taut.optim.Adam` says, with
    `torch.optim.SGD` for all other parameters.

    Guarantee: as :class:`taut.optim.Adam`.
    Cost: as :class:`taut.optim.Adam`.

    Args:
        params: parameters, or groups of them, as torch's optimisers take them.
        lr: learning rate.
        momentum: decay of the moment.
        dampening: of the momentum.
        weight_decay: as torch's, added to the gradient. It does not move orthonormal raw tensors,
            but for rounding and what momentum remembers of it.
        nesterov: whether to look ahead.
        options: `maximize`, `foreach`, `fused`, ... as `torch.optim.SGD` has them.

    Raises:
        ValueError: as torch's; if a raw tensor is on the meta device, or sharded over processes.

    Reference:
        Absil, Mahony and Sepulchre (2008), *Optimization Algorithms on Matrix Manifolds*, section
        4.1; the retraction: Absil and Malick (2012), *Projection-like retractions on matrix
        manifolds*. Wen and Yin (2013), *A feasible method for optimization with orthogonality
        constraints*, take curves by Cayley transforms instead, which need linear systems.

    Example:
        >>> layer = taut.nn.Conv2d(2, 4, 3)
        >>> optimiser = SGD(layer.parameters(), lr=0.1, momentum=0.9)
        >>> layer(torch.ones(1, 2, 5, 5)).square().sum().backward()
        >>> optimiser.step()
    """

    def __init__(
        self,
        params: Any,
        lr: float | torch.Tensor = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(params, lr, momentum, dampening, weight_decay, nesterov, **options)
        keep_on_manifold(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copy or a pickle, which has no hooks."""
        copied = "param_groups" not in self.__dict__
        super().__setstate__(state)
        if copied:
            keep_on_manifold(self)
