"""A plain network with 1-Lipschitz layers in the places of its own."""

import copy
from collections.abc import Iterator
from typing import Any

from torch import nn

from taut._arguments import check_module
from taut._sharding import gathers
from taut.export._change import Change, Converted
from taut.export._nearest import start_near
from taut.export._rewrite import norms_behind, rewritten
from taut.export._twins import Parametrization, check_methods, twin_of
from taut.export._unwritten import unwritten
from taut.parametrizations import BCOP, Orthogonal
from taut.program import bound_of, trace

__all__ = ["convert"]

_HOLDERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@gathers
def convert(
    model: nn.Module,
    input_shape: tuple[int, ...] | None = None,
    *,
    parametrization: Parametrization = BCOP,
    dense: Parametrization = Orthogonal,
    init: str = "random",
) -> Converted:
    r"""Replace the layers of a plain network by 1-Lipschitz ones, and report each change.

    Convolutions and matrices become those of :mod:`taut.nn` of the same sizes (depthwise ones, and
    others that no orthogonal kernel has, with :class:`taut.AOL`); rectifiers become
    :class:`taut.nn.MaxMin`, along the features behind a matrix; normalisations go, since they
    divide by what the data are; averages are multiplied by the inverse of their norm; pools whose
    windows overlap become ones of windows that do not. All outputs keep their sizes (but for
    circular padding where a stride does not divide the size: one more). Layers are found wherever
    they stand, in classes of your own too; what is shared stays shared.

    Forwards that torch.fx can follow are rewritten as well: sums of branches become
    :class:`taut.nn.ConvexSum`, concatenations of branches :class:`taut.nn.ConvexConcat`, functions
    what their modules become, and gains of constant factors are taken out. The model is a
    `torch.fx.GraphModule` then, with the names that its layers had.

    Guarantee: none of its own; :func:`taut.lipschitz_bound` proves what the result is. With nothing
        in `left` it has a bound of at most 1, to rounding.

    Args:
        model: left as it is.
        input_shape: of one input, without the batch; if given, the bound of the result is proven
            here, layers with a gain above 1 are listed in `left`, too, and what files cannot hold
            is listed in `unwritten`. Without it, constants that may broadcast the signal to a
            larger shape are listed in `left`.
        parametrization: of convolutions; :class:`taut.AOL` where it has no kernel of the sizes of
            a layer.
        dense: of matrices, whatever `parametrization` is.
        init: "nearest" starts near the weights of the model, batch norms folded in: matrices at
            the nearest orthogonal one, kernels as near as some steps of gradient descent come.

    Returns:
        The new model, and the list; `print` it.

    Raises:
        ValueError: if the model cannot be copied, `init` is another, or a method is none, or
            `parametrization` is one for matrices only.
        TypeError: if `model` is no module.

    Example:
        >>> cnn = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8))
        >>> converted = convert(cnn)
        >>> print(converted)
        0: Conv2d -> taut.nn.Conv2d
        1: BatchNorm2d -> Identity (normalisations are removed)
        >>> float(taut.lipschitz_bound(converted.model, (3, 8, 8))) < 1 + 1e-5
        True
    """
    check_module(model)
    if init not in ("random", "nearest"):
        raise ValueError(f"`init` must be 'random' or 'nearest'; got {init!r}.")
    check_methods(parametrization, dense)
    memo: dict[int, Any] = {}
    changes, pairs = [], []
    for name, module in _leaves(model, "", set()):
        found = twin_of(module, parametrization, dense)
        pairs.append((module, found[0] if found is not None else None))
        if found is None:
            continue
        twin, note = found
        after = None if twin is None else _title(twin)
        changes.append(Change(name or "model", type(module).__name__, after, note))
        if twin is not None:
            memo[id(module)] = twin.train(module.training)
    if init == "nearest":
        start_near(pairs, norms_behind(model))
    try:
        new = copy.deepcopy(model, memo)
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"`model` cannot be copied: {error}") from error
    new, more = rewritten(new, sized=input_shape is not None)
    changes += more
    if input_shape is not None:
        left = {change.name for change in changes if change.after is None}
        changes += _steep(copy.deepcopy(new).eval(), input_shape, left)
        changes += unwritten(new, input_shape)
    return Converted(new, tuple(changes))


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


def _steep(model: nn.Module, shape: tuple[int, ...], known: set[str]) -> Iterator[Change]:
    """Layers of a gain above 1, by the bound; one change for a model that has none."""
    try:
        bound = bound_of(trace(model, shape), passes=("compose_affine", "follow_parts"))
    except ValueError as error:
        yield Change("model", type(model).__name__, None, str(error))
        return
    if float(bound) <= 1 + 1e-4:
        return
    steep = [row for row in bound.layers if row.bound > 1 + 1e-5 and row.name not in known]
    for row in steep:
        yield Change(row.name, row.type, None, f"its gain is {row.bound:.4g}")
    if not steep and not known:
        yield Change("model", type(model).__name__, None, f"its bound is {float(bound):.4g}")


def _title(module: nn.Module) -> str:
    kind = type(module)
    return f"taut.nn.{kind.__name__}" if kind.__module__.startswith("taut.nn") else kind.__name__
