"""The interface of an attack, and the checks of its options."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import Field, dataclass, field, fields
from importlib.util import find_spec
from numbers import Integral
from typing import Any, ClassVar

from taut.attacks._objective import Batch, Labels, Objective, Radii


@dataclass(frozen=True)
class AbstractAttack(ABC):
    """A search for misclassified images in an l2 ball.

    A new attack is a frozen dataclass of its options in a file of its own, and its line in
    `taut.attacks`: `taut.attack`, the command line, the docs and the tests find it by its `kind`.
    The driver passes correctly classified images only; it clips and judges what comes back.

    Attributes:
        kind: its name for `taut.attack` and the command line.
        sees: what it asks of the model.
        library: package that it runs, of the extra `attacks`; None for an attack of taut's own.
        slow: whether it takes minutes, so that `taut attack` runs it on fewer images.

    Raises:
        ValueError: if an option is out of its range.
        ImportError: if its library is not installed.

    Example:
        >>> from taut.attacks import PGD
        >>> isinstance(PGD(), AbstractAttack), PGD.kind
        (True, 'pgd')
    """

    kind: ClassVar[str] = ""
    sees: ClassVar[str] = "gradients"
    library: ClassVar[str | None] = None
    slow: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse options with which nothing would happen, and a missing library."""
        for entry in fields(self):
            value = getattr(self, entry.name)
            if entry.metadata and not _allowed(entry, value):
                must = entry.metadata["must"]
                raise ValueError(f"`{entry.name}` must {must}; got {entry.name}={value!r}.")
        if self.library is not None and find_spec(self.library) is None:
            raise ImportError(f'This attack needs {self.library}: pip install "taut[attacks]".')

    @abstractmethod
    def perturb(self, objective: Objective, images: Batch, labels: Labels, radius: Radii) -> Batch:
        """Return a candidate for each image, within `radius` of it.

        Args:
            objective: the model: its logits, margins and their gradients.
            images: in [0, 1], each classified as its label.
            labels: true classes.
            radius: l2 radius for each image.
        """


class AbstractSmallestAttack(AbstractAttack):
    """A search for the misclassified image nearest to each image.

    It may look beyond `radius`, to which the driver clips.

    Example:
        >>> from taut.attacks import DDN, PGD
        >>> isinstance(DDN(), AbstractSmallestAttack), isinstance(PGD(), AbstractSmallestAttack)
        (True, False)
    """


def option(default: object, must: str, allows: Callable[[Any], bool]) -> Any:
    """Declare an option of an attack, and the values that it may take."""
    return field(default=default, metadata={"must": must, "allows": allows})


def count(default: int) -> Any:
    """Declare an option that counts something."""
    return option(
        default, "be an integer of at least 1", lambda n: isinstance(n, Integral) and int(n) >= 1
    )


def positive(default: float | None) -> Any:
    """Declare an option that measures something."""
    return option(default, "be positive", lambda x: x > 0)


def _allowed(entry: Field[Any], value: Any) -> bool:
    if value is None:
        return entry.default is None
    try:
        return entry.metadata["allows"](value)
    except TypeError:
        return False
