"""From a frozen model to its plan: the layers that every file format has, the rest refused."""

import operator
from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from taut.deploy.plan import Plan, Step, step_name
from taut.lipschitz import UnprovenError, trace
from taut.nn import GroupSort, InvertibleDownsample2d, MaxMin, PadToMultiple2d

__all__ = ["plan_of"]

Shape = tuple[int, ...]


def plan_of(model: nn.Module, input_shape: Shape) -> Plan:
    """Write down a model of plain layers in eval mode.

    Args:
        model: from :func:`taut.freeze`, or any other of known layers.
        input_shape: of one input, without the batch.

    Raises:
        ValueError: naming the module or function that no file format has.

    Example:
        >>> plan = plan_of(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), (1, 2, 2))
        >>> [(step.name, step.kind) for step in plan.steps], list(plan.tensors)
        ([('flatten1', 'Flatten'), ('layer1', 'Linear')], ['layer1.weight', 'layer1.bias'])
    """
    try:
        graph = trace(model)
    except UnprovenError as error:
        raise ValueError(f"`model` cannot be exported: {error}") from error
    writer = _Writer(dict(graph.named_modules()))
    for node in graph.graph.nodes:
        writer.add(node)
    return Plan(tuple(writer.steps), writer.tensors, "input", tuple(input_shape))


@final
class _Writer:
    def __init__(self, modules: dict[str, nn.Module]) -> None:
        self.modules = modules
        self.steps: list[Step] = []
        self.tensors: dict[str, Tensor] = {}
        self.values: dict[fx.Node, str] = {}
        self.held: dict[int, str] = {}  # names of tensors, also of those that layers share

    def add(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            self.values[node] = "input"
        elif node.op == "call_module":
            self._module(node)
        elif node.op == "call_function" or node.op == "call_method":
            self._function(node)
        elif node.op == "output":
            returned = self._input(node, node.args[0])
            if not self.steps or returned != self.steps[-1].name:
                raise ValueError("`model` must hold layers, and return what the last one computes.")
        else:
            raise ValueError(
                f"`{node.target}` cannot be exported: it is a tensor outside of a layer."
            )

    def _module(self, node: fx.Node) -> None:
        module = self.modules[str(node.target)]
        where = f"`{node.target}` ({type(module).__name__})"
        if type(module) in _NOTHING and not module.training:
            self.values[node] = self._input(node, node.args[0])
            return
        if type(module) not in _DESCRIBED or len(node.args) != 1 or node.kwargs:
            known = ", ".join(kind.__name__ for kind in (*_DESCRIBED, *_NOTHING))
            raise ValueError(f"{where} cannot be exported; the layers that can are {known}.")
        kind, describe = _DESCRIBED[type(module)]
        try:
            args = describe(module)
        except ValueError as error:
            raise ValueError(f"{where} cannot be exported: {error}.") from None
        tensors = {}
        for role in _ROLES.get(kind, ()):
            tensor = (module._parameters | module._buffers)[role]
            if tensor is not None:
                key = self.held.setdefault(id(tensor), f"{prefix(str(node.target))}.{role}")
                tensors[role], self.tensors[key] = key, tensor.detach().cpu().contiguous()
        self._keep(node, kind, (self._input(node, node.args[0]),), args, tensors)

    def _function(self, node: fx.Node) -> None:
        target, args = node.target, node.args
        options = (*args[1:], *node.kwargs.values())
        if target in _ADDS and len(args) == 2 and not node.kwargs:
            kind, inputs, numbers = "Add", args, {}
        elif target in _TIMES and len(args) == 2 and not node.kwargs:
            factors = [float(a) for a in args if isinstance(a, int | float)]
            numbers = {"factor": factors[0]} if factors else {}
            kind, inputs = "Scale", tuple(a for a in args if isinstance(a, fx.Node))
        elif target in _RELUS and len(args) == 1:
            kind, inputs, numbers = "ReLU", args, {}
        elif target in _FLATTENS and options == (1,) and node.kwargs.keys() <= {"start_dim"}:
            kind, inputs, numbers = "Flatten", args[:1], {}
        elif target in _CATS and options == (1,) and node.kwargs.keys() <= {"dim"}:
            parts = args[0]
            kind, inputs, numbers = "Concatenate", tuple(_list(parts)), {}
        else:
            called = getattr(target, "__name__", target)
            raise ValueError(f"`{node.name}` ({called}) cannot be exported; make it a layer.")
        if kind == "Scale" and len(numbers) != 1:
            raise ValueError(f"`{node.name}` cannot be exported: it must multiply by a number.")
        names = tuple(self._input(node, value) for value in inputs)
        self._keep(node, kind, names, numbers, {})

    def _keep(
        self,
        node: fx.Node,
        kind: str,
        inputs: tuple[str, ...],
        args: dict[str, Any],
        tensors: dict[str, str],
    ) -> None:
        name = step_name(kind, tensors, self.steps)
        self.values[node] = name
        self.steps.append(Step(name, kind, inputs, args, tensors))

    def _input(self, node: fx.Node, value: Any) -> str:
        if value not in self.values:
            raise ValueError(f"`{node.name}` cannot be exported: it must read earlier layers.")
        return self.values[value]


def prefix(path: str) -> str:
    """What the tensors of a module are called after, as a Python name.

    Example:
        >>> prefix("2.steps.0"), prefix("conv1")
        ('layer2_steps_0', 'conv1')
    """
    name = path.replace(".", "_")
    return name if name.isidentifier() and not name.startswith("_") else f"layer{name.strip('_')}"


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, tuple | list) else [value]


