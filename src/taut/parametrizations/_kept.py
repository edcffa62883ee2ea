"""Raw tensors that an optimiser keeps orthonormal, so that they are their own bases."""

import weakref
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.weak import WeakIdKeyDictionary

from taut._torch_private import has_no_numbers, inside_transform, version_of
from taut.linalg.retraction import is_orthonormal


class _Kept(NamedTuple):
    """Who keeps a raw tensor orthonormal, and the state in which it was found so, or not."""

    keeper: weakref.ref[Any]
    state: tuple | None = None
    orthonormal: bool = False


_kept = WeakIdKeyDictionary()  # from each raw tensor to its `_Kept`


def keep_orthonormal(raws: Iterable[Tensor], keeper: object) -> None:
    """While `keeper` lives, let :func:`is_own_basis` look whether these are orthonormal.

    Example:
        >>> class Keeper:
        ...     pass
        >>> keeper, raw = Keeper(), torch.eye(2, requires_grad=True)
        >>> keep_orthonormal([raw], keeper)
        >>> is_own_basis(raw)
        True
    """
    for raw in raws:
        _kept[raw] = _Kept(weakref.ref(keeper))


def declare_orthonormal(raws: Iterable[Tensor], keeper: object) -> None:
    """State that these are orthonormal as they are now; whoever writes to one ends it.

    Example:
        >>> class Keeper:
        ...     pass
        >>> keeper, raw = Keeper(), torch.eye(2, requires_grad=True)
        >>> declare_orthonormal([raw], keeper)
        >>> is_own_basis(raw)
        True
        >>> with torch.no_grad():
        ...     _ = raw.mul_(2)
        >>> is_own_basis(raw)
        False
    """
    for raw in raws:
        _kept[raw] = _Kept(weakref.ref(keeper), _state(raw), True)


def is_own_basis(raw: Tensor) -> bool:
    """Whether a raw tensor is kept orthonormal, and the basis that is asked for is to be trained.

    Then its gradient is that of the basis. Without gradients bases are always computed, so that
    evaluation, certificates and exports do not depend on who trains.
    """
    if torch.compiler.is_compiling() or not torch.is_grad_enabled() or not _kept:
        return False
    if not raw.requires_grad or inside_transform() or has_no_numbers(raw):
        return False
    return is_kept_orthonormal(raw)


def is_kept_orthonormal(raw: Tensor) -> bool:
    """Whether a raw tensor is kept orthonormal, and is so now.

    Example:
        >>> is_kept_orthonormal(torch.eye(2))
        False
    """
    kept = _kept.get(raw)
    if kept is None:
        return False
    if kept.keeper() is None:
        del _kept[raw]
        return False
    if kept.state != _state(raw):
        with torch.no_grad():
            kept = _Kept(kept.keeper, _state(raw), is_orthonormal(raw))
        _kept[raw] = kept
    return kept.orthonormal


def _state(raw: Tensor) -> tuple:
    """Changes if the tensor is written to, or gets another memory."""
    return raw.data_ptr(), version_of(raw), raw.shape, raw.stride(), raw.dtype, raw.device


def _look_again(optimiser: Optimizer, *_: object) -> None:
    """After a step of another optimiser: torch's fused ones write without saying so."""
    if not _kept:
        return
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            kept = _kept.get(parameter)
            if kept is not None and kept.keeper() is not optimiser:
                _kept[parameter] = _Kept(kept.keeper)


# Once, on import, as the other one of this package.
register_optimizer_step_post_hook(_look_again)
