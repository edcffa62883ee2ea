"""A training run as data: everything that decides its result, and nothing about where it runs."""

import json
import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Literal, TypeVar, final, get_args

from torch import nn

from taut.certification import as_rational
from taut.data import Augment, Holdout
from taut.losses import MultiMargin, OffsetCrossEntropy
from taut.models import ModelConfig
from taut.training.schedules import Schedule

_T = TypeVar("_T")

Precision = Literal["32-true", "bf16-mixed"]


@dataclass(frozen=True)
class MultiMarginLoss:
    """The paper's hinge loss in a recipe.

    Args:
        eps_train: the l2 radius aimed at; the margin is sqrt(2) times it.
    """

    kind: ClassVar[str] = "multi-margin"

    eps_train: float = 1.5

    def build(self) -> nn.Module:
        """The loss as a module."""
        return MultiMargin(eps_train=self.eps_train)


@dataclass(frozen=True)
class OffsetCrossEntropyLoss:
    """Offset-and-temperature cross-entropy in a recipe.

    Args:
        offset: subtracted from the logit of the true class.
        temperature: divides all logits after that.
    """

    kind: ClassVar[str] = "offset-cross-entropy"

    offset: float = 2.2
    temperature: float = 0.35

    def build(self) -> nn.Module:
        """The loss as a module."""
        return OffsetCrossEntropy(offset=self.offset, temperature=self.temperature)


@final
@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All settings of one training run, with Adam.

    Args:
        name: what reports and run folders call it.
        dataset: a name that `taut.data.load` knows.
        model: the network.
        loss: the training loss.
        lr: peak learning rate.
        schedule: how the learning rate moves over the run, with one-cycle Adam's beta1 too.
        epochs: passes over the training set.
        batch_size: images a step.
        retract_every: steps from one `taut.retract_` to the next, which keeps raw tensors
            near-orthonormal; 0 for never.
        precision: "bf16-mixed" runs layers in bfloat16 where torch's autocast does; their weights
            are computed in float32 all the same, and what is certified is the net without autocast.
        augment: random crops and flips, or None.
        holdout: what to test on, for images by class that come without a test split.
        resize: whether to bring images by class to the model's shape, scaled until they cover it
            and cropped around the middle; if not, all must have it.
        seed: decides initial weights, order and augmentation.
        eps: l2 radii, each a number or a fraction as text, at which test images are certified.

    Raises:
        ValueError: if a value is out of its range.

    Example:
        >>> recipe = Recipe(name="mine", dataset="mnist", epochs=3)
        >>> Recipe.from_json(recipe.to_json()) == recipe
        True
    """

    name: str
    dataset: str
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: MultiMarginLoss | OffsetCrossEntropyLoss = MultiMarginLoss()
    lr: float = 5e-3
    schedule: Schedule = "one-cycle"
    epochs: int = 10
    batch_size: int = 128
    retract_every: int = 16
    precision: Precision = "32-true"
    augment: Augment | None = None
    holdout: Holdout | None = None
    resize: bool = False
    seed: int = 0
    eps: tuple[str, ...] = ("0.3", "1.58")

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1; got {getattr(self, name)}.")
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise ValueError(f"`lr` must be a positive number; got {self.lr}.")
        for name in ("seed", "retract_every"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must be at least 0; got {getattr(self, name)}.")
        for name, choices in (("schedule", Schedule), ("precision", Precision)):
            if getattr(self, name) not in get_args(choices):
                allowed = ", ".join(get_args(choices))
                raise ValueError(f"`{name}` must be one of {allowed}; got {getattr(self, name)!r}.")
        for eps in self.eps:
            _check_eps(eps)
        self.loss.build()  # its own checks

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """What images are brought to; None where they have their shape."""
        return self.model.input_shape if self.resize else None

    def to_json(self) -> str:
        """The recipe as indented JSON that `from_json` reads back."""
        values = asdict(self)
        values["loss"] = {"kind": self.loss.kind, **values["loss"]}
        return json.dumps(values, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Recipe":
        """The recipe that `to_json` wrote.

        Args:
            text: a JSON object; fields left out take their default.

        Returns:
            The recipe, its values checked.

        Raises:
            ValueError: if the text is no recipe: the message says why.
        """
        try:
            values = _object("recipe", json.loads(text))
        except RecursionError:
            raise ValueError("A recipe cannot be nested that deeply.") from None
        if "model" in values:
            model = _object("model", values["model"])
            if "input_shape" in model:
                model["input_shape"] = _list("input_shape", model["input_shape"])
            values["model"] = _construct(ModelConfig, model)
        if "loss" in values:
            loss = _object("loss", values["loss"])
            values["loss"] = _construct(_loss_class(loss.pop("kind", None)), loss)
        for name, part in (("augment", Augment), ("holdout", Holdout)):
            if values.get(name) is not None:
                values[name] = _construct(part, _object(name, values[name]))
        if "eps" in values:
            values["eps"] = _list("eps", values["eps"])
        return _construct(cls, values)


def _object(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"`{name}` must be a JSON object; got {value!r}.")
    return dict(value)


def _list(name: str, value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise ValueError(f"`{name}` must be a JSON list; got {value!r}.")
    return tuple(value)


def _construct(cls: type[_T], values: dict[str, Any]) -> _T:
    known = {field.name for field in fields(cls)}  # pyright: ignore[reportArgumentType]
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(
            f"`{unknown[0]}` is no setting of {cls.__name__}; it has {', '.join(sorted(known))}."
        )
    try:
        return cls(**values)
    except TypeError as error:
        raise ValueError(f"{cls.__name__} cannot be made of {values}: {error}.") from None


def _loss_class(kind: Any) -> type[MultiMarginLoss] | type[OffsetCrossEntropyLoss]:
    classes = {cls.kind: cls for cls in (MultiMarginLoss, OffsetCrossEntropyLoss)}
    if not isinstance(kind, str) or kind not in classes:
        raise ValueError(f"`kind` of the loss must be one of {', '.join(classes)}; got {kind!r}.")
    return classes[kind]


def _check_eps(eps: str) -> None:
    try:
        # As a number of double precision, too: attacks and charts take it as one.
        positive = isinstance(eps, str) and float(as_rational(eps)) > 0
    except (ValueError, OverflowError):
        positive = False
    if not positive:
        raise ValueError(
            f'`eps` must hold positive numbers as text, such as "1.58" or "36/255"; got {eps!r}.'
        )
