"""What models that are read from files have in common."""

from torch import Tensor, nn

__all__ = ["FileModel", "resolve_shape"]


class FileModel(nn.Module):
    """A model whose tensors have the names that they have in its file.

    Attributes:
        any_size: whether the file leaves sizes of the input open.
    """

    def __init__(self) -> None:
        super().__init__()
        self.any_size = False
        self._places: dict[str, tuple[nn.Module, str]] = {}
        self.eval()

    def hold(self, name: str, tensor: Tensor) -> None:
        """Keep a tensor under a name, which may have dots."""
        *path, last = name.split(".")
        owner: nn.Module = self
        for part in path:
            if not hasattr(owner, part):
                owner.add_module(part or "_", nn.Module())
            owner = getattr(owner, part or "_")
        if not isinstance(owner, nn.Module) or hasattr(owner, last):
            raise ValueError(f"`{name}` cannot be the name of a tensor")
        if tensor.is_floating_point():
            owner.register_parameter(last, nn.Parameter(tensor, requires_grad=False))
        else:
            owner.register_buffer(last, tensor)
        self._places[name] = owner, last

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by their names in the file."""
        return {name: getattr(owner, last) for name, (owner, last) in self._places.items()}


def resolve_shape(said: list[int | None], given: tuple[int, ...] | None) -> tuple[int, ...]:
    """The shape of one input: what was given, else what the file says."""
    shape = tuple(said) if given is None else given
    fits = len(shape) == len(said) and all(b in (None, a) for a, b in zip(shape, said, strict=True))
    if not fits or not all(isinstance(n, int) and n > 0 for n in shape):
        raise ValueError(f"`input_shape` must be of the form {said}; got {given}")
    return tuple(int(n) for n in shape if n)
