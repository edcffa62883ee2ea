r"""The bound of a whole model, along the graph that torch.fx finds."""

import operator
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg
from torch.nn.modules import module as torch_module
from torch.nn.parameter import is_lazy

from taut.linalg.bounds import NormBound, conv_norm_bound, tight_norm_bound
from taut.linalg.operators import ConvOperator
from taut.linalg.rounding import up_product, up_root
from taut.lipschitz import _functions as functions
from taut.lipschitz._functions import Call
from taut.lipschitz._pairwise import pairwise_constants
from taut.lipschitz._registry import is_leaf, norm_operator_of, operator_of, rule_of
from taut.lipschitz._result import LayerBound, LipschitzBound, UnprovenError

__all__ = ["check_model", "lipschitz_bound", "trace", "verifiable_bound"]

_BATCH = 3  # of the input that gives shapes: a reshape that mixes samples shows
_IN_PLACE = (operator.iadd, operator.isub, operator.imul, operator.itruediv)


def lipschitz_bound(model: nn.Module, input_shape: tuple[int, ...]) -> LipschitzBound:
    r"""Proven upper bound of the l2 Lipschitz constant of a model.

    The graph is followed (torch.fx): compositions multiply, sums add, concatenations take the root
    of the sum of squares. Each layer's factor is a norm bound of its weights as they are now, never
    a guarantee read from the layer. What the graph computes is compared with the model on random
    inputs, in batches of other sizes.

    Args:
        model: made of modules and functions that have a rule; in eval mode where that matters.
        input_shape: shape of one input, without the batch.

    Returns:
        The bound: `float(b)`, and `b.layers`, one row a layer.

    Raises:
        UnprovenError: (a NotImplementedError) if anything has no proven bound; it is named.
        ValueError: if the input shape does not fit, or has a 0 in it.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2), nn.ReLU())
        >>> with torch.no_grad():
        ...     _ = model[1].weight.copy_(torch.tensor([[3.0, 0, 0, 0], [0, 2.0, 0, 0]]))
        >>> round(float(lipschitz_bound(model, (1, 2, 2))), 6)
        3.0
    """
    return _bound(model, input_shape, tight_norm_bound)


def verifiable_bound(model: nn.Module, input_shape: tuple[int, ...]) -> LipschitzBound:
    """`lipschitz_bound` by proofs that others repeat quickly: of zero padding, that of its torus.

    Certificates are made of it. It is the same but for layers that are far from orthogonal and have
    zeros at the border, where it may be larger.

    Example:
        >>> float(verifiable_bound(nn.ReLU(), (3,)))
        1.0
    """
    return _bound(model, input_shape, conv_norm_bound)


def _bound(
    model: nn.Module, input_shape: tuple[int, ...], norm: Callable[[ConvOperator], NormBound]
) -> LipschitzBound:
    if any(n < 1 for n in input_shape):
        raise ValueError(f"`input_shape` must be made of positive integers; got {input_shape}.")
    check_model(model)
    before = _State(model)
    graph = trace(model)
    x = _random_input(model, tuple(input_shape))
    if torch.is_autocast_enabled(x.device.type):
        raise UnprovenError("Under autocast other weights run than are read; leave it to bound.")
    with torch.no_grad():
        walk = _Walk(graph, norm)
        result = walk.run(x.clone())
        _compare(model, x, result)
    if not before.is_of(model):
        raise UnprovenError(
            "The forward draws random numbers or writes to parameters or buffers: the next call "
            "may compute something else."
        )
    return LipschitzBound(walk.total, tuple(walk.rows), walk.pairwise)


