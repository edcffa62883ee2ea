"""Functions in a forward, as layers of a 1-Lipschitz net, where torch.fx can follow it."""

import math
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any, final

import torch
from torch import Tensor, fx, nn

from taut import nn as layers
from taut.export._change import Change
from taut.export._spread import held, wider_than
from taut.export._twins import activation, normalisations, twin_of
from taut.parametrizations import BCOP, Orthogonal

__all__ = ["norms_behind", "rewritten"]

_SHAPES = {"size", "dim", "shape", "numel", "getattr", "eq", "ne", "lt", "gt", "le", "ge", "len"}
_HARMLESS = {
    "flatten", "reshape", "view", "permute", "transpose", "squeeze", "unsqueeze", "contiguous",
    "chunk", "split", "unbind", "movedim", "swapaxes", "flip", "roll", "t", "T", "mT",
    "unflatten", "tanh", "sigmoid", "abs", "neg", "sin", "cos", "softmax", "log_sigmoid",
    "hardtanh", "clamp", "clip", "sort", "pixel_shuffle", "pixel_unshuffle",
    "channel_shuffle", "clone", "to", "float", "double", "detach", "narrow", "select", "identity",
    "amax", "amin", "logsumexp", "softsign", "tensor_split",
}  # fmt: skip
_SPLITS = {"chunk", "split", "unbind", "tensor_split"}
_RECTIFIERS = {"relu", "relu6", "leaky_relu", "prelu", "rrelu", "elu", "selu", "celu", "gelu",
               "silu", "mish", "hardswish", "softplus"}  # fmt: skip
_NORMALISING = {"batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm",
                "local_response_norm"}  # fmt: skip
_POOLS: dict[str, type[nn.Module]] = {
    "max_pool1d": nn.MaxPool1d, "max_pool2d": nn.MaxPool2d, "max_pool3d": nn.MaxPool3d,
    "avg_pool1d": nn.AvgPool1d, "avg_pool2d": nn.AvgPool2d, "avg_pool3d": nn.AvgPool3d,
    "adaptive_avg_pool1d": nn.AdaptiveAvgPool1d, "adaptive_avg_pool2d": nn.AdaptiveAvgPool2d,
    "adaptive_avg_pool3d": nn.AdaptiveAvgPool3d, "interpolate": nn.Upsample,
    "upsample": nn.Upsample, "dropout": nn.Dropout, "dropout2d": nn.Dropout2d,
}  # fmt: skip


def rewritten(model: nn.Module, *, sized: bool = False) -> tuple[nn.Module, list[Change]]:
    """The model with functions of its forward made 1-Lipschitz, and what was changed or left.

    The model itself where nothing had to be changed, or where torch.fx cannot follow it. Parts that
    torch.fx cannot follow stay as they are; the rest is rewritten.

    Args:
        model: with twins for its layers.
        sized: whether the shape of the input is known, so that others see what broadcasts.
    """
    tracer = _Tracer()
    changes = [_opaque(path, module, reason) for path, module, reason in tracer.try_parts(model)]
    try:
        graph = tracer.trace(model)
    except Exception as error:
        named = any(map(_is_of_user, model.modules()))
        opaque = [_opaque("forward", model, _reason(error))] if named else []
        return model, [*changes, *opaque]
    rewriter = _Rewriter(model, graph, sized=sized)
    changes += rewriter.run()
    if not rewriter.changed:
        return model, changes
    graph.lint()
    return fx.GraphModule(model, graph, type(model).__name__).train(model.training), changes


def norms_behind(model: nn.Module) -> dict[int, nn.Module]:
    """The normalisation that alone reads what a layer gives, by the identity of the layer."""
    try:
        graph = _Tracer().trace(model)
    except Exception:  # torch.fx cannot follow it
        return {}
    found = {}
    for node in graph.nodes:
        readers = [reader for reader in node.users if reader.op == "call_module"]
        if node.op == "call_module" and len(node.users) == len(readers) == 1:
            (reader,) = readers
            norm = model.get_submodule(str(reader.target))
            if isinstance(norm, normalisations):
                found[id(model.get_submodule(str(node.target)))] = norm
    return found


