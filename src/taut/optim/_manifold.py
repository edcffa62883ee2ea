r"""Steps of torch's optimisers, retracted to the Stiefel manifold.

Raw tensors V that are kept orthonormal get the gradient :math:`G - V \operatorname{sym}(V^\top G)`
from their layers (:func:`taut.linalg.stiefel.own_basis`): moments are made of tangent vectors. The
optimiser moves V as any other parameter, and what is left to do is to go back to the manifold.
"""

from collections import defaultdict

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from taut.linalg.bases import orthonormal_basis
from taut.linalg.products import product
from taut.linalg.retraction import nearest_orthonormal
from taut.linalg.stiefel import tangent
from taut.parametrizations import (
    declare_orthonormal,
    is_kept_orthonormal,
    keep_orthonormal,
    raws_among,
)

# Larger matrices are retracted one by one: to copy them costs more than the calls.
_SMALL = 1 << 16


def keep_on_manifold(optimiser: Optimizer) -> None:
    """From now on, raw tensors of an optimiser are their own bases, and steps are retracted.

    Raises:
        ValueError: if a raw tensor is on the meta device, or sharded over processes, or the steps
            are to be differentiated.
    """
    if optimiser.defaults.get("differentiable"):
        raise ValueError("`differentiable` must be False: steps on the manifold have no gradient.")
    keep_orthonormal(_raws_of(optimiser), optimiser)
    optimiser.register_step_pre_hook(_settle)
    optimiser.register_step_post_hook(_retract)


def _raws_of(optimiser: Optimizer) -> list[Tensor]:
    """The parameters that layers read through orthonormal bases."""
    raws = raws_among(p for group in optimiser.param_groups for p in group["params"])
    for raw in raws:
        if raw.is_meta:
            raise ValueError(
                "`params` must have numbers before the optimiser is made; got a raw tensor on the "
                "meta device: call `to_empty` and `reset_parameters`, or load a state_dict, first."
            )
        if not isinstance(raw, nn.Parameter) or type(raw.data) is not Tensor:
            raise ValueError(
                "`params` must be whole tensors; got a raw tensor of type "
                f"{type(raw).__name__}: take torch.optim and taut.after_step for sharded models."
            )
    return raws


@torch.no_grad()
def _settle(optimiser: Optimizer, *_: object) -> None:
    r"""Replace raw tensors that are not orthonormal by their bases: no change of the function.

    After `load_state_dict`, say. For :math:`A = Q S` the gradient of A becomes that of Q: times
    :math:`S^\top`, and projected.
    """
    for raw in _raws_of(optimiser):
        if raw.requires_grad and raw.numel() and not is_kept_orthonormal(raw):
            basis = orthonormal_basis(raw)
            if raw.grad is not None:
                grad = product(raw.grad, product(raw.mT, basis))
                raw.grad.copy_(tangent(basis, product(basis.mT, grad), grad))
            raw.copy_(basis)


@torch.no_grad()
def _retract(optimiser: Optimizer, *_: object) -> None:
    """Replace raw tensors that have moved by the nearest orthonormal ones, and declare them so.

    Those of one shape share one call.
    """
    moved = [raw for raw in _raws_of(optimiser) if raw.grad is not None]
    groups: dict[tuple, list[Tensor]] = defaultdict(list)
    for number, raw in enumerate(moved):
        alone = number if raw.numel() > _SMALL else None
        groups[raw.shape[-2:], raw.dtype, raw.device, alone].append(raw)
    for raws in groups.values():
        shape = raws[0].shape[-2:]
        stack = raws[0] if len(raws) == 1 else torch.cat([r.reshape(-1, *shape) for r in raws])
        matrices = nearest_orthonormal(stack).reshape(-1, *shape)
        parts = matrices.split([raw.shape[:-2].numel() for raw in raws])
        for raw, part in zip(raws, parts, strict=True):
            raw.copy_(part.view(raw.shape))
    declare_orthonormal(moved, optimiser)
