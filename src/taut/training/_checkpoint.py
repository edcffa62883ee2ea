"""The state of a training as one file: a crash leaves the old checkpoint whole or the new one."""

import json
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor, nn

from taut.files import (
    load_tensors,
    optimiser_state,
    optimiser_tensors,
    save_tensors,
    tensors_under,
)
from taut.linalg.rates import wide_dtype
from taut.training._devices import random_state, set_random_state
from taut.training._optimisers import OPTIMISERS, OptimiserKind
from taut.training._run import MODEL, STATE, Run, refuse_foreign

_MODEL, _AVERAGE, _OPTIMISER, _RANDOM = "model.", "average.", "optimiser.", "random."
_MARGINS, _LOSS = "margins.", "loss_sum"


@final
@dataclass
class Position:
    """How far a run has come."""

    step: int  # optimiser steps taken
    loss_sum: Tensor  # of the current epoch, over its images so far, in float64 where there is such
    seconds: float  # wall time, over all sittings
    # Of `Margins` in this epoch, for losses that use them.
    margins: dict[str, Tensor] = field(default_factory=dict)


def save_checkpoint(
    run: Run,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    position: Position,
    *,
    finished: nn.Module,
    average: nn.Module | None = None,
) -> None:
    """Write the finished model, :func:`taut.projected`, then the state to resume from.

    A crash in between leaves an older state, from which training reaches the same model.
    """
    weights = model.state_dict()
    moments = optimiser_tensors(optimiser, _OPTIMISER)
    random = {f"{_RANDOM}cpu": torch.get_rng_state()}
    device = position.loss_sum.device
    state = random_state(device)
    if state is not None:
        random[f"{_RANDOM}{device.type}"] = state
    tensors = {f"{_MODEL}{name}": value for name, value in weights.items()}
    averages = {} if average is None else average.state_dict()
    tensors |= {f"{_AVERAGE}{name}": value for name, value in averages.items()}
    margins = {f"{_MARGINS}{name}": value for name, value in position.margins.items()}
    tensors |= moments | random | margins | {_LOSS: position.loss_sum}
    metadata = {"step": str(position.step), "recipe": run.recipe.to_json()}
    save_tensors(run.path / MODEL, finished.state_dict(), metadata)
    metadata |= {"seconds": repr(position.seconds)}
    kind = OPTIMISERS[run.recipe.optimizer]
    metadata |= {"groups": json.dumps(kind.numbers(optimiser))} if kind.scalars else {}
    save_tensors(run.path / STATE, tensors, metadata)


def load_checkpoint(
    run: Run,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    device: torch.device,
    *,
    average: nn.Module | None = None,
) -> Position:
    """Restore model, average, optimiser and random state from the last checkpoint, if any.

    Raises:
        ValueError: if the checkpoint is damaged, of another recipe or model, or holds NaN or
            infinity; the message names it.
    """
    path = run.path / STATE
    if not path.is_file():
        return Position(0, torch.zeros((), dtype=wide_dtype(device), device=device), 0.0)
    tensors, metadata = load_tensors(path)
    refuse_foreign(metadata, run.recipe, path)
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"{path} holds numbers that are not finite, in {name}.")
    try:
        model.load_state_dict(tensors_under(tensors, _MODEL))
        if average is not None:
            average.load_state_dict(tensors_under(tensors, _AVERAGE))
        kind, moments = OPTIMISERS[run.recipe.optimizer], tensors_under(tensors, _OPTIMISER)
        optimiser.load_state_dict(_nested(moments, optimiser, kind))
        if kind.scalars:
            kind.restore(optimiser, json.loads(metadata["groups"]))
        position = _position(tensors, metadata, device)
        random = tensors_under(tensors, _RANDOM)
        torch.set_rng_state(random["cpu"])
    except (RuntimeError, KeyError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} does not fit the model of this run ({reason}).") from None
    if device.type != "cpu" and device.type in random:
        set_random_state(device, random[device.type])
    return position


def _position(
    tensors: dict[str, Tensor], metadata: dict[str, str], device: torch.device
) -> Position:
    margins = tensors_under(tensors, _MARGINS)
    if "bound" in metadata:  # of version 0.1, which followed no layers
        bound = float(metadata["bound"])
        margins["bound"] = torch.tensor(bound, dtype=torch.float64, device="cpu")
    step, seconds = int(metadata["step"]), float(metadata["seconds"])
    loss_sum = tensors[_LOSS].to(wide_dtype(device)).to(device)
    if step < 0 or loss_sum.shape:
        raise ValueError(f"step {step}, loss_sum {tuple(loss_sum.shape)}")
    return Position(step, loss_sum, seconds, margins)


def _nested(
    moments: dict[str, Tensor], optimiser: torch.optim.Optimizer, kind: OptimiserKind
) -> dict:
    """The state of an optimiser from tensors called INDEX.NAME, their shapes checked."""
    state = optimiser_state(moments)
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    # The fused step trusts these shapes, and would write past the end of a smaller tensor.
    shapes = {index: kind.shapes(p) for index, p in enumerate(parameters)}
    if {i: {name: m.shape for name, m in state[i].items()} for i in sorted(state)} != shapes:
        raise ValueError("the moments of the optimiser are not those of its parameters")
    return {"state": state, "param_groups": optimiser.state_dict()["param_groups"]}
