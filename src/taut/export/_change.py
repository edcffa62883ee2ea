"""What became of the parts of a converted model."""

from typing import NamedTuple, final

from torch import nn

__all__ = ["Change", "Converted"]


@final
class Change(NamedTuple):
    """The conversion of one layer.

    Attributes:
        name: of the layer in the model, or of a function in its forward.
        before: its type.
        after: the type of what stands there now; None where it could not be converted.
        note: what is different, or why not.
        unwritten: the kind of exported file that cannot hold it, if that is what is said.

    Example:
        >>> print(Change("act", "ReLU", "MaxMin", "keeps gradients"))
        act: ReLU -> MaxMin (keeps gradients)
    """

    name: str
    before: str
    after: str | None
    note: str = ""
    unwritten: str = ""

    def __str__(self) -> str:
        """One line."""
        became = "LEFT AS IT IS" if self.after is None else self.after
        if self.unwritten:
            became = f"NOT FOR {self.unwritten} FILES"
        return f"{self.name}: {self.before} -> {became}" + (f" ({self.note})" if self.note else "")


@final
class Converted(NamedTuple):
    """A converted model, with the change of each layer.

    Attributes:
        model: with new weights, to be trained.
        changes: one for each layer that is another one now, or should be.

    Example:
        >>> Converted(nn.ReLU(), (Change("0", "Softmax", None),)).left
        (Change(name='0', before='Softmax', after=None, note='', unwritten=''),)
    """

    model: nn.Module
    changes: tuple[Change, ...]

    @property
    def left(self) -> tuple[Change, ...]:
        """The parts that could not be converted, so that the model is not 1-Lipschitz by design."""
        return tuple(change for change in self.changes if change.after is None)

    @property
    def unwritten(self) -> tuple[Change, ...]:
        """The parts that an exported file cannot hold; known if the input shape is."""
        return tuple(change for change in self.changes if change.unwritten)

    def __repr__(self) -> str:
        """The numbers of changes, and what is left."""
        names = ", ".join(change.name for change in self.left[:5])
        more = ", ..." if len(self.left) > 5 else ""
        done = len(self.changes) - len(self.left) - len(self.unwritten)
        return f"Converted(changed: {done}, left as it is: {names or 'nothing'}{more})"

    def __str__(self) -> str:
        """The list of changes, one a line."""
        return "\n".join(map(str, self.changes))
