"""What models that are read from files have in common."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["FileModel", "check_ends", "check_precision", "resolve_shape"]


class FileModel(nn.Module):
    """A model whose tensors have the names that they have in its file.

    Attributes:
        any_size: whether the file leaves sizes of the input open.
    """

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.any_size, self.dtype = False, dtype
        self._places: dict[str, tuple[nn.Module, str]] = {}
        # The first of the parameters, which says in what precision the model runs.
        self.register_parameter(
            "_like", nn.Parameter(torch.zeros((), dtype=dtype, device="cpu"), False)
        )
        self.eval()

    def hold(self, name: str, tensor: Tensor, key: str | None = None) -> None:
        """Keep a tensor under a name, which may have dots; another where none can have it.

        Args:
            name: in the file.
            tensor: what it stands for.
            key: of the tensor in `tensors()`, if other than its name.
        """
        *path, last = name.split(".")
        owner: nn.Module = self
        for part in path:
            inner = owner._modules.get(part)
            if inner is None and (not part or hasattr(owner, part)):
                owner, last = self, ""
                break
            if inner is None:
                inner = nn.Module()
                owner.add_module(part, inner)
            owner = inner
        if not last or hasattr(owner, last):
            names = (f"constant_{number}" for number in itertools.count(len(self._places)))
            last = next(free for free in names if not hasattr(owner, free))
        if tensor.dtype == self.dtype:
            owner.register_parameter(last, nn.Parameter(tensor, requires_grad=False))
        else:
            owner.register_buffer(last, tensor)
        self._places[name if key is None else key] = owner, last

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by their names in the file, or their keys."""
        return {name: getattr(owner, last) for name, (owner, last) in self._places.items()}


def check_ends(inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Refuse graphs that are no function of one tensor to one tensor."""
    for ends, what, instead in (
        (inputs, "inputs", "export a model that takes one of them"),
        (outputs, "outputs", "export a model that returns one of them, or torch.cat of all"),
    ):
        if len(ends) != 1:
            names = f" ({', '.join(ends[:4])})" if ends else ""
            raise ValueError(f"it has {len(ends)} {what}{names} and must have one; {instead}")


def check_precision(dtype: torch.dtype | None) -> torch.dtype:
    """The precision of an input; half precision rounds in ways that no proof here covers."""
    if dtype not in (torch.float32, torch.float64):
        name = "of another kind" if dtype is None else str(dtype).removeprefix("torch.")
        raise ValueError(f"its input is {name} and must be float32; export model.float()")
    return dtype


def resolve_shape(said: list[int | None], given: tuple[int, ...] | None) -> tuple[int, ...]:
    """The shape of one input: what was given, else what the file says."""
    shape = tuple(said) if given is None else given
    fits = len(shape) == len(said) and all(b in (None, a) for a, b in zip(shape, said, strict=True))
    if not fits or not all(isinstance(n, int) and n > 0 for n in shape):
        raise ValueError(f"`input_shape` must be of the form {said}; got {given}")
    return tuple(int(n) for n in shape if n)