@final
class _Tracer(fx.Tracer):
    """Follows classes of the user alone."""

    def __init__(self) -> None:
        super().__init__()
        self.opaque: set[nn.Module] = set()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return m in self.opaque or not (_is_of_user(m) or isinstance(m, nn.Sequential))

    def try_parts(self, model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
        """Parts of the user's classes that cannot be followed, the innermost first, and why."""
        for path, module in reversed(list(model.named_modules())):
            if path and _is_of_user(module):
                try:
                    self.trace(module)
                except Exception as error:  # a forward may raise anything
                    self.opaque.add(module)
                    yield path, module, _reason(error)


def _is_of_user(module: nn.Module) -> bool:
    return type(module).__module__.partition(".")[0] not in ("torch", "taut")


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:120]


def _opaque(path: str, module: nn.Module, reason: str) -> Change:
    note = f"torch.fx cannot follow it ({reason}); functions in it are as they were"
    return Change(path, type(module).__name__, None, note)


@final
class _Rewriter:
    """Goes through the calls of a forward in their order."""

    def __init__(self, model: nn.Module, graph: fx.Graph, *, sized: bool) -> None:
        self.model, self.graph, self.sized, self.changed = model, graph, sized, False
        self.signals: set[fx.Node] = set()

    def run(self) -> Iterator[Change]:
        """Rewrite what can be; yield what was changed and what was left."""
        for node in list(self.graph.nodes):
            inputs = [n for n in node.all_input_nodes if n in self.signals]
            name = _name(node)
            if node.op == "placeholder" or (inputs and name not in _SHAPES):
                self.signals.add(node)
            if node.op == "call_module":
                self._orient(node)
            if node.op in ("call_function", "call_method") and inputs and name not in _SHAPES:
                yield from self._call(node, name, inputs)

    def _call(self, node: fx.Node, name: str, inputs: list[fx.Node]) -> Iterator[Change]:
        rule = _RULES.get(name.removesuffix("_").removeprefix("i"), _RULES.get(name))
        plain = name.removesuffix("_")
        if plain in _RECTIFIERS:
            rule = _rectifier
        elif plain in _NORMALISING:
            rule = _normalising
        elif plain in _POOLS:
            rule = _pool
        if rule is not None:
            change = rule(self, node, inputs)
            if change is not None:
                yield change
        elif plain not in _HARMLESS:
            yield Change(node.name, name, None, "it is not known to be 1-Lipschitz")

    def replace(self, node: fx.Node, module: nn.Module, args: Iterable[fx.Node]) -> None:
        """Call a module instead of a function."""
        path = node.name
        while hasattr(self.model, path):
            path += "_"
        self.model.add_module(path, module)
        with self.graph.inserting_after(node):
            new = self.graph.call_module(path, tuple(args))
        self.exchange(node, new)

    def exchange(self, node: fx.Node, new: fx.Node) -> None:
        """Let another value stand for one."""
        node.replace_all_uses_with(new)
        self.graph.erase_node(node)
        self.signals.add(new)
        self.changed = True
        if new.op == "call_module":
            self._orient(new)

    def _orient(self, node: fx.Node) -> None:
        """Activations behind matrices act along the last axis, where the features are."""
        module = self.model.get_submodule(str(node.target))
        if not isinstance(module, layers.MaxMin) or module.dim != 1 or not node.args:
            return
        before: Any = node.args[0]
        while isinstance(before, fx.Node) and before.op == "call_module":
            source = self.model.get_submodule(str(before.target))
            if isinstance(source, layers.Linear):
                twin = layers.MaxMin(-1).train(module.training)
                if len([n for n in self.graph.nodes if n.target == node.target]) > 1:
                    path = f"{node.name}_features"
                    self.model.add_module(path, twin)
                    node.target, self.changed = path, True
                else:
                    parent, _, last = str(node.target).rpartition(".")
                    setattr(self.model.get_submodule(parent), last, twin)
                return
            if not isinstance(source, nn.Identity | nn.Dropout):
                return
            before = before.args[0] if before.args else None


def _name(node: fx.Node) -> str:
    name = getattr(node.target, "__name__", str(node.target))
    return name.rpartition(".")[2]


def _options(node: fx.Node, names: tuple[str, ...]) -> dict[str, Any]:
    """Arguments behind the first, by name."""
    return dict(zip(names, node.args[1:], strict=False)) | dict(node.kwargs)


# The rules: each changes a call, and says what it did or why it did not.


