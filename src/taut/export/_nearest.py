"""Weights of 1-Lipschitz layers that are near those of plain ones."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from taut.export._twins import normalisations
from taut.nn import AbstractParametrizedLayer
from taut.parametrizations import AbstractParametrization

__all__ = ["start_near"]

_STEPS = 60
"""Steps of gradient descent where a method has no nearest weight in closed form."""


def start_near(
    pairs: Iterable[tuple[nn.Module, nn.Module | None]], norms: Mapping[int, nn.Module]
) -> None:
    """Set the weights of new layers near those of the old ones.

    Args:
        pairs: each layer of the old model, and what stands for it.
        norms: by the identity of a layer, the normalisation behind it, which is folded into it.
    """
    for old, twin in pairs:
        if not isinstance(twin, AbstractParametrizedLayer):
            continue
        weight, bias = _with_norm(old, norms.get(id(old)))
        _set_near(twin.parametrization, weight)
        if bias is not None and twin.bias is not None:
            with torch.no_grad():
                twin.bias.copy_(bias)


def _with_norm(old: Any, following: nn.Module | None) -> tuple[Tensor, Tensor | None]:
    """Weight and bias, times the scale of a batch norm behind the layer."""
    weight = old.weight.detach()
    bias = None if old.bias is None else old.bias.detach()
    outputs = old.out_features if isinstance(old, nn.Linear) else old.out_channels
    fits = (
        isinstance(following, normalisations) and getattr(following, "num_features", 0) == outputs
    )
    variance = getattr(following, "running_var", None)
    if not fits or variance is None or getattr(old, "transposed", False):
        return weight, bias
    norm: Any = following
    scale = (variance + norm.eps).rsqrt() * (1.0 if norm.weight is None else norm.weight.detach())
    shift = 0.0 if norm.bias is None else norm.bias.detach()
    bias = (0.0 if bias is None else bias) - norm.running_mean
    return weight * scale.reshape(-1, *[1] * (weight.dim() - 1)), bias * scale + shift


def _set_near(parametrization: AbstractParametrization, weight: Tensor) -> None:
    """The nearest weight that the method has, in closed form or by gradient descent."""
    groups = weight.flatten(1).unflatten(0, (parametrization.groups, -1)).double()
    if bool(weight.any()) and weight[0].numel() == weight.shape[1]:  # one tap
        left, _, right = torch.linalg.svd(groups, full_matrices=False)
        try:
            parametrization.assign_((left @ right).reshape(weight.shape).to(weight))
            return
        except ValueError:
            pass
    _descend(parametrization, weight)


def _descend(parametrization: AbstractParametrization, weight: Tensor) -> None:
    """Turn the weight of a method towards another one: only its direction counts."""
    raws = [raw for raw in parametrization.parameters() if raw.requires_grad]
    if not raws or not bool(weight.any()):
        return
    target = weight / weight.norm()
    with torch.enable_grad():
        optimiser = torch.optim.Adam(raws, lr=0.05)
        for _ in range(_STEPS):
            made = parametrization.weight()
            loss = (made / made.norm().clamp(min=1e-12) - target).square().sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    for raw in raws:
        raw.grad = None
