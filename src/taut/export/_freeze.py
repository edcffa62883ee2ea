"""The same function in plain torch modules, each weight computed once."""

import copy
from collections.abc import Iterator
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from taut._arguments import check_module, whole
from taut._sharding import gathers
from taut.export._chains import shorten
from taut.export._sizes import input_sizes
from taut.nn import AbstractParametrizedLayer
from taut.parametrizations import AbstractParametrization
from taut.program import has_parametrizations, with_plain_weights

__all__ = ["freeze"]


@gathers
def freeze(
    model: nn.Module,
    input_shape: tuple[int, ...] | None = None,
    *,
    window: int | None = None,
) -> nn.Module:
    r"""Return a copy of a model with plain torch layers in place of parametrized ones.

    Each :class:`taut.nn.Conv2d` becomes a `torch.nn.Conv2d` (of a subclass,
    :class:`taut.nn.CircularConv2d`, where padding is circular), each :class:`taut.nn.Linear` a
    `torch.nn.Linear`, and so on, under the name it had; weights that torch parametrizes
    (`torch.nn.utils.parametrize`) become plain ones; everything else is copied, wherever in
    the model and in whatever class of yours it stands. Stateless modules of :mod:`taut.nn` stay.
    What is shared stays shared, and train or eval mode as it was. No parameter of the copy requires
    a gradient: a frozen model is for inference (weights trained on would leave their constraint).

    Padding that no plain convolution has goes into a stateless module in front of it: zeros that
    complete the input to a multiple of the stride, so that any size still goes; padding of one
    position more behind than before (even kernels of stride 1, say); isometric padding. In a chain
    of `nn.Sequential` from the model down it is an entry of its own, such as `conv1_pad` before
    `conv1`: names stay, positions shift. Elsewhere they come as one `Sequential` that ends in
    `layer`; so do transposed layers of which a call may ask a size of the output
    (:class:`taut.nn.SizedConvTranspose`).

    In such a chain MaxMin, Abs or ReLU in front of a circular convolution becomes a
    :class:`taut.nn.CircularPad2d`, whose output is padded already, and the convolution one without
    padding; where the chain goes on to an `nn.Flatten()`, batches of images have channels last.

    Guarantee: weights bit for bit those of `layer.weight`; the function that of the original, to
        rounding, which memory formats and factors of a weight change.
        :func:`taut.lipschitz_bound` proves the same.
    Cost: one read of each weight, and a copy of the rest.

    Kernels that fill the periodic domain of their input (:class:`taut.Cayley` and others) are
    different for each size. With `input_shape` they become :class:`taut.nn.SpectralConv`, which
    refuses other sizes; those of :class:`taut.ECO` become plain dilated convolutions for that size.

    Args:
        model: any module; left as it is.
        input_shape: of one input, without the batch; needed where kernels fill their input.
        window: cut such kernels to their middle taps, so many an axis, and divide them by their
            proven norm where it is above 1: plain convolutions, of *another function*, which is
            near the original only where kernels are near the identity.

    Returns:
        The copy, without hooks, and without any trace of a parametrization.

    Raises:
        ValueError: if a module has hooks or a replaced method, is lazy, is
            a parametrization itself, a subclass of a layer of taut, or cannot be copied; if
            `input_shape` is needed and missing, or does not fit.

    Example:
        >>> model = nn.Sequential(taut.nn.Conv2d(1, 4, 3), taut.nn.MaxMin())
        >>> frozen = freeze(model)
        >>> list(frozen.state_dict()), isinstance(frozen[0], nn.Conv2d)
        (['0.weight', '0.bias'], True)
        >>> x = torch.rand(2, 1, 8, 8)
        >>> torch.allclose(frozen(x), model(x), atol=1e-6)
        True
    """
    check_module(model)
    with torch.inference_mode(False), torch.no_grad():
        model = with_plain_weights(model) if has_parametrizations(model) else model
        layers = list(_layers(model, "", set()))
        full = [layer for layer in layers if layer.fills_input]
        if window is not None and not full:
            raise ValueError("`window` must be None: no kernel fills the size of its input.")
        twins = _Twins(input_sizes(model, full, input_shape), _whole_or_none("window", window))
        for layer in layers:
            twins.add(layer)
        frozen = twins.copied(model)
    return frozen.requires_grad_(False)


def _whole_or_none(name: str, value: Any) -> int | None:
    return None if value is None else whole(name, value)