def _rectifier(r: _Rewriter, node: fx.Node, inputs: list[fx.Node]) -> Change:
    name = _name(node)
    r.replace(node, activation(), inputs[:1])
    return Change(node.name, name, "taut.nn.MaxMin", "keeps the norm of gradients")


def _normalising(r: _Rewriter, node: fx.Node, inputs: list[fx.Node]) -> Change:
    r.exchange(node, inputs[0])
    return Change(node.name, _name(node), "Identity", "normalisations are removed")


def _pool(r: _Rewriter, node: fx.Node, inputs: list[fx.Node]) -> Change | None:
    name = _name(node).removesuffix("_")
    kind = _POOLS[name]
    names: dict[str, tuple[str, ...]] = {
        "max": ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
        "avg": ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad",
                "divisor_override"),
        "adaptive": ("output_size",), "interpolate": ("size", "scale_factor", "mode"),
        "upsample": ("size", "scale_factor", "mode"), "dropout": ("p", "training", "inplace"),
        "dropout2d": ("p", "training", "inplace"),
    }  # fmt: skip
    options = _options(node, names[name.partition("_")[0]])
    if options.pop("antialias", False):
        return Change(node.name, name, None, "it smooths before it samples: antialias=True")
    unused = ("training", "input", "recompute_scale_factor")
    options = {key: value for key, value in options.items() if key not in unused}
    if len(node.all_input_nodes) > 1:
        return Change(node.name, name, None, "its sizes depend on the input")
    try:
        module = kind(**options)
    except (TypeError, ValueError) as error:
        return Change(node.name, name, None, str(error))
    twin = twin_of(module, BCOP, Orthogonal)
    if twin is not None and twin[0] is None:
        return Change(node.name, name, None, twin[1])
    new = module if twin is None or twin[0] is None else twin[0]
    if twin is None and "dropout" not in name:
        return None
    r.replace(node, new, inputs[:1])
    note = "" if twin is None else twin[1]
    return Change(node.name, name, type(new).__name__, note) if note else None


def _sum(r: _Rewriter, node: fx.Node, inputs: list[fx.Node]) -> Change | None:
    if len(inputs) == 1 and len(node.all_input_nodes) == 1 and node.args[:2] != (inputs[0],) * 2:
        return None  # a number is added
    if len(inputs) == 1:
        return _spread(r, node, inputs[0]) if len(node.all_input_nodes) > 1 else _left_sum(node)
    minus = "sub" in _name(node) and "rsub" not in _name(node)
    alpha = node.kwargs.get("alpha", 1)
    if alpha not in (1, -1):
        return Change(node.name, _name(node), None, f"alpha={alpha}: weight the branches")
    module = layers.ConvexSum()
    path = node.name
    first, second = node.args[0], node.args[1]
    if minus != (alpha == -1):
        with r.graph.inserting_before(node):
            second = r.graph.call_function(operator.neg, (second,))
    r.replace(node, module, [first, second])  # pyright: ignore[reportArgumentType]
    return Change(path, _name(node), "taut.nn.ConvexSum", "weights of the branches sum to 1")


def _left_sum(node: fx.Node) -> Change:
    return Change(node.name, _name(node), None, "a value is added to itself: its gain is 2")


def _concat(r: _Rewriter, node: fx.Node, inputs: list[fx.Node]) -> Change | None:
    options = _options(node, ("dim",))
    dim, parts = options.get("dim", options.get("axis", 0)), list(node.args[0])  # pyright: ignore[reportArgumentType]
    if (len(inputs) < 2 and len(parts) < 2) or _are_parts(parts):
        return None
    r.replace(node, layers.ConvexConcat(len(parts), dim), parts)  # pyright: ignore[reportArgumentType]
    return Change(
        node.name, "cat", "taut.nn.ConvexConcat", "squared weights of the branches sum to 1"
    )


def _are_parts(parts: list[Any]) -> bool:
    """Whether values are made of parts of one value, each of one of its own, or hold a pair."""
    names = [_name(part) for part in parts]
    if sorted(names) in (["maximum", "minimum"], ["max", "min"]):
        read = set(parts[0].all_input_nodes)
        return len(read) == 2 and read == set(parts[1].all_input_nodes)
    roots = []
    for part in parts:
        node = part
        while len(node.all_input_nodes) == 1 and _name(node) != "getitem":
            node = node.all_input_nodes[0]
        roots.append(node)
    split = {root.args[0] for root in roots if _name(root) == "getitem"}
    places = [root.args[1] for root in roots if _name(root) == "getitem"]
    whole = all(isinstance(place, int) and place >= 0 for place in places)
    chunks = len(split) == 1 and _name(next(iter(split))) in _SPLITS
    return len(places) == len(parts) == len(set(map(str, places))) and whole and chunks


