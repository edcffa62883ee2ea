"""Operations on the raw tensors of a whole model."""

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import TypeVar

import torch
from torch import Tensor, nn

from taut._arguments import whole
from taut._sharding import gathers, is_sharded, stored, whole_tensor
from taut._torch_private import inside_transform
from taut.linalg.bases import orthonormal_basis
from taut.linalg.packing import packed_bases, packs
from taut.linalg.rates import counts_launches
from taut.parametrizations._base import AbstractParametrization
from taut.parametrizations._cache import keeping_bases, keeping_weights, without_autocast
from taut.parametrizations._kept import is_own_basis
from taut.parametrizations._stack import stacks

_M = TypeVar("_M", bound=nn.Module)


@contextmanager
def batched(model: nn.Module) -> Iterator[None]:
    """Inside this context weights of equal layers, and bases of one shape, come from one call each.

    Kernels of layers that agree in method, shapes and strides are built together, and so are the
    bases of all raw tensors of one shape. They are computed once, on entry, however often the model
    is called inside: use one context per training step, around the forward pass. Outputs and
    gradients are the same as without it, to rounding. It helps on a GPU, where small calls wait for
    their launches (there, bases of small matrices of any shapes come from one call), and models
    that are called several times a step. All calls inside share one graph: sum their losses and
    call `backward` once (inside the context, if activations are checkpointed). On a CPU, shapes
    that occur once are not batched. A raw tensor that changes inside the context is computed again;
    compiled models ignore the context,
    as does a context that a transform of `torch.func` enters.

    Args:
        model: its :mod:`taut.nn` layers are found at any depth.

    Example:
        >>> model = torch.nn.Sequential(taut.nn.Linear(4, 4), taut.nn.Linear(4, 4))
        >>> with taut.batched(model):
        ...     model(torch.ones(1, 4)).sum().backward()
        >>> model[0].parametrization.raw_matrix.grad.shape
        torch.Size([4, 4])
    """
    with _batched(model, lambda raw: True):
        yield


@contextmanager
def batched_if_quicker(model: nn.Module) -> Iterator[None]:
    """As :func:`batched`, of what is quicker so: `taut train` computes each step inside.

    Off the CPU that is all of it. On a CPU it is the kernels of equal layers of few channels, of
    which the calls take longer than the numbers; bases of large matrices are as quick one by one.

    Args:
        model: as of :func:`batched`.

    Example:
        >>> layer = taut.nn.Linear(4, 4)
        >>> with batched_if_quicker(layer):
        ...     layer(torch.ones(1, 4)).shape
        torch.Size([1, 4])
    """
    with _batched(model, lambda raw: counts_launches(raw.device)):
        yield


@contextmanager
def _batched(model: nn.Module, wants_basis: Callable[[Tensor], bool]) -> Iterator[None]:
    """Inside, the weights of all stacks are kept, and the bases of the other raw tensors wanted."""
    owners = [owner for owner in _parametrizations(model) if owner.reads_bases]
    if inside_transform():  # its tensors are gone when it ends
        owners = []
    found = stacks(owner for owner in owners if not _is_apart(owner))
    stacked = {raw: raws for stack in found for raw, raws in stack.join().items()}
    in_stacks = {raw for raws in stacked.values() for raw in raws}
    every = (stored(raw) for owner in owners for raw in owner.parameters())
    others = (raw for raw in every if raw not in in_stacks and not is_own_basis(raw))
    raws = [(raw, 1) for raw in others if wants_basis(raw)]
    raws += [(raw, len(parts)) for raw, parts in stacked.items()]
    with keeping_bases(_bases(raws)):
        weights: dict[AbstractParametrization, tuple[Tensor, Tensor | None]] = {}
        for stack in found:
            with without_autocast(next(stack.whole.parameters()).device):
                made = [(weight, None) for weight in stack.weights()]
            weights.update(zip(stack.owners, made, strict=True))
        with keeping_weights(weights):
            yield


def _bases(raws: list[tuple[Tensor, int]]) -> list[tuple[Tensor, Tensor]]:
    """Bases of raw tensors, each given with the number of layers that it is of, in few calls."""
    groups: dict[tuple, list[tuple[Tensor, int]]] = defaultdict(list)
    for raw, layers in raws:
        if raw.numel():
            # Off the CPU small matrices of any shape come from one call.
            shape = () if counts_launches(raw.device) else raw.shape[-2:]
            groups[shape, raw.dtype, raw.device, raw.requires_grad].append((raw, layers))
    kept = []
    for (shape, _, device, _), group in groups.items():
        if shape and sum(layers for _, layers in group) == 1:
            continue
        stacked = [whole_tensor(raw).reshape(-1, *raw.shape[-2:]) for raw, _ in group]
        sizes = [(len(x), x.shape[1], x.shape[2]) for x in stacked]
        for places in [range(len(group))] if shape else packs(sizes):
            with without_autocast(device):
                bases = packed_bases([stacked[i] for i in places])
            for i, basis in zip(places, bases, strict=True):
                kept.append((group[i][0], basis.view(group[i][0].shape)))
    return kept


def _is_apart(owner: AbstractParametrization) -> bool:
    """Whether raw tensors are distributed, or bases already: then they are not joined to others."""
    return any(is_sharded(stored(raw)) or is_own_basis(raw) for raw in owner.parameters())


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