def _pair(value: Any) -> tuple[int, int]:
    return tuple(value) if isinstance(value, tuple | list) else (value, value)  # pyright: ignore[reportReturnType]


def _conv2d(m: nn.Conv2d) -> dict[str, Any]:
    if m.padding_mode not in ("zeros", "circular"):
        raise ValueError(f"`padding_mode` must be zeros or circular; got {m.padding_mode!r}")
    left, right, top, bottom = m._reversed_padding_repeated_twice
    padding = (top, left) if isinstance(m.padding, str) else _pair(m.padding)
    if isinstance(m.padding, str) and (left, top) != (right, bottom):
        raise ValueError("`padding` must be the same on both sides")
    return {
        "stride": _pair(m.stride),
        "padding": padding,
        "dilation": _pair(m.dilation),
        "groups": m.groups,
        "padding_mode": m.padding_mode,
    }


def _pool2d(m: nn.AvgPool2d | nn.MaxPool2d) -> dict[str, Any]:
    plain = not m.ceil_mode and _pair(m.padding) == (0, 0)
    if isinstance(m, nn.AvgPool2d):
        plain = plain and m.divisor_override is None
    else:
        plain = plain and _pair(m.dilation) == (1, 1) and not m.return_indices
    if not plain:
        raise ValueError("it must have the default padding, dilation and rounding")
    return {"kernel_size": _pair(m.kernel_size), "stride": _pair(m.stride)}


def _global(m: nn.AdaptiveAvgPool2d) -> dict[str, Any]:
    if m.output_size not in (1, (1, 1)):
        raise ValueError(f"`output_size` must be 1; got {m.output_size}")
    return {"output_size": (1, 1)}


def _flatten(m: nn.Flatten) -> dict[str, Any]:
    if (m.start_dim, m.end_dim) != (1, -1):
        raise ValueError("it must flatten all but the batch")
    return {}


def _batch_norm(m: nn.BatchNorm2d) -> dict[str, Any]:
    if m.training or m.running_var is None or not m.affine:
        raise ValueError("it must be in eval mode, with running statistics and a scale")
    return {"eps": m.eps}


_NOTHING = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d)
_ROLES = {
    "Conv2d": ("weight", "bias"),
    "Linear": ("weight", "bias"),
    "BatchNorm2d": ("weight", "bias", "running_mean", "running_var"),
}
_DESCRIBED: dict[type[nn.Module], tuple[str, Callable[[Any], dict[str, Any]]]] = {
    nn.Conv2d: ("Conv2d", _conv2d),
    nn.Linear: ("Linear", lambda _: {}),
    nn.BatchNorm2d: ("BatchNorm2d", _batch_norm),
    nn.ReLU: ("ReLU", lambda _: {}),
    nn.Flatten: ("Flatten", _flatten),
    nn.ZeroPad2d: ("ZeroPad2d", lambda m: {"padding": tuple(m.padding)}),
    nn.AvgPool2d: ("AvgPool2d", _pool2d),
    nn.MaxPool2d: ("MaxPool2d", _pool2d),
    nn.AdaptiveAvgPool2d: ("AdaptiveAvgPool2d", _global),
    nn.PixelUnshuffle: ("InvertibleDownsample2d", lambda m: {"factor": m.downscale_factor}),
    MaxMin: ("MaxMin", lambda _: {}),
    GroupSort: ("GroupSort", lambda m: {"group_size": m.group_size}),
    InvertibleDownsample2d: ("InvertibleDownsample2d", lambda m: {"factor": m.factor}),
    PadToMultiple2d: ("PadToMultiple2d", lambda m: {"multiple": m.multiple}),
}
_ADDS = (operator.add, torch.add, "add")
_TIMES = (operator.mul, torch.mul, "mul")
_RELUS = (torch.relu, F.relu, "relu")
_FLATTENS = (torch.flatten, "flatten")
_CATS = (torch.cat, torch.concat)