def _scale(r: _Rewriter, node: fx.Node, inputs: list[fx.Node]) -> Change | None:
    name = _name(node)
    if len(inputs) > 1:
        return Change(node.name, name, None, "a product of two values has no bound")
    divides = "div" in name
    if divides and node.args[0] not in r.signals:
        return Change(node.name, name, None, "it divides by a value")
    other = next((a for a in node.args if a is not inputs[0]), None)
    gain = _largest(r.model, other, divides=divides)
    if gain is None:
        return Change(node.name, name, None, "its factor is not known")
    wider = _spread(r, node, inputs[0])
    if wider is not None:
        return wider
    if gain <= 1:
        return None
    users = list(node.users)
    with r.graph.inserting_after(node):
        path = f"{node.name}_times"
        r.model.add_module(path, layers.Times(math.nextafter(1 / gain, 0)))
        new = r.graph.call_module(path, (node,))
    for user in users:
        user.replace_input_with(node, new)
    r.signals.add(new)
    r.changed = True
    return Change(node.name, name, "taut.nn.Times", f"its gain of {gain:.4g} is taken out")


def _spread(r: _Rewriter, node: fx.Node, signal: fx.Node) -> Change | None:
    """A constant that may broadcast the signal, where the shape of the input is not known."""
    note = "" if r.sized else wider_than(r.model, node, signal)
    return Change(node.name, _name(node), None, note) if note else None


def _largest(model: nn.Module, value: Any, *, divides: bool) -> float | None:
    """The largest gain of a product or quotient by a constant."""
    if isinstance(value, fx.Node):
        value = held(model, value)
    if not isinstance(value, int | float | Tensor) or isinstance(value, nn.Parameter):
        return None
    sizes = torch.as_tensor(value, dtype=torch.float64, device="cpu").abs()
    return float(1 / sizes.min()) if divides else float(sizes.max())


def _extremum(r: _Rewriter, node: fx.Node, inputs: list[fx.Node]) -> Change | None:
    if len(inputs) < 2:
        return _spread(r, node, inputs[0])
    if _are_parts(inputs):
        return None
    return Change(node.name, _name(node), None, "of two branches its gain may be the root of 2")


def _getitem(r: _Rewriter, node: fx.Node, inputs: list[fx.Node]) -> Change | None:
    places = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
    plain = all(part is None or isinstance(part, int | slice | type(...)) for part in places)
    return None if plain else Change(node.name, "getitem", None, "a list may copy entries")


def _mean(r: _Rewriter, node: fx.Node, inputs: list[fx.Node]) -> Change | None:
    options = _options(node, ("dim", "keepdim"))
    dim = options.get("dim")
    dims = tuple(dim) if isinstance(dim, tuple | list) else (dim,)
    if not all(isinstance(axis, int) and axis != 0 for axis in dims):
        return Change(node.name, "mean", None, "it needs axes, none of them that of the batch")
    module = layers.ScaledMean(tuple(dims), bool(options.get("keepdim")))  # pyright: ignore[reportArgumentType]
    r.replace(node, module, inputs[:1])
    return Change(node.name, "mean", "taut.nn.ScaledMean", "times the inverse of its norm")


def _pad(r: _Rewriter, node: fx.Node, inputs: list[fx.Node]) -> Change | None:
    options = _options(node, ("pad", "mode", "value"))
    mode = options.get("mode", "constant")
    if mode == "constant":
        return None
    node.args, node.kwargs = (inputs[0], options["pad"]), {}
    r.changed = True
    return Change(node.name, "pad", "zeros", f"for {mode} padding, which raises the norm")


_RULES: dict[str, Callable[[_Rewriter, fx.Node, list[fx.Node]], Change | None]] = {
    "add": _sum, "sub": _sum, "cat": _concat, "concat": _concat, "concatenate": _concat,
    "mul": _scale, "div": _scale, "truediv": _scale, "true_divide": _scale, "multiply": _scale,
    "mean": _mean, "pad": _pad, "maximum": _extremum, "minimum": _extremum, "getitem": _getitem,
}  # fmt: skip
