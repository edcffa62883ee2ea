"""Programs that run: the certified execution, and the models that files hold."""

from typing import Any, final

import torch
from torch import Tensor, nn

from taut.program._program import Program, Site
from taut.program._walk import operation

__all__ = ["ProgramModule", "replay"]


def replay(program: Program, x: Tensor, *, keep: dict[str, Tensor] | None = None) -> Tensor:
    """Run a program on a batch, in the precision of the batch.

    Weights are cast to it exactly where it is wider. In float64 this is the execution that
    certificates are about.

    Args:
        program: of a model.
        x: the batch; it may lie on any device.
        keep: filled with the value of each node, if given.

    Example:
        >>> program = taut.program.trace(torch.nn.Linear(2, 3), (2,))
        >>> replay(program, torch.ones(1, 2).double()).dtype
        torch.float64
    """
    values = {program.source: x}
    readers = {name: i for i, node in enumerate(program.nodes) for name in node.inputs}
    for place, site in enumerate(program.sites()):
        node = site.node
        values[node.name] = operation(site).run(
            _moved(site, x.device), *(values[n] for n in node.inputs)
        )
        if keep is None:
            for name in {n for n in node.inputs if readers[n] == place and n != program.output}:
                del values[name]
    if keep is not None:
        keep.update(values)
    return values[program.output]


def _moved(site: Site, device: torch.device) -> Site:
    if all(t.device == device for t in site.tensors.values()):
        return site
    tensors = {role: t.to(device) for role, t in site.tensors.items()}
    return Site(site.node, site.shapes, tensors, site.module)


@final
class ProgramModule(nn.Module):
    """A program as a model: its tensors are parameters that need no gradient.

    Args:
        program: of operations that need no module of the user's.
        any_size: whether the file that it was read from leaves sizes of the input open.

    Raises:
        ValueError: if the nodes do not fit one another.

    Example:
        >>> model = ProgramModule(taut.program.trace(torch.nn.Linear(2, 3), (2,)))
        >>> model(torch.ones(1, 2)).shape, sorted(model.state_dict())
        (torch.Size([1, 3]), ['bias', 'weight'])
    """

    def __init__(self, program: Program, *, any_size: bool = False) -> None:
        super().__init__()
        self.program, self.any_size = program, any_size
        for name, tensor in program.tensors.items():
            *path, last = name.split(".")
            owner: nn.Module = self
            for part in path:
                if part not in owner._modules:
                    owner.add_module(part, nn.Module())
                owner = owner._modules[part]  # pyright: ignore[reportAssignmentType]
            if tensor.is_floating_point():
                owner.register_parameter(last, nn.Parameter(tensor, requires_grad=False))
            else:
                owner.register_buffer(last, tensor)
        self.eval()

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return self.program.input_shape

    def forward(self, x: Any) -> Any:
        """Run node after node."""
        held = dict(self.named_parameters()) | dict(self.named_buffers())
        shapes, values = self.program.shapes, {self.program.source: x}
        for node in self.program.nodes:
            tensors = {role: held[name] for role, name in node.tensors.items()}
            site = Site(node, tuple(shapes[n] for n in node.inputs), tensors)
            values[node.name] = operation(site).run(site, *(values[n] for n in node.inputs))
        return values[self.program.output]