def _compare(model: nn.Module, x: Tensor, result: Any) -> None:
    """Refuse a model that does not do what its graph does, in batches of any size."""
    if not (isinstance(result, Tensor) and result.dim() >= 1 and result.shape[0] == _BATCH):
        raise UnprovenError(f"The model must return one tensor, batch first; got {type(result)}.")
    if not (result.is_floating_point() and result.numel()):
        raise UnprovenError("The model must return real numbers, one at least.")
    # Other sizes of a batch may sum in another order.
    tolerance = max(1e-9, min(0.1, 1e4 * torch.finfo(result.dtype).eps))
    for sizes in ([_BATCH], [1, _BATCH - 1]):
        try:
            expected = torch.cat([_forward(model, part.clone()) for part in x.split(sizes)])
        except RuntimeError as error:
            raise UnprovenError(
                f"The model does not take batches of any size, such as {sizes[0]}: {error}"
            ) from error
        largest = expected.abs().nan_to_num(0.0, 0.0).max().item()
        if result.shape != expected.shape or not torch.allclose(
            result, expected, tolerance, tolerance * largest, equal_nan=True
        ):
            raise UnprovenError(
                "The model computes something else than its graph, or mixes the samples of a "
                "batch; it cannot be traced."
            )


@final
class _State:
    """Parameters, buffers and random state of a model, to see whether a forward moves them."""

    def __init__(self, model: nn.Module) -> None:
        self.tensors = [*model.parameters(), *model.buffers()]
        self.versions = [None if t.is_inference() else t._version for t in self.tensors]
        self.random = torch.get_rng_state()

    def is_of(self, model: nn.Module) -> bool:
        """Whether the model is still in this state."""
        now = _State(model)
        same = len(now.tensors) == len(self.tensors)
        same = same and all(map(operator.is_, now.tensors, self.tensors))
        return same and now.versions == self.versions and torch.equal(now.random, self.random)


def trace(model: nn.Module) -> fx.GraphModule:
    """The graph of a model whose leaves are the modules that need a rule.

    Raises:
        UnprovenError: if a module has hooks, or the forward cannot be followed.
    """
    check_model(model)
    root = nn.Sequential(OrderedDict(model=model)) if is_leaf(model) else model
    tracer = _Tracer()
    try:
        graph = tracer.trace(root, concrete_args=None)
    except Exception as error:  # a forward may raise anything when a proxy runs through it
        raise UnprovenError(
            f"The forward of {type(model).__name__} cannot be followed by torch.fx: {error}. "
            "Give it a rule with `taut.lipschitz.register"
            f"({type(model).__name__})(rule)`, or write it without branches on values."
        ) from error
    if sum(node.op == "placeholder" for node in graph.nodes) != 1:
        raise UnprovenError(f"`model` must take one input; {type(model).__name__} takes another.")
    return fx.GraphModule(root, graph)


def check_model(model: nn.Module) -> None:
    """Refuse what runs outside of any forward: hooks, replaced forwards, uninitialised weights.

    Raises:
        UnprovenError: naming the module.
    """
    if torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks:
        raise UnprovenError("Global forward hooks may change any output; remove them.")
    for path, module in model.named_modules():
        name = f"`{path or 'model'}` ({type(module).__name__})"
        tensors = (*module._parameters.values(), *module._buffers.values())
        if any(t is not None and is_lazy(t) for t in tensors):
            raise UnprovenError(f"{name} is lazy: run it once, so that its weights exist.")
        if module._forward_hooks or module._forward_pre_hooks:
            raise UnprovenError(f"{name} has forward hooks, which may change its output.")
        for attribute, value in module.__dict__.items():
            if callable(value) and callable(getattr(type(module), attribute, None)):
                raise UnprovenError(f"{name} has a replaced {attribute}.")


def _random_input(model: nn.Module, input_shape: tuple[int, ...]) -> Tensor:
    tensors = [*model.parameters(), *model.buffers()]
    like = next((t for t in tensors if t.is_floating_point()), torch.zeros(()))
    generator = torch.Generator().manual_seed(0)
    return torch.rand(_BATCH, *input_shape, generator=generator).to(like)


def _forward(model: nn.Module, x: Tensor) -> Tensor:
    result = model(x)
    if not isinstance(result, Tensor):
        raise UnprovenError(f"The model must return one tensor; got {type(result).__name__}.")
    return result