def _layers(module: nn.Module, path: str, seen: set[int]) -> Iterator[AbstractParametrizedLayer]:
    """The layers to be replaced, each once; what cannot be frozen is refused on the way."""
    if id(module) in seen:
        return
    seen.add(id(module))
    _check(module, f"`{path or 'model'}` ({type(module).__name__})")
    if isinstance(module, AbstractParametrizedLayer):
        yield module
        return
    for name, child in module.named_children():
        yield from _layers(child, f"{path}.{name}" if path else name, seen)


def _check(module: nn.Module, name: str) -> None:
    tensors = (*module._parameters.values(), *module._buffers.values())
    if any(tensor is not None and is_lazy(tensor) for tensor in tensors):
        raise ValueError(f"{name} is lazy: run it once, so that its weights exist.")
    for attribute, value in vars(module).items():
        if attribute.endswith("_hooks") and value:
            raise ValueError(f"{name} has hooks, which may refer to this model; remove them.")
        if callable(value) and callable(getattr(type(module), attribute, None)):
            raise ValueError(f"{name} has a replaced {attribute}; freeze the plain module.")
    if _is_foreign(module):
        raise ValueError(f"{name} cannot be frozen: {_reason(module)}")


def _is_foreign(module: nn.Module) -> bool:
    """Whether a module is taut's, or made from one of taut's, and says not how it is frozen."""
    kind = type(module)
    if isinstance(module, AbstractParametrizedLayer):
        return "frozen" not in vars(kind) and not _is_ours(kind)
    made_of_ours = any(map(_is_ours, kind.__mro__))
    return isinstance(module, AbstractParametrization) or (made_of_ours and not _is_ours(kind))


def _is_ours(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == "taut"


def _reason(module: nn.Module) -> str:
    if isinstance(module, AbstractParametrization):
        return "a parametrization has no forward; use it in a layer of taut.nn."
    return (
        "it is a subclass of a layer of taut; say how it is frozen by a method `frozen` of its own."
    )


@final
class _Twins:
    """The twins of a model's layers, with what they share."""

    def __init__(self, sizes: dict[int, tuple[int, ...]], window: int | None) -> None:
        self._sizes, self.window = sizes, window
        self._memo: dict[int, Any] = {}  # of copy.deepcopy: from what is to what stands for it
        self._weights: dict[tuple, nn.Parameter] = {}
        self._padded: list[nn.Module] = []

    def add(self, layer: AbstractParametrizedLayer) -> None:
        """Make the twin of a layer."""
        twin = layer.frozen(self).train(layer.training)
        self._memo[id(layer)] = twin
        if isinstance(twin, nn.Sequential):
            self._padded.append(twin)

    def weight(self, layer: AbstractParametrizedLayer) -> nn.Parameter:
        """A copy of the weight, one for all that share it."""
        key = (layer.parametrization, layer.gain)
        if key not in self._weights:
            copied = layer.weight.detach().clone(memory_format=torch.contiguous_format)
            self._weights[key] = nn.Parameter(copied, requires_grad=False)
        return self._weights[key]

    def input_size(self, layer: AbstractParametrizedLayer) -> tuple[int, ...]:
        """The spatial size of the inputs of a layer whose kernel fills it."""
        return self._sizes[id(layer)]

    def bias(self, bias: Tensor | None) -> Any:
        """A copy, the same for all that share the bias."""
        return copy.deepcopy(bias, self._memo)

    def copied(self, model: nn.Module) -> nn.Module:
        """The model with the twins in the places of the layers, attributes and lists included."""
        try:
            frozen = copy.deepcopy(model, self._memo)
        except (TypeError, RuntimeError) as error:
            raise ValueError(f"`model` cannot be copied: {error}") from error
        for value in self._memo.values():
            if isinstance(value, nn.Module) and (
                _is_foreign(value) or isinstance(value, AbstractParametrizedLayer)
            ):
                raise ValueError(
                    f"`model` holds {type(value).__name__} outside of its modules; put it into an "
                    "attribute of its own, an nn.ModuleList or an nn.ModuleDict."
                )
        # Other classes may count on the positions in a sequence that they hold.
        holders = (m for m in frozen.modules() if type(m) is not nn.Sequential)
        held = {child for module in holders for child in module.children()}
        held.update(self._padded)
        self._splice(frozen, held)
        shorten(frozen, held)
        return frozen

    def _splice(self, sequence: nn.Module, held: set[nn.Module]) -> None:
        """Make entries of their own of what stands in front of convolutions in a chain."""
        if type(sequence) is not nn.Sequential or sequence in held:
            return
        entries = list(sequence._modules.items())
        sequence._modules.clear()
        for name, child in entries:
            if child in self._padded:
                for part, module in child.named_children():
                    sequence.add_module(name if part == "layer" else f"{name}_{part}", module)
            else:
                self._splice(child, held)
                sequence.add_module(name, child)
