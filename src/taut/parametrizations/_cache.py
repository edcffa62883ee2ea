"""Weights and bases that are kept for a while: the only caches of the package."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from taut._sharding import stored, whole_tensors
from taut._torch_private import (
    inside_transform,
    is_functorch_wrapped_tensor,
    is_traced,
    recomputes_on_its_own,
    under_autocast,
    version_of,
)
from taut.linalg.bases import orthonormal_basis
from taut.linalg.precision import both, exact_float32
from taut.linalg.stiefel import own_basis
from taut.parametrizations._base import AbstractParametrization
from taut.parametrizations._kept import is_own_basis
from taut.parametrizations._spectral import AbstractSpectral

_local = threading.local()  # `weights`, `bases` and `layers`: what the contexts of a thread keep
_lock = threading.Lock()
_contexts = 0  # how many contexts are open, in all threads


@contextmanager
def _noticing_steps() -> Iterator[None]:
    """Inside this context a step of any optimiser counts as a change of its tensors."""
    global _contexts
    with _lock:
        _contexts += 1
    try:
        yield
    finally:
        with _lock:
            _contexts -= 1


def _count_step(optimiser: Optimizer, *_: object) -> None:
    """Count the step as a change: torch's fused optimisers write without saying so."""
    if _contexts == 0:
        return
    tensors = (p for group in optimiser.param_groups for p in group["params"])
    changed = [p for p in tensors if p.grad is not None and not p.is_inference()]
    torch.autograd.graph.increment_version(changed)


# Once, on import: torch keeps hooks in a global dict, over which another thread may be iterating.
register_optimizer_step_post_hook(_count_step)


@contextmanager
def cached() -> Iterator[None]:
    """Inside this context each weight is computed once, not once per forward pass.

    A cached weight serves only reads that need no gradient of it: with gradients disabled, or with
    raw tensors that do not require one. Training inside the context computes weights as usual, as
    do reads under `torch.func` transforms, and reads of tensors made in inference mode. A weight is
    computed again once a raw tensor has changed (an optimiser step, `load_state_dict`, `.to`);
    changes through `Tensor.data` go unnoticed, as they do in torch. Contexts may be nested; each
    thread has its own.

    Example:
        >>> matrix = taut.Orthogonal(3, 3)
        >>> with torch.no_grad(), taut.cached():
        ...     read_weight(matrix) is read_weight(matrix)
        True
    """
    outer = getattr(_local, "weights", None)
    _local.weights = {} if outer is None else outer
    try:
        with _noticing_steps():
            yield
    finally:
        _local.weights = outer


def read_basis(raw: Tensor) -> Tensor:
    """The orthonormal basis of a raw tensor, from :func:`taut.batched` if that has it.

    In training it is the raw tensor itself if an optimiser of `taut.optim` keeps that orthonormal.

    Example:
        >>> read_basis(torch.tensor([[3.0], [4.0]]))
        tensor([[0.6000],
                [0.8000]])
    """
    kept = kept_basis(raw)
    if kept is not None:
        return kept
    return own_basis(raw) if is_own_basis(raw) else orthonormal_basis(raw)


def kept_basis(raw: Tensor) -> Tensor | None:
    """The basis that :func:`taut.batched` keeps for a raw tensor, if it has not changed since."""
    if torch.compiler.is_compiling() or getattr(_local, "bases", None) is None:
        return None
    raw_state, basis_state, basis = _local.bases.get(stored(raw), (None, None, None))
    if basis is None or raw_state != _state(raw) or basis_state != _state(basis):
        return None
    return basis if _may_be_used(basis, raw.requires_grad) else None


def _may_be_used(kept: Tensor, learned: bool) -> bool:
    """Whether a read with or without a gradient may have this one, whose graph others share."""
    if not torch.is_grad_enabled():
        return True
    if learned != kept.requires_grad:  # frozen since, or learned only now
        return False
    # A backward pass of its own would use up the graph.
    return not (kept.requires_grad and recomputes_on_its_own())