class _Proxy(fx.Proxy):
    """A proxy that sees `x += y`, which fx would take for a new `x + y`."""

    def __iadd__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.iadd, (self, other), {})

    def __isub__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.isub, (self, other), {})

    def __imul__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.imul, (self, other), {})

    def __itruediv__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.itruediv, (self, other), {})


@final
class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return is_leaf(m)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)


@final
class _Walk(fx.Interpreter):
    """Runs the graph on one input and carries the Lipschitz constant of each value along.

    A constant is a number for what depends on the model's input, None for what does not.
    """

    def __init__(self, graph: fx.GraphModule, norm: Callable[[ConvOperator], NormBound]) -> None:
        super().__init__(graph, garbage_collect_values=False)
        self.norm = norm
        self.extra_traceback = False  # keeps messages to one sentence
        self.order = {node: place for place, node in enumerate(graph.graph.nodes)}
        self.slopes: dict[fx.Node, float | None] = {}
        self.rows: list[LayerBound] = []
        self.total = 0.0
        self.pairwise: Tensor | None = None

    def run_node(self, n: fx.Node) -> Any:
        where = f"`{n.target}`" if n.op == "call_module" else f"`{n.name}`"
        if n.op == "call_module":
            module = self.submodules[str(n.target)]
            where += f" ({type(module).__name__})"
            rule_of(module, str(n.target))
        if n.target in _IN_PLACE:
            self._check_in_place(n)
        try:
            if n.op == "call_module":
                return self._module(n)
            result = super().run_node(n)
            self.slopes[n] = self._slope(n, result)
            return result
        except (ValueError, NotImplementedError, TypeError, IndexError) as error:
            raise UnprovenError(f"{where} has no proven bound: {error}") from error
        except RuntimeError as error:
            raise ValueError(f"`input_shape` does not fit the model at {where}: {error}") from error

    def _check_in_place(self, n: fx.Node) -> None:
        """Refuse to overwrite a value that something else reads later."""
        target = n.args[0]
        if not isinstance(target, fx.Node) or target.op in ("placeholder", "get_attr"):
            raise UnprovenError(f"`{n.name}` overwrites an input or a parameter in place.")
        if not isinstance(self.env[target], Tensor):
            return
        storage = self.env[target].untyped_storage().data_ptr()
        for node, value in self.env.items():
            read_later = any(self.order[user] > self.order[n] for user in node.users)
            same = any(t.untyped_storage().data_ptr() == storage for t in _tensors(value))
            if read_later and same:
                raise UnprovenError(
                    f"`{n.name}` overwrites `{node.name}` in place, which is read later; "
                    "write `x = x + y` instead of `x += y`."
                )

    def _module(self, n: fx.Node) -> Any:
        module = self.submodules[str(n.target)]
        if len(n.args) != 1 or n.kwargs or not isinstance(n.args[0], fx.Node):
            raise UnprovenError("it must take one tensor")
        value, slope = self.env[n.args[0]], self.slopes[n.args[0]]
        if not isinstance(value, Tensor):
            raise UnprovenError("it must take one tensor")
        if slope is None:
            self.slopes[n] = None
            return super().run_node(n)
        shape = tuple(value.shape[1:])
        op = norm_operator_of(module, shape)
        bound = rule_of(module, str(n.target))(module, shape) if op is None else self.norm(op)
        if not bound.value >= 0:
            raise UnprovenError(f"its rule gave {bound.value}")
        result = super().run_node(n)
        if not isinstance(result, Tensor) or result.shape[:1] != (_BATCH,):
            raise UnprovenError("it must return one tensor and keep the batch in dimension 0")
        self.slopes[n] = up_product(slope, bound.value)
        row = LayerBound(str(n.target), type(module).__name__, bound.value, bound.proof)
        self.rows.append(row)
        return result

    def _slope(self, n: fx.Node, result: Any) -> float | None:
        if n.op == "placeholder":
            return 1.0
        inputs = [s for s in map(self.slopes.__getitem__, n.all_input_nodes) if s is not None]
        if n.op == "output":
            self.total = inputs[0] if inputs else 0.0
            self._head(n.args[0])
            return self.total
        if not inputs:
            return None
        if n.target in functions.QUERIES:
            if _tensors(result):
                raise UnprovenError("only shapes and types may be read as attributes")
            return None
        slope = self._function(n, result)
        if not all(tensor.is_floating_point() for tensor in _tensors(result)):
            raise UnprovenError("its result is not made of real numbers: it rounds or counts")
        if not slope >= 0:
            raise UnprovenError("its constant is NaN")
        largest = max(inputs)
        if slope != largest:
            gain = slope / largest if largest > 0 else slope
            name = getattr(n.target, "__name__", str(n.target))
            proof = functions.proof_of(n.target)
            self.rows.append(LayerBound(n.name, name, gain, proof))
        return slope

    def _function(self, n: fx.Node, result: Any) -> float:
        if any(self.slopes[node] is not None for node in _nodes(n.kwargs)):
            raise UnprovenError("signals must be positional arguments")
        if "out" in n.kwargs:
            raise UnprovenError("it writes to a tensor that others may read")
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        call = Call(args, kwargs, tuple(self._slopes(arg) for arg in n.args), result)
        if n.target in functions.SELECTIONS:
            return _selection(n, call)
        if n.target in functions.AS_MODULES:
            return functions.module_gain(call, functions.AS_MODULES[n.target], n.name)
        if n.target in functions.ARITHMETIC:
            return functions.ARITHMETIC[n.target](call)
        raise UnprovenError(
            f"{n.target} has no rule; put it into a module of your own and, with a proof, add "
            "`taut.lipschitz.register(MyLayer)(rule)`"
        )

    def _slopes(self, arg: Any) -> Any:
        if isinstance(arg, fx.Node):
            return self.slopes[arg]
        slopes = [self.slopes[node] for node in _nodes(arg)]
        return slopes if any(slope is not None for slope in slopes) else None

    def _head(self, last: Any) -> None:
        """Constants of pairs of outputs, if the model ends in a matrix.

        Another user of the matrix's output could have written over it.
        """
        if not isinstance(last, fx.Node) or last.op != "call_module" or len(last.users) != 1:
            return
        (before,) = last.all_input_nodes
        features, slope = self.env[before], self.slopes[before]
        op = operator_of(self.submodules[str(last.target)], tuple(features.shape[1:]))
        if op is not None and slope is not None and features.dim() == 2 and not op.input_size:
            self.pairwise = pairwise_constants(op.kernel, slope)


def _selection(n: fx.Node, call: Call) -> float:
    value, slope = call.args[0], call.slopes[0]
    if slope is None or any(s is not None for s in call.slopes[1:]):
        raise UnprovenError("it may only depend on the signal by what it copies")
    if not isinstance(value, Tensor):
        return slope  # one of several parts
    if any(tensor.dtype != value.dtype for tensor in _tensors(call.result)):
        raise UnprovenError("it reads the bits of the signal as another type")
    if n.op == "call_method":
        method = operator.methodcaller(str(n.target), *call.args[1:], **call.kwargs)
        gain = functions.selection_gain(method, tuple(value.shape), value.device)
    else:
        function: Any = n.target
        gain = functions.selection_gain(
            lambda numbers: function(numbers, *call.args[1:], **call.kwargs),
            tuple(value.shape),
            value.device,
        )
    return up_product(slope, up_root(float(gain)))


def _nodes(arg: Any) -> list[fx.Node]:
    found: list[fx.Node] = []
    map_arg(arg, lambda node: found.append(node) or node)
    return found


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, tuple | list):
        return [tensor for part in value for tensor in _tensors(part)]
    return []
