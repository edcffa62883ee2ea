"""A plan as a program of torch.export."""

import math
from typing import TYPE_CHECKING, Any

import torch

from taut.deploy.plan import PlainModel, Plan

if TYPE_CHECKING:
    from torch.export import ExportedProgram

__all__ = ["program_of"]


def program_of(plan: Plan, *, any_size: bool = False) -> "ExportedProgram":
    """The exported program that computes what a plan says; its batch is of any size.

    Args:
        plan: of float32 or float64 tensors.
        any_size: whether rows and columns are left open, too: in multiples of all strides together.

    Raises:
        ValueError: if the model takes no other sizes.

    Example:
        >>> from taut.deploy.plan import Step
        >>> program = program_of(Plan((Step("a", "ReLU", ("input",)),), {}, "input", (3,)))
        >>> program.module()(torch.tensor([[-1.0, 0.0, 1.0]]))
        tensor([[0., 0., 1.]])
    """
    from torch._dynamo.exc import UserError  # slow to import

    dims: dict[int, Any] = {0: torch.export.Dim("batch")}
    sizes = list(plan.input_shape)
    if any_size:
        for axis, name in enumerate(("height", "width")):
            multiple = _multiple(plan, axis)
            dims[axis + 2] = multiple * torch.export.Dim(name, min=2)
            sizes[axis + 1] = multiple * max(3, math.ceil(sizes[axis + 1] / multiple))
    dtype = next((tensor.dtype for tensor in plan.tensors.values()), torch.float32)
    model, x = PlainModel(plan), torch.zeros(2, *sizes, dtype=dtype)
    try:
        program = torch.export.export(model, (x,), dynamic_shapes=(dims,), strict=False)
    except (UserError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"The model cannot be exported for open sizes ({reason}).") from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine, which nobody needs
    return program


def _multiple(plan: Plan, axis: int) -> int:
    """All strides along an axis together: sizes that they divide need no padding."""
    product = 1
    for step in plan.steps:
        steps = step.args.get("stride", step.args.get("factor", 1) if step.kind != "Scale" else 1)
        product *= steps[axis] if isinstance(steps, tuple) else steps
    return product
