"""A plain network with 1-Lipschitz twins in the places of its layers."""

import copy
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, final

from torch import fx, nn

from taut.nn import Conv2d, Linear, MaxMin
from taut.parametrizations import BCOP, AbstractParametrization, Orthogonal
from taut.program import lipschitz_bound

__all__ = ["Change", "Converted", "convert"]

Parametrization = Callable[..., AbstractParametrization]


@final
class Change(NamedTuple):
    """What became of one layer.

    Attributes:
        name: of the layer in the model, or of a function in its forward.
        before: its type.
        after: the type of what stands there now; None where it could not be converted.
        note: what is different, or why not.

    Example:
        >>> print(Change("act", "ReLU", "MaxMin", "keeps gradients"))
        act: ReLU -> MaxMin (keeps gradients)
    """

    name: str
    before: str
    after: str | None
    note: str = ""

    def __str__(self) -> str:
        """One line."""
        became = "LEFT AS IT IS" if self.after is None else self.after
        return f"{self.name}: {self.before} -> {became}" + (f" ({self.note})" if self.note else "")


@final
class Converted(NamedTuple):
    """A converted model and what was done to it.

    Attributes:
        model: with new weights, to be trained.
        changes: one for each layer that is another one now, or should be.

    Example:
        >>> Converted(nn.ReLU(), (Change("0", "Softmax", None),)).left
        (Change(name='0', before='Softmax', after=None, note=''),)
    """

    model: nn.Module
    changes: tuple[Change, ...]

    @property
    def left(self) -> tuple[Change, ...]:
        """What could not be converted, and keeps the model from being 1-Lipschitz by design."""
        return tuple(change for change in self.changes if change.after is None)

    def __repr__(self) -> str:
        """The numbers of changes, and what is left."""
        names = ", ".join(change.name for change in self.left[:5])
        more = ", ..." if len(self.left) > 5 else ""
        done = len(self.changes) - len(self.left)
        return f"Converted(changed: {done}, left as it is: {names or 'nothing'}{more})"

    def __str__(self) -> str:
        """The list of changes, one a line."""
        return "\n".join(map(str, self.changes))


def convert(
    model: nn.Module,
    *,
    parametrization: Parametrization = BCOP,
    dense: Parametrization = Orthogonal,
) -> Converted:
    r"""Swap the layers of a plain network for 1-Lipschitz twins, and list what could not be.

    Convolutions and matrices become those of :mod:`taut.nn` of the same sizes, with new weights;
    rectifiers become :class:`taut.nn.MaxMin`; normalisations go, since they divide by what the data
    are; pools whose windows overlap become ones of windows that do not. A convolution whose kernel
    its stride does not divide gets the next larger kernel. All outputs keep their sizes (but for
    circular padding where a stride does not divide the size: one more). Layers are found wherever
    they stand, in classes of your own too; what is shared stays shared.

    What a class of yours does in its forward is not rewritten: sums of branches and functions such
    as `F.relu` are listed where torch.fx can follow it.

    Guarantee: none of its own; :func:`taut.lipschitz_bound` proves what the result is. A chain of
        layers with nothing in `left` has a bound of at most 1, to rounding.

    Args:
        model: left as it is.
        parametrization: of convolutions.
        dense: of matrices.

    Returns:
        The new model, and the list; `print` it.

    Raises:
        ValueError: if the model cannot be copied.

    Example:
        >>> cnn = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8))
        >>> converted = convert(cnn)
        >>> print(converted)
        0: Conv2d -> taut.nn.Conv2d (kernel (4, 4) for (3, 3): the stride must divide it)
        1: BatchNorm2d -> Identity (normalisations are removed)
        >>> float(taut.lipschitz_bound(converted.model, (3, 8, 8))) < 1 + 1e-5
        True
    """
    memo: dict[int, Any] = {}
    changes = []
    for name, module in _leaves(model, "", set()):
        found = _twin(module, parametrization, dense)
        if found is None:
            continue
        twin, note = found
        after = None if twin is None else _title(twin)
        changes.append(Change(name or "model", type(module).__name__, after, note))
        if twin is not None:
            memo[id(module)] = twin.train(module.training)
    try:
        new = copy.deepcopy(model, memo)
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"`model` cannot be copied: {error}") from error
    return Converted(new, (*changes, *_in_forward(new)))


def _leaves(module: nn.Module, path: str, seen: set[int]) -> Iterator[tuple[str, nn.Module]]:
    """The layers of a model, each once; what is inside of a layer of torch or taut is not one."""
    if id(module) in seen:
        return
    seen.add(id(module))
    holder = isinstance(module, _HOLDERS)
    library = type(module).__module__.partition(".")[0] in ("torch", "taut")
    if not holder and (library or not any(True for _ in module.children())):
        yield path, module
        return
    for name, child in module.named_children():
        yield from _leaves(child, f"{path}.{name}" if path else name, seen)


def _twin(
    module: nn.Module, kernels: Parametrization, dense: Parametrization
) -> tuple[nn.Module | None, str] | None:
    """What stands for a layer, or why nothing can; None if it may stay."""
    kind = type(module)
    if type(module) is nn.Conv2d:
        return _conv2d(module, kernels)
    if type(module) is nn.Linear:
        options = {"device": module.weight.device, "dtype": module.weight.dtype}
        sizes = (module.in_features, module.out_features, module.bias is not None)
        return Linear(*sizes, parametrization=dense, **options), ""
    if kind in _SWAPS:
        return _SWAPS[kind](module)
    if kind in (Conv2d, Linear):
        return None
    if any(True for _ in module.parameters()):
        return None, "it has weights and no twin"
    if not kind.__module__.startswith("torch."):
        return None  # a class of the user's: its forward is followed
    return None if _has_bound(module) else (None, "it has no proven bound")


