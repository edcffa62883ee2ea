"""Modules whose weights torch computes anew in each call, with the weights that they use now."""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

__all__ = ["has_parametrizations", "settled", "with_plain_weights"]


def has_parametrizations(model: nn.Module) -> bool:
    """Whether any module is parametrized by `torch.nn.utils.parametrize`."""
    return any(True for _ in _parametrized(model))


def with_plain_weights(model: nn.Module) -> nn.Module:
    """A copy of a model with a plain tensor for each parametrized weight, read once.

    Raises:
        ValueError: if the model cannot be copied.
    """
    try:
        plain = copy.deepcopy(model)
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"`model` cannot be copied: {error}") from error
    with torch.no_grad():
        for module, names in dict(_parametrized(plain)).items():
            weights = {name: _computed(module, name) for name in names}
            # Copies share the class that torch made for the original: it must keep its properties,
            # which torch's own `remove_parametrizations` takes away.
            module.__class__ = type(module).__bases__[0]
            del module.parametrizations
            module._load_state_dict_pre_hooks.clear()  # of weight_norm: they rename what is gone
            for name, weight in weights.items():
                module.register_parameter(name, nn.Parameter(weight.clone(), requires_grad=False))
    return plain


def settled(model: nn.Module) -> nn.Module:
    """The model itself; or a copy with the weights of now, where each call computes others.

    Power iterations move their vectors in each call, those of orthogonium in evaluation, too.
    """
    if not has_parametrizations(model):
        return model
    with torch.no_grad():
        probe = copy.deepcopy(model)
        for module, names in _parametrized(probe):
            for name in names:
                _computed(module, name)
        pairs = zip(_tensors(model), _tensors(probe), strict=True)
        moves = any(not torch.equal(before, after) for before, after in pairs)
    return with_plain_weights(model) if moves else model


def _computed(module: nn.Module, name: str) -> Tensor:
    """A parametrized weight, computed anew."""
    held = module.parametrizations
    assert isinstance(held, nn.ModuleDict)
    return held[name]()


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def _parametrized(module: nn.Module) -> Iterator[tuple[nn.Module, list[str]]]:
    """Parametrized modules and the names of their weights; those of parametrizations are no own."""
    if parametrize.is_parametrized(module):
        yield module, list(module.parametrizations)  # pyright: ignore[reportArgumentType]
    for name, child in module.named_children():
        if not (name == "parametrizations" and parametrize.is_parametrized(module)):
            yield from _parametrized(child)
