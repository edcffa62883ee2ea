"""What is done to the raw tensors of a whole model at once."""

import copy
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import TypeVar

import torch
from torch import Tensor, nn

from taut.linalg.bases import orthonormal_basis
from taut.parametrizations._base import AbstractParametrization, keeping_bases

_M = TypeVar("_M", bound=nn.Module)


@contextmanager
def batched(model: nn.Module) -> Iterator[None]:
    """Inside this context the bases of all raw tensors of one shape come from one batched call.

    They are computed on entry, once, however often the model is called inside: one context per
    training step, around the forward pass. Gradients flow as without it, and so do all results, to
    rounding. For deep models of equal layers on a GPU, where many small calls wait for their
    launches, and for models called several times a step: the calls share one graph, so that one
    backward pass, of the sum of their losses, is to follow (inside, where activations are
    checkpointed). Shapes that occur once are left alone. A raw tensor that changes inside the
    context is computed anew; compiled models take no notice.

    Args:
        model: its :mod:`taut.nn` layers are looked for at any depth.

    Example:
        >>> model = torch.nn.Sequential(taut.nn.Linear(4, 4), taut.nn.Linear(4, 4))
        >>> with taut.batched(model):
        ...     model(torch.ones(1, 4)).sum().backward()
        >>> model[0].parametrization.raw_matrix.grad.shape
        torch.Size([4, 4])
    """
    groups: dict[tuple, list[Tensor]] = defaultdict(list)
    for raw in _raw_tensors(model):
        if raw.numel():
            groups[raw.shape[-2:], raw.dtype, raw.device, raw.requires_grad].append(raw)
    kept = []
    for (shape, _, device, _), raws in groups.items():
        if len(raws) > 1:
            with torch.autocast(device.type, enabled=False):
                bases = orthonormal_basis(torch.cat([raw.reshape(-1, *shape) for raw in raws]))
            counts = [raw.numel() // shape.numel() for raw in raws]
            parts = bases.split(counts)
            kept += [(raw, part.view(raw.shape)) for raw, part in zip(raws, parts, strict=True)]
    with keeping_bases(kept):
        yield


@torch.no_grad()
def retract_(model: nn.Module) -> None:
    """Replace every raw tensor by its own orthonormal basis, in place.

    The function of the model stays as it is, to rounding: weights depend on raw tensors through
    their bases alone. What changes is how the next gradient steps act: relative to raw tensors of
    norm 1 again. Their condition returns to 1, where bases cost least. Called every few steps of a
    training, it keeps them there.

    Args:
        model: its :mod:`taut.nn` layers are looked for at any depth.

    Example:
        >>> layer = taut.nn.Linear(3, 3)
        >>> _ = layer.parametrization.raw_matrix.data.mul_(5)
        >>> retract_(layer)
        >>> bool(torch.linalg.matrix_norm(layer.parametrization.raw_matrix, 2) < 1.0001)
        True
    """
    for raw in _raw_tensors(model):
        raw.copy_(orthonormal_basis(raw))


@torch.no_grad()
def update_(model: nn.Module, step: int) -> None:
    """Do what the methods of a model do after an optimiser step, in place.

    :class:`taut.OSSN` takes its steps of power iteration, :class:`taut.SVCM` projects when it is
    its turn; other methods do nothing. A training loop calls it after every optimiser step.

    Args:
        model: its :mod:`taut.nn` layers are looked for at any depth.
        step: how many optimiser steps have been taken, this one included.

    Raises:
        ValueError: if `step` is negative.

    Example:
        >>> layer = taut.nn.Linear(3, 3, parametrization=taut.SVCM)
        >>> _ = layer.parametrization.raw_matrix.data.mul_(5)
        >>> update_(layer, 99), round(float(taut.lipschitz_bound(layer, (3,))), 3)
        (None, 5.0)
        >>> update_(layer, 100), round(float(taut.lipschitz_bound(layer, (3,))), 3)
        (None, 1.0)
    """
    if step < 0:
        raise ValueError(f"`step` must be at least 0; got {step}.")
    for owner in _parametrizations(model):
        with torch.autocast(next(_tensors(owner)).device.type, enabled=False):
            owner.update_(step)


@torch.no_grad()
def projected(model: _M) -> _M:
    """A copy of a model with every weight where its method means a finished one to be.

    What to save for others, evaluate and certify; training goes on with the model itself. For
    :class:`taut.SVCM` the copy is projected; for all other methods it is a mere copy.

    Args:
        model: its :mod:`taut.nn` layers are looked for at any depth; left as it is.

    Returns:
        The copy.

    Example:
        >>> layer = taut.nn.Linear(3, 3, parametrization=taut.SVCM)
        >>> _ = layer.parametrization.raw_matrix.data.mul_(5)
        >>> [round(float(taut.lipschitz_bound(x, (3,))), 3) for x in (projected(layer), layer)]
        [1.0, 5.0]
    """
    copied = copy.deepcopy(model)
    for owner in _parametrizations(copied):
        owner.project_()
    return copied


def _parametrizations(model: nn.Module) -> Iterator[AbstractParametrization]:
    return (module for module in model.modules() if isinstance(module, AbstractParametrization))


def _tensors(owner: nn.Module) -> Iterator[Tensor]:
    return chain(owner.parameters(), owner.buffers())


def _raw_tensors(model: nn.Module) -> list[Tensor]:
    """The raw tensors that their parametrizations read through bases."""
    owners = _parametrizations(model)
    return [raw for owner in owners if owner.reads_bases for raw in owner.parameters()]
