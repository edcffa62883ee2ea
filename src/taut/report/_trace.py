"""The tensors that enter the layers of a model, as places where gradients can be read."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge
from torch.utils._pytree import tree_leaves

from taut.parametrizations import cached


@final
@dataclass(frozen=True)
class Place:
    """What enters one call of one module.

    Args:
        name: of the module in the model; empty for the model itself.
        module: the module.
        call: which call of the module this is, from 1.
        shape: of the first tensor that enters, without the batch.
        edges: where the gradients of all tensors that enter can be read.
        whole: whether the whole signal passes: every path from the images to the output does.
        leaf: whether the module calls no other that is given something of the images.
    """

    name: str
    module: nn.Module
    call: int
    shape: tuple[int, ...]
    edges: tuple[GradientEdge, ...]
    whole: bool
    leaf: bool


@final
@dataclass(frozen=True)
class Trace:
    """One batch on its way through a model.

    Args:
        places: in the order of the forward pass.
        output: of the model, one row an image.
        images: what the model was given.
        start: where gradients at the images can be read.
    """

    places: tuple[Place, ...]
    output: Float[Tensor, "b k"]
    images: Float[Tensor, "b *shape"]
    start: GradientEdge

    def gradients(self, cotangent: Float[Tensor, "b k"]) -> list[list[Tensor]]:
        """Gradient of the output's product with `cotangent`, for the tensors of each place.

        Tensors that the output does not depend on are left out.
        """
        edges = [edge for place in self.places for edge in place.edges]
        found = iter(self.pulled(edges, cotangent))
        parts = [[next(found) for _ in place.edges] for place in self.places]
        return [[slope for slope in part if slope is not None] for part in parts]

    def row(self, index: int) -> Float[Tensor, "b *shape"]:
        """Gradient of one output of each image at that image."""
        cotangent = torch.zeros_like(self.output)
        cotangent[:, index] = 1
        (slope,) = self.pulled([self.start], cotangent)
        return torch.zeros_like(self.images) if slope is None else slope

    def pulled(self, edges: list[GradientEdge], cotangent: Tensor) -> Sequence[Tensor | None]:
        """Gradient of the output's product with `cotangent`; None where it depends on nothing."""
        if not self.output.requires_grad:
            return [None] * len(edges)
        return torch.autograd.grad(
            self.output, edges, cotangent, retain_graph=True, allow_unused=True
        )


def frozen_copy(model: nn.Module) -> nn.Module:
    """A copy in eval mode whose weights need no gradient.

    Raises:
        ValueError: if the model cannot be copied.

    Example:
        >>> frozen_copy(nn.Linear(2, 2)).weight.requires_grad
        False
    """
    try:
        return copy.deepcopy(model).eval().requires_grad_(False)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"`model` must let itself be copied and frozen; got {reason}.") from None


@contextmanager
def traced(model: nn.Module, images: Float[Tensor, "b *shape"]) -> Iterator[Trace]:
    """Run a copy of the model on the images; inside the context its gradients can be read.

    Args:
        model: maps a batch of images to one tensor, each image by itself.
        images: floating point.

    Raises:
        ValueError: if there is no image, or the output is not one row of finite numbers an image
            that depends on no other image.

    Example:
        >>> with traced(nn.Linear(3, 2), torch.zeros(4, 3)) as trace:
        ...     trace.output.shape, trace.places[0].shape
        (torch.Size([4, 2]), (3,))
    """
    if not (isinstance(images, Tensor) and images.is_floating_point() and images.dim() > 1):
        kind = f"{images.dtype} of {tuple(images.shape)}" if isinstance(images, Tensor) else images
        raise ValueError(f"`images` must be a batch of floating point tensors; got {kind}.")
    if not images.numel():
        raise ValueError(f"`images` must hold an image; got shape {tuple(images.shape)}.")
    frozen = frozen_copy(model)
    with torch.enable_grad(), cached():
        # A copy of the leaf: modules that work in place may write to it.
        start = images.detach().requires_grad_().clone()
        edge = get_gradient_edge(start)
        calls, output = _recorded(frozen, start)
        output = _rows(output, len(images))
        trace = Trace(_places(calls, output, edge), output, images, edge)
        _refuse_mixing(trace)
        yield trace


@final
class _Call:
    """One call of a module: which one, what entered, how many calls were made inside."""

    def __init__(self, name: str, module: nn.Module, tensors: list[Tensor]) -> None:
        self.name, self.module, self.inside = name, module, 0
        self.shape = tuple(tensors[0].shape[1:])
        # Now: a module that works in place makes a tensor something else.
        edges = {_key(edge): edge for edge in map(get_gradient_edge, tensors)}
        self.edges = tuple(edges.values())
        self.keys = set(edges)


