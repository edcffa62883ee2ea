"""GroupSort: each group of channels in ascending order."""

from typing import Any, final

import torch
from torch import Tensor, fx, nn

from taut._arguments import whole
from taut.nn.activations._along import along
from taut.program import AbstractOp, Site, op


@final
class GroupSort(nn.Module):
    r"""Sort each group of neighbouring channels in ascending order.

    Guarantee: 1-Lipschitz in l2 and gradient norm preserving: the Jacobian is a permutation.
    Cost: one sort of `group_size` values per group.

    Inputs are `(batch, channels, *spatial)`, or have their channels along `dim`; channels beyond a
    multiple of the group size do not change.

    Args:
        group_size: channels per group.
        dim: the axis of the channels.

    Raises:
        ValueError: if `group_size` is not a positive integer.

    Reference:
        Anil et al. (2019), *Sorting out Lipschitz function approximation*, arXiv:1811.05381.

    Example:
        >>> GroupSort(3)(torch.tensor([[3.0, 1.0, 2.0, 9.0, 8.0, 7.0]]))
        tensor([[1., 2., 3., 7., 8., 9.]])
    """

    def __init__(self, group_size: int, dim: int = 1) -> None:
        super().__init__()
        self.group_size = whole("group_size", group_size)
        self._dim = dim

    @property
    def dim(self) -> int:
        """The axis of the channels."""
        return self._dim

    # No shapes in the annotations: TorchScript reads them.
    def forward(self, input: Tensor) -> Tensor:
        """Apply the activation along its dimension."""
        if not torch.jit.is_scripting():  # pyright: ignore[reportPrivateImportUsage]
            return along(self._sorted, input, self._dim)
        if self._dim == 1:
            return self._sorted(input)
        return self._sorted(input.movedim(self._dim, 1)).movedim(1, self._dim)

    def _sorted(self, input: Tensor) -> Tensor:
        grouped = input.shape[1] - input.shape[1] % self.group_size
        groups = input[:, :grouped].unflatten(1, (-1, self.group_size))
        sorted_ = groups.sort(dim=2)[0].flatten(1, 2)
        if not torch.jit.is_scripting():  # pyright: ignore[reportPrivateImportUsage]
            return _joined(sorted_, input[:, grouped:])
        return torch.cat((sorted_, input[:, grouped:]), 1)

    def extra_repr(self) -> str:
        """The group size, and the axis where it is not the first behind the batch."""
        return f"group_size={self.group_size}" + ("" if self._dim == 1 else f", dim={self._dim}")


def _joined(grouped: Tensor, rest: Tensor) -> Tensor:
    # With an empty part `cat` does not keep channels last in memory.
    whole = not isinstance(rest, fx.Proxy) and not rest.shape[1]
    return grouped if whole else torch.cat((grouped, rest), 1)


@op(GroupSort)
class _GroupSortOp(AbstractOp):
    proof = "sorts channels: a permutation at each input"
    exact = True
    helper = '''
def group_sort(x, size):
    """Each group of neighbouring channels in ascending order."""
    whole = x.shape[1] - x.shape[1] % size
    groups = x[:, :whole].unflatten(1, (-1, size)).sort(2).values
    return torch.cat([groups.flatten(1, 2), x[:, whole:]], 1)
'''

    def follows(self, module: nn.Module) -> bool:
        return isinstance(module, GroupSort) and module.dim != 1

    def gains(self, site: Site) -> tuple[float, ...]:
        return (1.0,)

    def emit(self, e: Any, site: Site, *x: str) -> None:
        channels, size = site.shape[0], site.args["group_size"]
        grouped = channels - channels % size
        if not grouped:
            e.node("Identity", x)
            return
        head = x[0] if grouped == channels else e.channels("head", x[0], 0, grouped)
        groups = e.integers("groups", [0, grouped // size, size, -1])
        split = e.node("Reshape", [head, groups], "split")
        options = {"outputs": ["places"], "axis": 2, "largest": 0, "sorted": 1}
        ordered = e.node("TopK", [split, e.integers("size", [size])], "sorted", **options)
        shape = e.node("Shape", [head], "shape")
        if grouped == channels:
            e.node("Reshape", [ordered, shape])
            return
        merged = e.node("Reshape", [ordered, shape], "merged")
        e.node("Concat", [merged, e.channels("rest", x[0], grouped, channels)], axis=1)

    def source(self, site: Site, *x: str) -> str:
        return f"group_sort({x[0]}, {site.args['group_size']})"
