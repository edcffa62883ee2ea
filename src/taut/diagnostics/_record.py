"""Forward passes, recorded so that gradients can be read wherever a module is called."""

import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from typing import Any, TypeAlias, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge
from torch.utils._pytree import tree_leaves

from taut.parametrizations import cached
from taut.program import wraps_too_often

_Key: TypeAlias = tuple[Node, int]


@final
@dataclass
class ModuleCall:
    """One call of a module.

    Args:
        name: name of the module in the model; empty for the model itself.
        module: the module.
        shape: shape of its first input tensor, without the batch.
        edges: where the gradients of all its input tensors can be read.
        inner: the calls that this one makes.
        number: which call of this module it is, from 1.
        whole: whether every path from the images to the output passes its input.
    """

    name: str
    module: nn.Module
    shape: tuple[int, ...]
    edges: dict[_Key, GradientEdge]
    inner: "list[ModuleCall]" = field(default_factory=list)
    number: int = 1
    whole: bool = False

    @property
    def label(self) -> str:
        """Name and number, as tables and figures show them."""
        return call_label(self.name, self.number)


@final
@dataclass(frozen=True)
class ForwardRecord:
    """One forward pass of a batch.

    Args:
        calls: calls of modules, in order.
        output: output of the model, one row per image.
        images: the batch.
        start: where the gradient at the images can be read.
    """

    calls: tuple[ModuleCall, ...]
    output: Float[Tensor, "b k"]
    images: Float[Tensor, "b *shape"]
    start: GradientEdge

    def gradients(self, cotangent: Float[Tensor, "b k"]) -> list[list[Tensor]]:
        """Gradients of <output, cotangent> at each call's inputs; without those that are zero."""
        slopes = iter(self.pull([e for call in self.calls for e in call.edges.values()], cotangent))
        parts = [[next(slopes) for _ in call.edges] for call in self.calls]
        return [[slope for slope in part if slope is not None] for part in parts]

    def jacobian_row(self, index: int) -> Float[Tensor, "b *shape"]:
        """Gradient of one output of each image at that image."""
        cotangent = torch.zeros_like(self.output)
        cotangent[:, index] = 1
        (slope,) = self.pull([self.start], cotangent)
        return torch.zeros_like(self.images) if slope is None else slope

    def pull(self, edges: list[GradientEdge], cotangent: Tensor) -> Sequence[Tensor | None]:
        """Gradients of <output, cotangent> at edges; None where the output does not depend."""
        if not self.output.requires_grad:
            return [None] * len(edges)
        return torch.autograd.grad(
            self.output, edges, cotangent, retain_graph=True, allow_unused=True
        )


@contextmanager
def recorded(model: nn.Module, images: Float[Tensor, "b *shape"]) -> Iterator[ForwardRecord]:
    """Run a copy of the model, in eval mode, and record it."""
    if not (isinstance(images, Tensor) and images.is_floating_point() and images.dim() > 1):
        kind = f"{images.dtype} of {tuple(images.shape)}" if isinstance(images, Tensor) else images
        raise ValueError(f"`images` must be a batch of floating point tensors; got {kind}.")
    if not images.numel():
        raise ValueError(f"`images` must hold an image; got shape {tuple(images.shape)}.")
    try:
        frozen = copy.deepcopy(model).eval().requires_grad_(False)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"`model` must let itself be copied and frozen; got {reason}.") from None
    with torch.enable_grad(), cached():
        # A copy of the leaf, since modules that work in place may write to it.
        batch = images.detach().requires_grad_().clone()
        start = get_gradient_edge(batch)
        calls, output = _run(frozen, batch)
        output = _as_rows(output, len(images))
        record = ForwardRecord(_innermost(calls, output, start), output, images, start)
        _refuse_mixing(record)
        yield record