def _recorded(model: nn.Module, images: Tensor) -> tuple[list[_Call], Any]:
    """Every call that is given something that depends on the images, and the model's output."""
    calls: list[_Call] = []
    open_calls: list[int | None] = []

    def enter(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            leaves = tree_leaves((args, kwargs))
            tensors = [x for x in leaves if isinstance(x, Tensor) and x.requires_grad]
            open_calls.append(len(calls) if tensors else None)
            if tensors:
                calls.append(_Call(name, module, tensors))

        return hook

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        place = open_calls.pop()
        if place is not None:
            calls[place].inside = len(calls) - place - 1

    handles = []
    try:
        for name, module in model.named_modules():
            before = module.register_forward_pre_hook(enter(name), prepend=True, with_kwargs=True)
            handles += [before, module.register_forward_hook(leave)]
        return calls, model(images)
    finally:
        for handle in handles:
            handle.remove()


def _rows(output: Any, count: int) -> Tensor:
    if not (isinstance(output, Tensor) and output.is_floating_point() and output.dim() > 0):
        got = f"{output.dtype} of {tuple(output.shape)}" if isinstance(output, Tensor) else output
        got = got if isinstance(got, str) else type(got).__name__
        raise ValueError(f"`model` must return one floating point tensor; got {got}.")
    if len(output) != count or not output.numel():
        raise ValueError(
            f"`model` must return one row an image; got {tuple(output.shape)} for {count} images."
        )
    if not output.isfinite().all():
        raise ValueError("`model` must return finite numbers; got NaN or infinity.")
    return output.flatten(1) if output.dim() > 1 else output[:, None]


def _refuse_mixing(trace: Trace) -> None:
    """Gradients are read for all images at once: no image may act on another's output."""
    cotangent = torch.zeros_like(trace.output)
    cotangent[0] = torch.linspace(1, 2, cotangent.shape[1])
    (slope,) = trace.pulled([trace.start], cotangent)
    if slope is not None and slope[1:].any():
        raise ValueError(
            "`model` must treat each image by itself; the output of the first depends on others."
        )


def _places(calls: list[_Call], output: Tensor, start: GradientEdge) -> tuple[Place, ...]:
    """The innermost call at each tensor; of a module that calls others, what no other is given."""
    shares = _Paths(output, start)
    counts: dict[str, int] = {}
    places = []
    for i, call in enumerate(calls):
        inner = calls[i + 1 : i + 1 + call.inside]
        if any(call.keys <= other.keys for other in inner):
            continue
        counts[call.name] = number = counts.get(call.name, 0) + 1
        whole = shares.all_pass(call.edges)
        leaf = not call.inside
        places.append(Place(call.name, call.module, number, call.shape, call.edges, whole, leaf))
    return tuple(places)


def _key(edge: GradientEdge) -> tuple[Node, int]:
    return edge.node, edge.output_nr


@final
class _Paths:
    """Counts the paths from the images to the output that pass a tensor, in whole numbers."""

    def __init__(self, output: Tensor, start: GradientEdge) -> None:
        self._below: dict[Node, int] = {start.node: 1}  # paths from the images to a node
        self._edges: dict[tuple[Node, int], int] = {}  # paths from a tensor to the output
        if output.grad_fn is None:
            return
        end = get_gradient_edge(output)
        order = _sorted(end.node)
        for node in order:
            following = (n for n, _ in node.next_functions if n is not None)
            self._below.setdefault(node, sum(self._below.get(n, 0) for n in following))
        above: dict[Node, int] = {end.node: 1}
        self._edges[_key(end)] = 1
        for node in reversed(order):
            for n, number in node.next_functions:
                if n is not None:
                    above[n] = above.get(n, 0) + above.get(node, 0)
                    place = (n, number)
                    self._edges[place] = self._edges.get(place, 0) + above.get(node, 0)
        self._total = self._below[end.node]

    def all_pass(self, edges: tuple[GradientEdge, ...]) -> bool:
        """Whether every path passes one tensor of a single edge."""
        if len(edges) != 1 or not self._edges:
            return False
        (key,) = map(_key, edges)
        return self._edges.get(key, 0) * self._below.get(key[0], 0) == self._total > 0


def _sorted(end: Node) -> list[Node]:
    """All nodes that the output depends on, each after those it depends on itself."""
    order: list[Node] = []
    seen: set[Node] = set()
    stack: list[tuple[Node, bool]] = [(end, False)]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack += [(n, False) for n, _ in node.next_functions if n is not None]
    return order
