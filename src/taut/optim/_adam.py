"""Adam on the Stiefel manifold."""

from typing import Any, final

import torch

from taut.optim._manifold import keep_on_manifold


@final
class Adam(torch.optim.AdamW):
    r"""Adam on the Stiefel manifold: keeps the parameters of orthogonal layers orthonormal.

    .. math:: V \leftarrow \pi(V - \eta\, \hat m / (\sqrt{\hat v} + \varepsilon))

    with the moments m and v of the Riemannian gradient :math:`G - V \operatorname{sym}(V^\top G)`
    and the nearest orthonormal matrix :math:`\pi`. Layers read such a raw tensor as it is: no basis
    in forward or backward. It is for the methods that read orthonormal bases
    (:class:`taut.Orthogonal`, :class:`taut.BCOP`, :class:`taut.RKO`, ...), found by themselves; all
    other parameters move as with `torch.optim.AdamW`. :func:`taut.after_step` is needed for
    :class:`taut.SVCM` and :class:`taut.OSSN` alone.

    Guarantee: raw tensors are orthonormal to rounding after each step, at any learning rate. The
        function never depends on it: whoever else writes to one (`load_state_dict`, another
        optimiser) has its basis computed again, but for changes through `Tensor.data`, which torch
        does not count, and which last until the next step. Evaluation, certificates and exports
        compute bases as ever.
    Cost: for a raw tensor `(m, n)` two products for the projection of its gradient (one, of a dense
        layer's), one and a half and a few of `(n, n)` for a step, batched over those of one shape;
        no Cholesky factor, and none of the sizes of images.

    Args:
        params: parameters, or groups of them, as torch's optimisers take them.
        lr: learning rate.
        betas: decay of the two moments.
        eps: added to the denominator.
        weight_decay: decoupled from the gradient. It does not move orthonormal raw tensors, whose
            norm is fixed; steps grow by 1 / (1 - lr * weight_decay).
        options: `amsgrad`, `maximize`, `foreach`, `fused`, ... as `torch.optim.AdamW` has them;
            `fused=True` is the fastest.

    Raises:
        ValueError: as torch's; if a raw tensor is on the meta device, or sharded over processes.

    Reference:
        Becigneul and Ganea (2019), *Riemannian Adaptive Optimization Methods*, arXiv:1810.00760,
        with moments by entry instead of by matrix; the retraction: Absil and Malick (2012),
        *Projection-like retractions on matrix manifolds*. Transport is the identity of the
        surrounding space: what leaves the tangent space, the retraction takes off.

    Example:
        >>> layer = taut.nn.Linear(5, 3)
        >>> optimiser = Adam(layer.parameters(), lr=0.1)
        >>> layer(torch.ones(2, 5)).square().sum().backward()
        >>> optimiser.step()
        >>> raw = layer.parametrization.raw_matrix
        >>> torch.allclose(raw.T @ raw, torch.eye(3), atol=1e-6)
        True
    """

    def __init__(
        self,
        params: Any,
        lr: float | torch.Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, **options)
        keep_on_manifold(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copy or a pickle, which has no hooks."""
        copied = "param_groups" not in self.__dict__
        super().__setstate__(state)
        if copied:
            keep_on_manifold(self)
