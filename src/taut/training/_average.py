"""The exponential moving average of a model's tensors, and which of them decay."""

import copy
from typing import Any, final

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from taut.parametrizations import AbstractParametrization


@final
class Average:
    r"""A model whose parameters are averages of another one's over its optimiser steps.

    :math:`\bar p_t = d_t\,\bar p_{t-1} + (1 - d_t)\,p_t` with
    :math:`d_t = \min(d, (1 + t)/(10 + t))`, so that the first steps are forgotten. Raw tensors are
    averaged, of which the weights are computed: the average satisfies the same bound. Buffers are
    those of the last step.

    Args:
        model: the one that is trained; the average starts from its tensors.
        decay: the largest `d`.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = copy.deepcopy(model).requires_grad_(False), decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the tensors of a model after so many optimiser steps."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averages, parameters = list(self.model.parameters()), list(model.parameters())
        if averages:
            get_ema_multi_avg_fn(decay)(averages, parameters, None)  # pyright: ignore[reportArgumentType]
        for buffer, last in zip(self.model.buffers(), model.buffers(), strict=True):
            buffer.copy_(last)


def decaying(model: nn.Module) -> list[nn.Parameter]:
    """The parameters whose size weight decay reduces.

    Those of two or more dimensions, without the raw tensors that a layer reads through their
    orthonormal bases alone: their size changes no weight, and retraction resets it.
    """
    owners = [m for m in model.modules() if isinstance(m, AbstractParametrization)]
    bases = {raw for owner in owners if owner.reads_bases for raw in owner.parameters()}
    return [p for p in model.parameters() if p.ndim >= 2 and p not in bases]


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """What an optimiser with decoupled weight decay is made of: all in one group if none decay.

    Raises:
        ValueError: if there is weight decay, and no parameter that it acts on.
    """
    if weight_decay == 0:
        return [{"params": list(model.parameters()), "weight_decay": 0.0}]
    shrinking = decaying(model)
    if not shrinking:
        raise ValueError(
            f"`weight_decay` must be 0 for a model whose weights do not depend on the size of "
            f"their raw tensors; got {weight_decay}."
        )
    others = [p for p in model.parameters() if all(p is not one for one in shrinking)]
    groups = [{"params": shrinking, "weight_decay": weight_decay}]
    return groups + ([{"params": others, "weight_decay": 0.0}] if others else [])