@contextmanager
def keeping_bases(pairs: list[tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Inside this context :func:`read_basis` answers with these bases of these raw tensors."""
    outer = getattr(_local, "bases", None)
    kept = {
        raw: (_state(raw), _state(basis), basis)
        for raw, basis in pairs
        if not (raw.is_inference() or basis.is_inference())
    }
    _local.bases = {**(outer or {}), **kept}
    try:
        with _noticing_steps():
            yield
    finally:
        _local.bases = outer


@contextmanager
def keeping_weights(
    weights: dict[AbstractParametrization, tuple[Tensor, Tensor | None]],
) -> Iterator[None]:
    """Inside this context reads answer with these weights, and scales of their outputs."""
    outer = getattr(_local, "shared", None)
    kept = {
        owner: (_states(owner), _state(weight), weight, scale)
        for owner, (weight, scale) in weights.items()
        if not weight.is_inference()
    }
    _local.shared = {**(outer or {}), **kept}
    try:
        with _noticing_steps():
            yield
    finally:
        _local.shared = outer


def kept_weight(owner: AbstractParametrization) -> tuple[Tensor, Tensor | None] | None:
    """What :func:`keeping_weights` holds for a parametrization that has not changed since."""
    if torch.compiler.is_compiling() or not getattr(_local, "shared", None):
        return None
    if any(map(is_functorch_wrapped_tensor, owner.parameters())):
        return None
    raw_state, weight_state, weight, scale = _local.shared.get(owner, (None,) * 4)
    if weight is None or (raw_state, weight_state) != (_states(owner), _state(weight)):
        return None
    learned = any(p.requires_grad for p in owner.parameters())
    return (weight, scale) if _may_be_used(weight, learned) else None


def _states(owner: AbstractParametrization) -> tuple:
    return tuple(map(_state, (*owner.parameters(), *owner.buffers())))


class _CachedWeight(NamedTuple):
    """A cached weight with the state needed to invalidate it."""

    raw_state: tuple
    weight_state: tuple
    weight: Tensor
    alive: tuple[Tensor, ...]  # the raw tensors, so that no new tensor takes their addresses


def read_weight(
    parametrization: AbstractParametrization, size: tuple[int, ...] | None = None
) -> Tensor:
    """The weight of a parametrization, from the cache where :func:`cached` allows it.

    Computed in the precision of the raw tensors, under autocast too. Without gradients it is
    contiguous: convolutions sum in another order for other strides.

    Args:
        parametrization: the owner of the raw tensors.
        size: spatial size of the input, for an :class:`AbstractSpectral`, whose kernel depends on
            it.

    Example:
        >>> read_weight(taut.Orthogonal(2, 3)).shape
        torch.Size([3, 2])
    """
    if size is None and (kept := kept_weight(parametrization)) is not None:
        return kept[0]
    sizes = () if size is None else (size,)
    return _read(parametrization, size, lambda: parametrization.weight(*sizes))


def read_scaled_weight(parametrization: AbstractParametrization) -> tuple[Tensor, Tensor | None]:
    """The weight and the scale of its outputs, likewise; see `scaled_weight`.

    Example:
        >>> weight, scale = read_scaled_weight(taut.SLL(2, 3))
        >>> weight.shape, scale.shape
        (torch.Size([3, 2]), torch.Size([3]))
    """
    if type(parametrization).scaled_weight is AbstractParametrization.scaled_weight:
        return read_weight(parametrization), None
    if (kept := kept_weight(parametrization)) is not None:
        return kept
    if keeps_weight(parametrization):
        scale = _read(parametrization, "scale", lambda: parametrization.scaled_weight()[1])
        return read_weight(parametrization), scale
    with without_autocast(next(parametrization.parameters()).device):
        weight, scale = parametrization.scaled_weight()
    return weight if torch.is_grad_enabled() else _contiguous(weight), scale


def read_symbol(parametrization: AbstractSpectral, size: tuple[int, ...]) -> Tensor:
    """The symbol of a parametrization in the frequency domain, likewise.

    Args:
        parametrization: the owner of the raw tensors.
        size: of the periodic domain, after downsampling by the stride.

    Example:
        >>> read_symbol(taut.LOT(2, 3, (3, 3)), (4, 4)).shape
        torch.Size([10, 3, 2])
    """
    return _read(parametrization, ("symbol", size), lambda: parametrization.symbol(size))


def _read(parametrization: AbstractParametrization, name: Any, compute: Callable[[], Any]) -> Any:
    """A tensor that a parametrization computes, from the cache under this name if it may be."""
    tensors = (*parametrization.parameters(), *parametrization.buffers())
    with without_autocast(tensors[0].device), whole_tensors(parametrization):
        if not keeps_weight(parametrization):
            weight = compute()
            return weight if torch.is_grad_enabled() else _contiguous(weight)
        key = (parametrization, name)
        raw_state = (torch.is_inference_mode_enabled(), *map(_state, tensors))
        kept = _local.weights.get(key)
        if kept is None or (kept.raw_state, kept.weight_state) != (raw_state, _state(kept.weight)):
            weight = _contiguous(compute())
            alive = tuple(stored(tensor).detach() for tensor in tensors)
            kept = _CachedWeight(raw_state, _state(weight), weight, alive)
            _local.weights[key] = kept
        return kept.weight


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Inside, neither autocast nor a setting of torch rounds more than the dtype does.

    Args:
        device: on which is computed.

    Example:
        >>> with torch.autocast("cpu"), without_autocast(torch.device("cpu")):
        ...     (torch.ones(1, 1) @ torch.ones(1, 1)).dtype
        torch.float32
    """
    if device.type == "meta":  # has no numbers, and no autocast
        return nullcontext()
    plain, exact = torch.autocast(device.type, enabled=False), exact_float32(device)
    return plain if isinstance(exact, nullcontext) else both(plain, exact)


def _contiguous(weight: Tensor) -> Tensor:
    """With the strides of a new tensor of its shape, also along axes of length 1."""
    strides = torch.empty(weight.shape, device="meta").stride()
    if weight.stride() == strides:
        return weight
    return weight.clone(memory_format=torch.contiguous_format)


def _state(tensor: Tensor) -> tuple:
    """Changes if the tensor is replaced, or written to (unless inference mode made it)."""
    dtype, tensor = tensor.dtype, stored(tensor)
    version = None if tensor.is_inference() else version_of(tensor)
    return tensor.data_ptr(), version, tensor.stride(), dtype, tensor.device


def may_transform(parametrization: AbstractParametrization, x: Tensor) -> bool:
    """Whether a layer may ask for :meth:`AbstractParametrization.transform` here and now.

    Not without gradients, so that evaluation equals what :func:`taut.freeze` ships, bit for bit;
    nor under autocast, which rounds the weight only when it is used; where :func:`cached` keeps the
    weight; and under transforms of `torch.func`.

    Example:
        >>> with torch.no_grad():
        ...     may_transform(taut.BCOP(2, 2, (3, 3)), torch.zeros(1, 2, 4, 4))
        False
    """
    if not torch.is_grad_enabled() or under_autocast(x):
        return False
    if keeps_weight(parametrization) or kept_weight(parametrization) is not None:
        return False
    return not (inside_transform() or is_traced())


def keeps_weight(parametrization: AbstractParametrization) -> bool:
    """Whether :func:`cached` serves this parametrization here and now."""
    # A compiled graph computes the weight in each call: freeze the model to have it once.
    if torch.compiler.is_compiling() or getattr(_local, "weights", None) is None:
        return False
    tensors = (*parametrization.parameters(), *parametrization.buffers())
    if any(t.is_inference() or is_functorch_wrapped_tensor(t) for t in tensors):
        return False
    return not (torch.is_grad_enabled() and any(t.requires_grad for t in tensors))