def _run(model: nn.Module, batch: Tensor) -> tuple[list[ModuleCall], Any]:
    """All calls whose inputs depend on the batch, and the model's output."""
    names = {module: name for name, module in model.named_modules()}
    calls: list[ModuleCall] = []
    open_calls: list[int | None] = []

    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        leaves = tree_leaves((args, kwargs))
        tensors = [x for x in leaves if isinstance(x, Tensor) and x.requires_grad]
        open_calls.append(len(calls) if tensors else None)
        if tensors:
            # Read the edges now: a module that works in place changes those of its input.
            edges = {_key(edge): edge for edge in map(get_gradient_edge, tensors)}
            calls.append(ModuleCall(names[module], module, tuple(tensors[0].shape[1:]), edges))

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        if (index := open_calls.pop()) is not None:
            calls[index].inner = calls[index + 1 :]

    handles = []
    try:
        for module in names:
            handles.append(module.register_forward_pre_hook(enter, prepend=True, with_kwargs=True))
            handles.append(module.register_forward_hook(leave))
        return calls, model(batch)
    except RuntimeError as error:
        reason = wraps_too_often(error)
        if not reason:
            raise
        where = next((calls[i].name for i in reversed(open_calls) if i is not None), "model")
        size = tuple(batch.shape[1:])
        raise ValueError(
            f"`images` of {size} do not fit the model at `{where}`: {reason}."
        ) from error
    finally:
        for handle in handles:
            handle.remove()


def _as_rows(output: Any, count: int) -> Tensor:
    """The output as one row per image, or an error that says what it must be."""
    if not (isinstance(output, Tensor) and output.is_floating_point() and output.dim() > 0):
        tensor = isinstance(output, Tensor)
        got = f"{output.dtype} of {tuple(output.shape)}" if tensor else type(output).__name__
        raise ValueError(f"`model` must return one floating point tensor; got {got}.")
    if len(output) != count or not output.numel():
        raise ValueError(
            f"`model` must return one row per image; got {tuple(output.shape)} for {count} images."
        )
    if not output.isfinite().all():
        raise ValueError("`model` must return finite numbers; got NaN or infinity.")
    return output.flatten(1) if output.dim() > 1 else output[:, None]


def _refuse_mixing(record: ForwardRecord) -> None:
    """Refuse a model whose output for one image depends on others: gradients are per batch."""
    cotangent = torch.zeros_like(record.output)
    cotangent[0] = torch.linspace(1, 2, cotangent.shape[1], device="cpu")
    (slope,) = record.pull([record.start], cotangent)
    if slope is not None and slope[1:].any():
        raise ValueError(
            "`model` must treat each image by itself; the output of the first depends on others."
        )


def _innermost(
    calls: list[ModuleCall], output: Tensor, start: GradientEdge
) -> tuple[ModuleCall, ...]:
    """The calls whose input is not that of an inner call, numbered by module."""
    bottlenecks = _bottlenecks(output, start)
    counts: Counter[str] = Counter()
    chosen = []
    for call in calls:
        if not any(call.edges.keys() <= inner.edges.keys() for inner in call.inner):
            counts[call.name] += 1
            call.number = counts[call.name]
            call.whole = len(call.edges) == 1 and call.edges.keys() <= bottlenecks
            chosen.append(call)
    return tuple(chosen)


def call_label(name: str, number: int) -> str:
    """The name of a module, followed by the number of its call if that is not the first."""
    name = name or "(input)"
    return name if number == 1 else f"{name} #{number}"


def _key(edge: GradientEdge) -> _Key:
    return edge.node, edge.output_nr


def _bottlenecks(output: Tensor, start: GradientEdge) -> set[_Key]:
    """The tensors that every path from the images to the output passes.

    (paths from images to tensor) * (paths from tensor to output) = (all paths), in integers.
    """
    if output.grad_fn is None:
        return set()
    end = get_gradient_edge(output)
    inputs = _inputs(end.node)
    graph = {node: [n for n, _ in edges] for node, edges in inputs.items()}
    order = list(TopologicalSorter(graph).static_order())  # each node after its inputs
    below = {start.node: 1}
    for node in order:
        below.setdefault(node, sum(below[n] for n, _ in inputs[node]))
    above = Counter({end.node: 1})
    through = Counter({_key(end): 1})
    for node in reversed(order):
        for edge in inputs[node]:
            above[edge[0]] += above[node]
            through[edge] += above[node]
    total = below[end.node]
    return {edge for edge, count in through.items() if count * below[edge[0]] == total > 0}


def _inputs(end: Node) -> dict[Node, list[_Key]]:
    """The edges to the inputs of each node that the output depends on."""
    inputs: dict[Node, list[_Key]] = {}
    pending = [end]
    while pending:
        node = pending.pop()
        if node not in inputs:
            inputs[node] = [(n, number) for n, number in node.next_functions if n is not None]
            pending += [n for n, _ in inputs[node]]
    return inputs
