"""Operations on the raw tensors of a whole model."""

import copy
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import TypeVar

import torch
from torch import Tensor, nn

from taut._arguments import whole
from taut._sharding import gathers, stored, whole_tensor
from taut.linalg.bases import orthonormal_basis
from taut.parametrizations._base import AbstractParametrization
from taut.parametrizations._cache import keeping_bases, without_autocast

_M = TypeVar("_M", bound=nn.Module)


@contextmanager
def batched(model: nn.Module) -> Iterator[None]:
    """Inside this context the bases of all raw tensors of one shape come from one batched call.

    They are computed once, on entry, however often the model is called inside: use one context per
    training step, around the forward pass. Outputs and gradients are the same as without it, to
    rounding. It helps deep models of equal layers on a GPU, where small calls wait for their
    launches, and models that are called several times a step. All calls inside share one graph:
    sum their losses and call `backward` once (inside the context, if activations are
    checkpointed). Shapes that occur once are not batched. A raw tensor that changes inside the
    context is computed again; compiled models ignore the context.

    Args:
        model: its :mod:`taut.nn` layers are found at any depth.

    Example:
        >>> model = torch.nn.Sequential(taut.nn.Linear(4, 4), taut.nn.Linear(4, 4))
        >>> with taut.batched(model):
        ...     model(torch.ones(1, 4)).sum().backward()
        >>> model[0].parametrization.raw_matrix.grad.shape
        torch.Size([4, 4])
    """
    groups: dict[tuple, list[Tensor]] = defaultdict(list)
    for raw in map(stored, _raw_tensors(model)):
        if raw.numel():
            groups[raw.shape[-2:], raw.dtype, raw.device, raw.requires_grad].append(raw)
    kept = []
    for (shape, _, device, _), raws in groups.items():
        if len(raws) > 1:
            with without_autocast(device):
                bases = orthonormal_basis(
                    torch.cat([whole_tensor(raw).reshape(-1, *shape) for raw in raws])
                )
            counts = [raw.numel() // shape.numel() for raw in raws]
            parts = bases.split(counts)
            kept += [(raw, part.view(raw.shape)) for raw, part in zip(raws, parts, strict=True)]
    with keeping_bases(kept):
        yield


def after_step(model: nn.Module, step: int, *, retract_every: int = 16) -> None:
    """Call this after every optimiser step: :func:`update_`, and :func:`retract_` now and then.

    Args:
        model: its :mod:`taut.nn` layers are found at any depth.
        step: number of optimiser steps taken so far, this one included.
        retract_every: steps from one :func:`retract_` to the next; 0 for never.

    Raises:
        ValueError: if a number is negative.

    Example:
        >>> model = taut.nn.Linear(3, 3)
        >>> optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> for step in range(1, 20):
        ...     model(torch.ones(1, 3)).sum().backward()
        ...     optimiser.step()
        ...     after_step(model, step)
    """
    if whole("retract_every", retract_every, least=0) and step % retract_every == 0:
        retract_(model)
    update_(model, step)


@gathers
@torch.no_grad()
def retract_(model: nn.Module) -> None:
    """Replace every raw tensor by its own orthonormal basis, in place.

    The model computes the same function, to rounding, since its weights depend on the raw tensors
    only through their bases. The next gradient steps act on raw tensors of norm 1 and condition 1
    again, of which bases cost least. Call it every few training steps, as :func:`after_step` does.

    Args:
        model: its :mod:`taut.nn` layers are found at any depth.

    Example:
        >>> layer = taut.nn.Linear(3, 3)
        >>> _ = layer.parametrization.raw_matrix.data.mul_(5)
        >>> retract_(layer)
        >>> bool(torch.linalg.matrix_norm(layer.parametrization.raw_matrix, 2) < 1.0001)
        True
    """
    for raw in _raw_tensors(model):
        raw.copy_(orthonormal_basis(raw))


@gathers
@torch.no_grad()
def update_(model: nn.Module, step: int) -> None:
    """Run the updates that the methods of a model need after an optimiser step, in place.

    :class:`taut.OSSN` takes its steps of power iteration, :class:`taut.SVCM` projects every so many
    steps; other methods do nothing.

    Args:
        model: its :mod:`taut.nn` layers are found at any depth.
        step: number of optimiser steps taken so far, this one included.

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
    step = whole("step", step, least=0)
    for owner in _parametrizations(model):
        with without_autocast(next(_tensors(owner)).device):
            owner.update_(step)


@gathers
@torch.no_grad()
def projected(model: _M) -> _M:
    """A copy of a model with every raw tensor projected as a finished model needs it.

    Save, evaluate and certify this copy; continue training with the model itself.
    :class:`taut.SVCM` is projected; all other methods are only copied.

    Args:
        model: its :mod:`taut.nn` layers are found at any depth; not changed.

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
