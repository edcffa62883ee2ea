"""A frozen model as a list of known steps: what every file format is written from and read into."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor, nn

from taut.nn import GroupSort, InvertibleDownsample2d, MaxMin, PadToMultiple2d

__all__ = ["PlainModel", "Plan", "Step", "step_name"]

Shape = tuple[int, ...]


@final
@dataclass(frozen=True)
class Step:
    """One layer or function applied to earlier values.

    Args:
        name: of the step and of the value it makes.
        kind: a class of torch.nn or taut.nn by its name; "Add", "Scale" by a number, or
            "Concatenate" along the channels.
        inputs: names of the values it takes.
        args: what the constructor of the class takes, but for sizes that the tensors tell.
        tensors: names of the tensors it holds, by their role.
        channels: how many channels the input must have to be sorted as the file says in figures.

    Example:
        >>> Step("maxmin1", "MaxMin", ("conv1",)).kind
        'MaxMin'
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    args: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, str] = field(default_factory=dict)
    channels: range | None = field(default=None, compare=False)


@final
@dataclass(frozen=True)
class Plan:
    """A model, written down.

    Args:
        steps: each after those whose values it takes; the last one gives the output.
        tensors: by name.
        source: name of the input.
        input_shape: of one input.
        any_size: whether the file leaves rows and columns of the input open.

    Example:
        >>> Plan((Step("a", "ReLU", ("x",)),), {}, "x", (3,)).steps[-1].name
        'a'
    """

    steps: tuple[Step, ...]
    tensors: Mapping[str, Tensor]
    source: str
    input_shape: Shape
    any_size: bool = False


def step_name(kind: str, tensors: Mapping[str, str], earlier: Sequence[Step]) -> str:
    """The name of a step: after its tensors, else by counting; so it survives any file format.

    Args:
        kind: of the step.
        tensors: names of those it holds, by role.
        earlier: the steps before it.

    Example:
        >>> first = step_name("ReLU", {}, [])
        >>> first, step_name("ReLU", {}, [Step(first, "ReLU", ("input",))])
        ('relu1', 'relu2')
        >>> step_name("Linear", {"weight": "dense1.weight"}, [])
        'dense1'
    """
    taken = {step.name for step in earlier}
    if "weight" in tensors:
        stem = tensors["weight"].rpartition(".")[0] or "layer"
        names = (stem if count == 1 else f"{stem}_{count}" for count in itertools.count(1))
    else:
        names = (f"{kind.lower()}{count}" for count in itertools.count(1))
    return next(name for name in names if name not in taken)


@final
class PlainModel(nn.Module):
    """The model that a plan describes, of plain modules under the names of the steps.

    Args:
        plan: written down, or read from a file.

    Raises:
        ValueError: if the steps do not fit one another or the input shape.

    Example:
        >>> step = Step("a", "Linear", ("x",), tensors={"weight": "w"})
        >>> PlainModel(Plan((step,), {"w": torch.ones(1, 2)}, "x", (2,)))(torch.ones(1, 2))
        tensor([[2.]])
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.steps, self.source, self.any_size = plan.steps, plan.source, plan.any_size
        self.shapes = {plan.source: plan.input_shape}
        parameters = {n: nn.Parameter(t, requires_grad=False) for n, t in plan.tensors.items()}
        dtype = next((t.dtype for t in plan.tensors.values()), torch.float32)
        values = {plan.source: torch.zeros(2, *plan.input_shape, dtype=dtype)}
        for step in plan.steps:
            try:
                if step.kind not in _FUNCTIONS:
                    self.add_module(step.name, _made(step, parameters))
                _check(step, [values[name] for name in step.inputs])
                values[step.name] = self._apply_step(step, values)
            except (RuntimeError, ValueError, TypeError, IndexError, KeyError) as error:
                reason = " ".join(str(error).split()).rstrip(".")
                raise ValueError(
                    f"`{step.name}` ({step.kind}) does not fit an input of shape "
                    f"{plan.input_shape} ({reason})."
                ) from None
            self.shapes[step.name] = tuple(values[step.name].shape[1:])
        self.eval()

    def forward(self, x: Any) -> Any:
        """Apply step after step, to a tensor or what torch.fx traces with."""
        values = {self.source: x}
        for step in self.steps:
            values[step.name] = self._apply_step(step, values)
        return values[self.steps[-1].name]

    def _apply_step(self, step: Step, values: Mapping[str, Any]) -> Any:
        inputs = [values[name] for name in step.inputs]
        if step.kind == "Concatenate":
            return torch.cat(inputs, 1)
        if step.kind in _FUNCTIONS:
            return _FUNCTIONS[step.kind](*inputs, *step.args.values())
        return self.get_submodule(step.name)(*inputs)


def _check(step: Step, inputs: Sequence[Tensor]) -> None:
    """Refuse what torch would broadcast, or take for something else."""
    if step.channels is not None and inputs[0].shape[1] not in step.channels:
        raise ValueError(f"it sorts other channels than the {inputs[0].shape[1]} of its input")
    if step.kind == "Add" and inputs[0].shape != inputs[1].shape:
        raise ValueError("the shapes of its inputs differ")
    if step.kind == "Linear" and inputs[0].dim() != 2:
        raise ValueError("its input must be flat")


def _made(step: Step, parameters: Mapping[str, nn.Parameter]) -> nn.Module:
    tensors = {role: parameters[name] for role, name in step.tensors.items()}
    if any(
        tensors[role].shape != tensors["weight"].shape[:1] for role in tensors.keys() - {"weight"}
    ):
        raise ValueError("its vectors must have one entry for each output")
    module = _MADE[step.kind](tensors, **step.args)
    for role in (*module._parameters, *module._buffers):
        if role not in tensors and role != "bias":
            continue
        if role in module._buffers:
            module.register_buffer(role, tensors[role].detach())
        else:
            module.register_parameter(role, tensors.get(role))
    return module.eval()


def _conv2d(tensors: Mapping[str, Tensor], **args: Any) -> nn.Conv2d:
    weight = tensors["weight"]
    if weight.dim() != 4:
        raise ValueError(f"a kernel must have 4 axes; got {tuple(weight.shape)}")
    channels = (weight.shape[1] * args["groups"], weight.shape[0])
    size = (weight.shape[2], weight.shape[3])
    return nn.Conv2d(*channels, size, **args, device="meta", dtype=weight.dtype)


def _linear(tensors: Mapping[str, Tensor]) -> nn.Linear:
    rows, columns = tensors["weight"].shape
    return nn.Linear(columns, rows, device="meta", dtype=tensors["weight"].dtype)


def _batch_norm(tensors: Mapping[str, Tensor], **args: Any) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(len(tensors["weight"]), **args)


def _stateless(kind: type[nn.Module]) -> Callable[..., nn.Module]:
    return lambda tensors, **args: kind(**args)


_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "Add": torch.add,
    "Scale": torch.mul,
    "Concatenate": torch.cat,
}
_MADE: dict[str, Callable[..., nn.Module]] = {
    "Conv2d": _conv2d,
    "Linear": _linear,
    "BatchNorm2d": _batch_norm,
} | {
    kind.__name__: _stateless(kind)
    for kind in (
        nn.ReLU, nn.Flatten, nn.ZeroPad2d, nn.AvgPool2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d,
        MaxMin, GroupSort, InvertibleDownsample2d, PadToMultiple2d,
    )
}  # fmt: skip
