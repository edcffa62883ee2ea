"""The optimisers that a recipe may name: how they are made, driven, and stored."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from taut import optim

Groups = list[dict[str, Any]]


@final
@dataclass(frozen=True)
class OptimiserKind:
    """All that training knows of an optimiser.

    Attributes:
        make: from groups of parameters; the learning rate is set at each step.
        moments: names of the tensors that it keeps for each parameter, of its shape.
        counts: whether it keeps the number of steps for each parameter, too.
        momentum: the setting that the schedule's beta1 goes to; "" for one that stays.
        scalars: numbers of a group that change from step to step.
        retracts: whether raw tensors may be replaced by their bases between steps.
        averages: whether its parameters are not those to evaluate; see `averaged`.
    """

    make: Callable[[Groups], Optimizer]
    moments: tuple[str, ...]
    counts: bool = False
    momentum: str = "betas"
    scalars: tuple[str, ...] = ()
    retracts: bool = False
    averages: bool = False

    def drive(self, optimiser: Optimizer, lr: float, beta1: float) -> None:
        """Set what a schedule decides."""
        for group in optimiser.param_groups:
            group["lr"] = lr
            if self.momentum == "betas":
                group["betas"] = (beta1, group["betas"][1])
            elif self.momentum:
                group[self.momentum] = beta1

    def shapes(self, parameter: Tensor) -> dict[str, torch.Size]:
        """Of the tensors that it keeps for a parameter."""
        counts = {"step": torch.Size(())} if self.counts else {}
        return counts | dict.fromkeys(self.moments, parameter.shape)

    def numbers(self, optimiser: Optimizer) -> list[dict[str, int | float]]:
        """The scalars of each group, to be stored."""
        return [{key: group[key] for key in self.scalars} for group in optimiser.param_groups]

    def restore(self, optimiser: Optimizer, numbers: Any) -> None:
        """Set the scalars of each group, as `numbers` gave them.

        Raises:
            ValueError: if they are of another optimiser.
        """
        groups = optimiser.param_groups
        if len(numbers) != len(groups) or any({*one} != {*self.scalars} for one in numbers):
            raise ValueError("the settings of the optimiser are not those of its groups")
        for group, scalars in zip(groups, numbers, strict=True):
            group |= {key: type(group[key])(value) for key, value in scalars.items()}

    @torch.no_grad()
    def averaged(self, optimiser: Optimizer, model: nn.Module) -> nn.Module:
        r"""The model to evaluate: this one, or a copy with the average that the optimiser keeps.

        Schedule-free optimisers move :math:`y = (1 - \beta) z + \beta x` and keep z; x is what to
        evaluate. It is computed aside: to go to x and back, as `eval()` and `train()` of the
        library do, changes y by its rounding.
        """
        if not self.averages:
            return model
        average = copy.deepcopy(model)
        groups = optimiser.param_groups
        beta = {p: group["betas"][0] for group in groups for p in group["params"]}
        for parameter, copied in zip(model.parameters(), average.parameters(), strict=True):
            z = optimiser.state.get(parameter, {}).get("z")
            if z is not None:
                copied.copy_(parameter.lerp(z, 1 - 1 / beta[parameter]))
        return average


def _schedule_free(groups: Groups) -> Optimizer:
    try:
        from schedulefree import AdamWScheduleFree
    except ImportError:
        raise ImportError(
            "The optimizer schedule-free needs schedulefree: pip install 'taut[optim]'."
        ) from None
    optimiser = AdamWScheduleFree(groups)
    optimiser.train()
    return optimiser


_ADAM = {"moments": ("exp_avg", "exp_avg_sq"), "counts": True}
_SGD = {"moments": ("momentum_buffer",), "momentum": "momentum"}

OPTIMISERS: dict[str, OptimiserKind] = {
    "adam": OptimiserKind(lambda g: torch.optim.AdamW(g, fused=True), **_ADAM, retracts=True),
    "sgd": OptimiserKind(
        lambda g: torch.optim.SGD(g, momentum=0.9, fused=True), **_SGD, retracts=True
    ),
    # These keep the parameters of orthogonal layers orthonormal, which then need no retraction.
    "stiefel-adam": OptimiserKind(lambda g: optim.Adam(g, fused=True), **_ADAM),
    "stiefel-sgd": OptimiserKind(lambda g: optim.SGD(g, momentum=0.9, fused=True), **_SGD),
    # To replace raw tensors would put them where their average does not belong.
    "schedule-free": OptimiserKind(
        _schedule_free,
        moments=("z", "exp_avg_sq"),
        momentum="",
        scalars=("k", "weight_sum", "lr_max"),
        averages=True,
    ),
}
"""By the names that recipes and the command line use."""