def _has_bound(module: nn.Module) -> bool:
    """Whether a layer without weights has a bound for an input of any usual kind."""
    probe = copy.deepcopy(module).eval()
    for shape in ((8,), (4, 8), (4, 8, 8), (4, 8, 8, 8)):
        try:
            lipschitz_bound(probe, shape)
        except ValueError:
            continue
        return True
    return False


def _conv2d(old: nn.Conv2d, kernels: Parametrization) -> tuple[nn.Module | None, str]:
    if old.groups != 1 or old.dilation != (1, 1):
        return None, f"groups={old.groups}, dilation={old.dilation}: a twin has 1 of each"
    mode = old.padding_mode
    if mode not in ("zeros", "circular"):
        return None, f"padding_mode={mode!r} raises the norm of any kernel"
    axes = list(zip(old.kernel_size, old.stride, strict=True))
    kernel, padding, note = old.kernel_size, old.padding, ""
    if any(k % s for k, s in axes):
        # ceil(n / stride) outputs, as "same" has them for the larger kernel.
        if isinstance(padding, str) or any(
            2 * p != k - 1 for p, k in zip(padding, kernel, strict=True)
        ):
            return None, f"kernel {kernel}, stride {old.stride}, padding {padding}: no twin's size"
        kernel, padding = tuple(-(-k // s) * s for k, s in axes), "same"
        note = f"kernel {kernel} for {old.kernel_size}: the stride must divide it"
    elif not isinstance(padding, str) and not any(padding):
        mode = "zeros"  # circular layers extend an input that the stride does not divide
    sizes = (old.in_channels, old.out_channels, kernel, old.stride, padding)
    options = {"device": old.weight.device, "dtype": old.weight.dtype}
    try:
        twin = Conv2d(
            *sizes,  # pyright: ignore[reportArgumentType]
            bias=old.bias is not None,
            padding_mode=mode,
            parametrization=kernels,
            **options,  # pyright: ignore[reportArgumentType]
        )
    except ValueError as error:
        return None, str(error).rstrip(".")
    return twin, note


def _max_pool(old: nn.MaxPool2d) -> tuple[nn.Module | None, str] | None:
    size, stride, padding = (_pair(v) for v in (old.kernel_size, old.stride, old.padding))
    if old.return_indices or _pair(old.dilation) != (1, 1):
        return None, "it returns indices or is dilated"
    if all(k <= s for k, s in zip(size, stride, strict=True)):
        return None if not any(padding) else (None, "padded windows of other places")
    if old.ceil_mode or any(2 * p != k - 1 for p, k in zip(padding, size, strict=True)):
        return None, f"windows {size} overlap, and none of size {stride} give as many outputs"
    twin = nn.MaxPool2d(stride, stride, ceil_mode=True)
    return twin, f"windows {stride} for {size}: they may not overlap"


def _pair(value: Any) -> tuple[int, int]:
    return tuple(value) if isinstance(value, tuple | list) else (value, value)  # pyright: ignore[reportReturnType]


def _rectifier(old: nn.Module) -> tuple[nn.Module, str]:
    return MaxMin(), "keeps the norm of gradients"


def _removed(old: nn.Module) -> tuple[nn.Module, str]:
    return nn.Identity(), "normalisations are removed"


def _title(module: nn.Module) -> str:
    kind = type(module)
    return f"taut.nn.{kind.__name__}" if kind.__module__.startswith("taut.") else kind.__name__


def _in_forward(model: nn.Module) -> Iterator[Change]:
    """Functions in the forward that a chain of layers would not have."""
    try:
        graph = _Tracer().trace(model)
    except Exception:  # what fx cannot follow shows in the bound
        return
    for node in graph.nodes:
        name = getattr(node.target, "__name__", str(node.target))
        if node.op not in ("call_function", "call_method"):
            continue
        signals = [value for value in node.all_input_nodes if value.op != "get_attr"]
        if name in ("add", "iadd", "sub", "isub") and len(signals) > 1:
            yield Change(node.name, name, None, "constants of branches add up: weight the sum")
        elif name in _RECTIFIERS:
            yield Change(node.name, name, None, "a function in the forward: use taut.nn.MaxMin")
        elif name in _NORMALISING:
            yield Change(node.name, name, None, "it normalises: take it out of the forward")


@final
class _Tracer(fx.Tracer):
    """Follows classes of the user alone."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        library = type(m).__module__.partition(".")[0] in ("torch", "taut")
        return library and not isinstance(m, nn.Sequential)


_HOLDERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_RECTIFIERS = {"relu", "relu_", "relu6", "leaky_relu", "elu", "selu", "gelu", "silu", "softplus"}
_NORMALISING = {"batch_norm", "layer_norm", "group_norm", "instance_norm", "normalize"}
_SWAPS: dict[type[nn.Module], Callable[[Any], tuple[nn.Module | None, str] | None]] = {
    nn.MaxPool2d: _max_pool,
    **dict.fromkeys(
        (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU,
         nn.Mish, nn.Hardswish, nn.Softplus),
        _rectifier,
    ),
    **dict.fromkeys(
        (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm, nn.GroupNorm, nn.LayerNorm,
         nn.InstanceNorm1d, nn.InstanceNorm2d, nn.LocalResponseNorm),
        _removed,
    ),
}  # fmt: skip
