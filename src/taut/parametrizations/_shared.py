"""Weights that each process computes a share of."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable

from taut._sharding import is_sharded
from taut.parametrizations._base import AbstractParametrization
from taut.parametrizations._cache import keeping_weights, without_autocast
from taut.parametrizations._spectral import AbstractSpectral


@contextmanager
def shared_weights(model: nn.Module, group: Any = None) -> Iterator[None]:
    r"""Inside this context each process has computed a share of the weights, and has those of all.

    For models that :class:`torch.nn.parallel.DistributedDataParallel` copies to every process,
    which otherwise computes all weights itself. They are computed on entry: layers are dealt out by
    their size, and what each process made of its own is gathered everywhere. The backward pass adds
    up the gradients of a weight where it was computed. Outputs are the same as without the context,
    and so are the gradients after the averaging of DDP, to rounding.

    Guarantee: as that of the layers; all processes use the same numbers.
    Cost: the weights once over all processes, and two exchanges: all weights forward, all their
        gradients backward. It pays where that is less than computing them: for many channels, and
        fast links. Convolutions whose factors would be applied without a kernel get the kernel.

    Use one context per forward pass, around the call of the wrapped model, in every process. A raw
    tensor that changes inside the context is computed again, by each process. Kernels as large as
    their input (:class:`taut.Cayley` and others) are not shared, nor are matrices that layers apply
    by their factors (:class:`taut.Orthogonal`), of which the exchange would cost more. It changes
    nothing in a single process; compiled models ignore it.

    Args:
        model: its :mod:`taut.nn` layers are found at any depth.
        group: of processes; all by default.

    Raises:
        ValueError: if `fully_shard` distributed the model: its raw tensors are gathered layer by
            layer then.

    Example:
        >>> layer = taut.nn.Linear(4, 4)
        >>> with taut.shared_weights(layer):
        ...     layer(torch.ones(1, 4)).shape
        torch.Size([1, 4])
    """
    if any(is_sharded(parameter) for parameter in model.parameters()):
        raise ValueError(
            "`model` must not be sharded by fully_shard, which has no use for shared weights."
        )
    several = distributed.is_available() and distributed.is_initialized()
    if not several or distributed.get_world_size(group) == 1 or torch.compiler.is_compiling():
        yield
        return
    with keeping_weights(_gathered_weights(model, group)):
        yield


class _Share(NamedTuple):
    """A parametrization, the process that computes its weight, and the shapes of what it makes."""

    owner: AbstractParametrization
    rank: int
    shapes: tuple[torch.Size, ...]


def _gathered_weights(
    model: nn.Module, group: Any
) -> dict[AbstractParametrization, tuple[Tensor, Tensor | None]]:
    kinds: dict[tuple, list[AbstractParametrization]] = {}
    for owner in model.modules():
        if isinstance(owner, AbstractParametrization) and _is_shared(owner):
            raw = next(owner.parameters())
            kinds.setdefault((raw.dtype, raw.device), []).append(owner)
    weights = {}
    for owners in kinds.values():
        shares = _dealt(owners, distributed.get_world_size(group))
        parts = iter(_exchanged(shares, group))
        for share in shares:
            weight, *scale = (next(parts) for _ in share.shapes)
            weights[share.owner] = weight, next(iter(scale), None)
    return weights


def _is_shared(owner: AbstractParametrization) -> bool:
    """Whether there is one weight to exchange, which is not cheaper to do without."""
    if all(raw.is_meta for raw in owner.parameters()):
        return False
    if owner.kernel_size:
        return not isinstance(owner, AbstractSpectral)
    return type(owner).transform is AbstractParametrization.transform


def _dealt(owners: list[AbstractParametrization], world: int) -> list[_Share]:
    """The largest first, each to the process that has least so far."""
    loads, shares = [0] * world, {}
    for owner in sorted(owners, key=_cost, reverse=True):
        rank = loads.index(min(loads))
        loads[rank] += _cost(owner)
        weight = (owner.out_channels, owner.in_channels // owner.groups, *owner.kernel_size)
        shapes = [torch.Size(weight)]
        if type(owner).scaled_weight is not AbstractParametrization.scaled_weight:
            shapes.append(torch.Size((owner.out_channels,)))
        shares[owner] = _Share(owner, rank, tuple(shapes))
    return [shares[owner] for owner in owners]


def _cost(owner: AbstractParametrization) -> int:
    """In proportion to the multiplications of a Gram matrix of each raw tensor."""
    return sum(raw.numel() * raw.shape[-1] for raw in owner.parameters() if raw.ndim)


def _exchanged(shares: list[_Share], group: Any) -> tuple[Tensor, ...]:
    """What all owners make: weights, and scales where they have them."""
    own, others, rank = [], [], distributed.get_rank(group)
    for share in shares:
        if share.rank != rank:
            others += [raw for raw in share.owner.parameters() if raw.requires_grad]
            continue
        with without_autocast(next(share.owner.parameters()).device):
            made = [x for x in share.owner.scaled_weight() if x is not None]
        if tuple(x.shape for x in made) != share.shapes:
            raise ValueError(
                f"`model` must have weights of the shapes of their layers; "
                f"{type(share.owner).__name__} makes {[tuple(x.shape) for x in made]}."
            )
        own += made
    like = next(shares[0].owner.parameters())
    return _Exchange.apply(shares, group, like, len(own), *own, *others)  # pyright: ignore[reportReturnType]


class _Exchange(torch.autograd.Function):
    """Own tensors to those of all; other raw tensors get gradients of zero, which DDP waits for."""

    @staticmethod
    def forward(
        ctx: Any, shares: list[_Share], group: Any, like: Tensor, count: int, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.shares, ctx.group = shares, group
        ctx.save_for_backward(*tensors[count:])
        sizes = [0] * distributed.get_world_size(group)
        for share in shares:
            sizes[share.rank] += sum(shape.numel() for shape in share.shapes)
        ctx.size = max(sizes)
        own = like.new_zeros(ctx.size)
        if count:
            flat = torch.cat([x.reshape(-1) for x in tensors[:count]])
            own[: len(flat)] = flat
        everyone = own.new_empty(len(sizes), ctx.size)
        distributed.all_gather(list(everyone.unbind()), own, group=group)
        return tuple(part.clone() for part in _parts(shares, everyone))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        shares, rank = ctx.shares, distributed.get_rank(ctx.group)
        everyone = grads[0].new_zeros(distributed.get_world_size(ctx.group), ctx.size)
        for part, grad in zip(_parts(shares, everyone), grads, strict=True):
            part.copy_(grad)
        total = everyone.new_empty(ctx.size)
        distributed.reduce_scatter(total, list(everyone.unbind()), group=ctx.group)
        everyone[rank] = total
        ranks = [share.rank for share in shares for _ in share.shapes]
        parts = zip(_parts(shares, everyone), ranks, strict=True)
        own = [part.clone() for part, of in parts if of == rank]
        others = map(torch.zeros_like, ctx.saved_tensors)
        return None, None, None, None, *own, *others


def _parts(shares: list[_Share], everyone: Tensor) -> Iterator[Tensor]:
    """The parts of a buffer `(processes, numbers)` that belong to what the owners make."""
    starts = [0] * len(everyone)
    for share in shares:
        for shape in share.shapes:
            start, count = starts[share.rank], shape.numel()
            yield everyone[share.rank, start : start + count].view(shape)
            starts[share.rank] += count
